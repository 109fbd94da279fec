"""Incremental, bounded decoding of Content-Encoding (RFC 9110, 8.4.1).

As in browsers, values that are no compression (``UTF-8``, ``binary``, ``aws-chunked``) are ignored, and deflate may
lack the zlib header. A truncated compressed body is an error, because part of a listing must not pass as the whole.
"""

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ACCEPTED = "gzip, deflate, br, zstd"  # Accept-Encoding for pages; images are requested without compression
MAX_ENCODINGS = 2  # nested encodings
MAX_RATIO = 100  # decompressed to compressed bytes; real pages and images reach 20
RATIO_FROM_BYTES = 1_000_000  # decompressed size from which the ratio is checked
PIECE_BYTES = 262_144  # largest piece that is yielded at once

GZIP = b"\x1f\x8b"
COMPRESSIONS = {"gzip", "x-gzip", "deflate", "br", "zstd"}
UNKNOWN_COMPRESSIONS = {"brotli", "bzip2", "compress", "x-compress", "dcb", "dcz", "exi", "lzma", "xz", "pack200-gzip"}

Decompress = Callable[[bytes], Iterator[bytes]]


class ContentError(Exception):
    """The body cannot be decoded; ``reason`` is bad_encoding, truncated, decompression_bomb or too_large."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Decoder:
    """Decoder of one body.

    Args:
        encodings: the values of all its Content-Encoding headers.

    Raises:
        ContentError: ``bad_encoding``: too many encodings, or an unsupported one.
    """

    def __init__(self, encodings: Iterable[str]) -> None:
        names = [name.strip().lower() for value in encodings for name in value.split(",")]
        names = [name for name in names if name in COMPRESSIONS or name in UNKNOWN_COMPRESSIONS]
        if len(names) > MAX_ENCODINGS or UNKNOWN_COMPRESSIONS.intersection(names):
            raise ContentError("bad_encoding")
        self._layers = [_Layer(name) for name in reversed(names)]

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next piece of the body.

        Raises:
            ContentError: ``bad_encoding``, ``decompression_bomb``.
        """
        yield from self._through(data, 0)

    @property
    def over(self) -> bool:
        """Whether the body is complete, so that further data is trailing data."""
        return any(layer.over for layer in self._layers)

    def end(self) -> None:
        """Check that the body is complete; call at its end.

        Raises:
            ContentError: ``truncated``.
        """
        if any(layer.taken and not layer.whole for layer in self._layers):
            raise ContentError("truncated")

    def _through(self, data: bytes, place: int) -> Iterator[bytes]:
        if place == len(self._layers):
            if data:
                yield data
            return
        for part in self._layers[place].feed(data):
            yield from self._through(part, place + 1)


def decode_body(body: bytes, encodings: Iterable[str], max_bytes: int) -> bytes:
    """Decode ``body``.

    Raises:
        ContentError: as in `Decoder`, or ``too_large`` if it exceeds ``max_bytes``.
    """
    content, fault = decode_partially(body, encodings, max_bytes)
    if fault is not None:
        raise ContentError(fault)
    return content


def decode_partially(body: bytes, encodings: Iterable[str], max_bytes: int) -> tuple[bytes, str | None]:
    """Decode as much of ``body`` as possible; returns also the reason of the `ContentError`, if there is one."""
    content = bytearray()
    try:
        decoder = Decoder(encodings)
        for part in decoder.feed(body):
            content += part
            if len(content) > max_bytes:
                return bytes(content[:max_bytes]), "too_large"
        decoder.end()
    except ContentError as error:
        return bytes(content), error.reason
    return bytes(content), None


class _Layer:
    """Decoder of one encoding."""

    def __init__(self, name: str) -> None:
        kinds: dict[str, Callable[[], Any]] = {"deflate": _Deflate, "br": _Brotli, "zstd": _Zstd}
        self._stream = kinds.get(name, _Gzip)()
        self.taken = self._given = 0

    @property
    def whole(self) -> bool:
        """Whether the data so far is a complete stream."""
        return bool(self._stream.whole)

    @property
    def over(self) -> bool:
        """Whether no more data may belong to the stream."""
        return bool(self._stream.over)

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.taken += len(data)
        try:
            for part in self._stream.feed(data):
                self._given += len(part)
                if self._given > max(RATIO_FROM_BYTES, MAX_RATIO * self.taken):
                    raise ContentError("decompression_bomb")
                yield part
        except (zlib.error, brotli.error, zstd.ZstdError, EOFError):
            raise ContentError("bad_encoding") from None


class _Gzip:
    """gzip: concatenated members are one file (RFC 1952, 2.2); other trailing data is ignored."""

    def __init__(self) -> None:
        self._member: Any = zlib.decompressobj(31)
        self._behind = b""  # data after the last member, too short to identify yet
        self.over = False

    @property
    def whole(self) -> bool:
        return bool(self.over or self._member.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self.over:
            if self._member.eof:
                self._behind += data
                if len(self._behind) < len(GZIP) and GZIP.startswith(self._behind):
                    return
                if not self._behind.startswith(GZIP):
                    self.over = True
                    return
                data, self._behind, self._member = self._behind, b"", zlib.decompressobj(31)
            yield from _pieces(self._member, data)
            data = self._member.unused_data


class _Deflate:
    """deflate: zlib format or raw deflate, which the first bytes do not always distinguish."""

    def __init__(self) -> None:
        self._stream: Any = zlib.decompressobj(15)
        self._first: bytes | None = b""  # all input, until the first output

    @property
    def whole(self) -> bool:
        return bool(self._stream.eof)

    over = whole

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._stream.eof:
            return
        if self._first is None:
            yield from _pieces(self._stream, data)
            return
        self._first += data
        try:
            for part in _pieces(self._stream, data):
                self._first = None
                yield part
        except zlib.error:
            if self._first is None:
                raise
            data, self._first, self._stream = self._first, None, zlib.decompressobj(-15)
            yield from _pieces(self._stream, data)


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    @property
    def whole(self) -> bool:
        return bool(self._stream.is_finished())

    over = whole

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.whole:
            return
        part = self._stream.process(data, output_buffer_limit=PIECE_BYTES)
        yield part
        while not self.whole and not self._stream.can_accept_more_data():
            yield self._stream.process(b"", output_buffer_limit=PIECE_BYTES)


class _Zstd:
    """zstd: concatenated frames are one file (RFC 8878, 3.1)."""

    over = False

    def __init__(self) -> None:
        self._frame: Any = zstd.ZstdDecompressor()

    @property
    def whole(self) -> bool:
        return bool(self._frame.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._frame.eof:
                self._frame = zstd.ZstdDecompressor()
            part = self._frame.decompress(data, PIECE_BYTES)
            yield part
            while not self._frame.eof and (part or not self._frame.needs_input):
                part = self._frame.decompress(b"", PIECE_BYTES)
                yield part
            data = self._frame.unused_data if self._frame.eof else b""


def _pieces(stream: Any, data: bytes) -> Iterator[bytes]:
    """The output of a zlib decompressor for ``data``, in pieces."""
    while data and not stream.eof:
        if part := stream.decompress(data, PIECE_BYTES):
            yield part
        data = stream.unconsumed_tail
