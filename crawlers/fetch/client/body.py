"""Reading of response bodies with bounds on their size, also after decompression, and on memory.

Images are requested without compression, but some servers compress them anyway.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

import aiohttp

from crawlers.fetch.client.outcome import FetchRefusedError
from crawlers.http.content import ContentError, Decoder
from crawlers.http.robots_txt import MAX_BYTES as MAX_ROBOTS_BYTES
from crawlers.http.session import GuardedResponse, encodings

IN_MEMORY_BYTES = 1_000_000  # a larger body is written to disk


class Body:
    """Temporary buffer of one body. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._file = SpooledTemporaryFile(IN_MEMORY_BYTES, dir=str(folder))  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    async def fill(self, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        """Read the body of ``response``.

        Raises:
            FetchRefusedError: the body is larger than ``max_bytes``, or cannot be decompressed.
        """
        if (response.content_length or 0) > max_bytes:
            raise FetchRefusedError("too_large")
        size = 0
        async for chunk in decoded_chunks(response):
            size += len(chunk)
            if size > max_bytes:
                raise FetchRefusedError("too_large")
            self._file.write(chunk)

    def read(self) -> bytes:
        """The whole body."""
        self._file.seek(0)
        return self._file.read()


async def decoded_chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The decompressed body, chunk by chunk; the caller bounds time and size.

    Raises:
        FetchRefusedError: the body is not compressed as stated, or is a decompression bomb.
    """
    try:
        decoder = Decoder(encodings(response))
        async for chunk in response.content.iter_any():
            for part in decoder.feed(chunk):
                yield part
            if decoder.over:
                return  # trailing data is ignored
        decoder.end()
    except ContentError as error:
        raise FetchRefusedError(error.reason) from None


async def read_robots_txt(response: GuardedResponse) -> bytes:
    """The body of a robots.txt, up to the limit of its size.

    Raises:
        FetchRefusedError: as in `decoded_chunks`, or it goes on after its stated length, so that rules are missing.
    """
    content = bytearray()
    async for chunk in decoded_chunks(response):
        content += chunk
        if len(content) >= MAX_ROBOTS_BYTES:
            return bytes(content)
    if response.has_surplus:
        raise FetchRefusedError("truncated")
    return bytes(content)
