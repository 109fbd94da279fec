"""The body of an answer, bounded: in bytes, also after decompression, and in the memory that it takes.

We ask for no compression (images are compressed), yet some servers do it. Knows nothing of what is in a body.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

import aiohttp

from crawlers.fetch.client.outcome import FetchRefusedError
from crawlers.http.content import ContentError, Decoder
from crawlers.http.session import encodings

IN_MEMORY_BYTES = 1_000_000  # a larger body goes to disk while it comes


class Body:
    """Bytes on their way; a context manager, after which they are gone."""

    def __init__(self, folder: Path) -> None:
        self._file = SpooledTemporaryFile(IN_MEMORY_BYTES, dir=str(folder))  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    async def fill(self, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        """Take the body of ``response``.

        Raises:
            FetchRefusedError: it is larger than ``max_bytes``, or wrongly or outrageously compressed.
        """
        if (response.content_length or 0) > max_bytes:
            raise FetchRefusedError("too_large")
        size = 0
        async for chunk in decoded(response):
            size += len(chunk)
            if size > max_bytes:
                raise FetchRefusedError("too_large")
            self._file.write(chunk)

    def read(self) -> bytes:
        """All of it."""
        self._file.seek(0)
        return self._file.read()


async def decoded(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes, its Content-Encoding undone; a deadline, and how much is taken, are the caller's matter.

    Raises:
        FetchRefusedError: it is not compressed as it says, or as nothing honest is.
    """
    try:
        decoder = Decoder(encodings(response))
        async for chunk in response.content.iter_any():
            for part in decoder.feed(chunk):
                yield part
            if decoder.over:
                return  # what may follow is nobody's
        decoder.end()
    except ContentError as error:
        raise FetchRefusedError(error.reason) from None
