"""A body as it is meant: its Content-Encoding undone, piece by piece, within bounds (RFC 9110, 8.4.1).

What names no compression (``UTF-8``, ``binary``, ``aws-chunked``, as object stores keep what they were once told) is
none, as in browsers. Deflate may come without zlib's header. What is compressed must come whole: a part of a list is
not the list. Knows no client.
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

ACCEPTED = "gzip, deflate, br, zstd"  # for pages; images are compressed already
MAX_ENCODINGS = 2  # one on top of the other
MAX_RATIO = 100  # of decompressed bytes to compressed ones; pages and images reach 20
RATIO_FROM_BYTES = 1_000_000  # a smaller body does no harm
PIECE_BYTES = 262_144  # given at once

GZIP = b"\x1f\x8b"
COMPRESSIONS = {"gzip", "x-gzip", "deflate", "br", "zstd"}
UNKNOWN_COMPRESSIONS = {"brotli", "bzip2", "compress", "x-compress", "dcb", "dcz", "exi", "lzma", "xz", "pack200-gzip"}

Decompress = Callable[[bytes], Iterator[bytes]]


class ContentError(Exception):
    """A body that is not what its headers say; ``reason``: bad_encoding, truncated, decompression_bomb or too_large."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Decoder:
    """Undoes the encodings of one body.

    Args:
        encodings: the values of all its Content-Encoding headers.

    Raises:
        ContentError: ``bad_encoding``: there are too many, or one that nobody here can undo.
    """

    def __init__(self, encodings: Iterable[str]) -> None:
        names = [name.strip().lower() for value in encodings for name in value.split(",")]
        names = [name for name in names if name in COMPRESSIONS or name in UNKNOWN_COMPRESSIONS]
        if len(names) > MAX_ENCODINGS or UNKNOWN_COMPRESSIONS.intersection(names):
            raise ContentError("bad_encoding")
        self._layers = [_Layer(name) for name in reversed(names)]

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the next piece of the body means.

        Raises:
            ContentError: ``bad_encoding``, ``decompression_bomb``.
        """
        yield from self._through(data, 0)

    @property
    def over(self) -> bool:
        """Whether nothing that may still come belongs to the body."""
        return any(layer.over for layer in self._layers)

    def end(self) -> None:
        """The body has ended.

        Raises:
            ContentError: ``truncated``: not where it should.
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


def decoded(body: bytes, encodings: Iterable[str], max_bytes: int) -> bytes:
    """``body``, whole.

    Raises:
        ContentError: as `Decoder`; ``too_large``: it is larger than ``max_bytes``.
    """
    content, fault = decoded_as_far(body, encodings, max_bytes)
    if fault is not None:
        raise ContentError(fault)
    return content


def decoded_as_far(body: bytes, encodings: Iterable[str], max_bytes: int) -> tuple[bytes, str | None]:
    """``body`` as far as it can be read, and the reason of a `ContentError` where that is not its end."""
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
    """One encoding."""

    def __init__(self, name: str) -> None:
        kinds: dict[str, Callable[[], Any]] = {"deflate": _Deflate, "br": _Brotli, "zstd": _Zstd}
        self._stream = kinds.get(name, _Gzip)()
        self.taken = self._given = 0

    @property
    def whole(self) -> bool:
        """Whether it could end here."""
        return bool(self._stream.whole)

    @property
    def over(self) -> bool:
        """Whether it must end here."""
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
    """Members one behind the other are one file (RFC 1952, 2.2); what else may follow one is nobody's."""

    def __init__(self) -> None:
        self._member: Any = zlib.decompressobj(31)
        self._behind = b""  # the last member; too little yet to know what it is
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
    """zlib's format, or what is in it, as some servers send; the first bytes do not always tell which."""

    def __init__(self) -> None:
        self._stream: Any = zlib.decompressobj(15)
        self._first: bytes | None = b""  # all so far, until something came of it

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
    """Frames one behind the other are one file (RFC 8878, 3.1)."""

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
    """What a decompressor of zlib makes of ``data``, not all at once."""
    while data and not stream.eof:
        if part := stream.decompress(data, PIECE_BYTES):
            yield part
        data = stream.unconsumed_tail
