"""The body of an answer, bounded: in bytes, also after decompression, and in the memory that it takes.

We ask for no compression (pictures are compressed), yet some servers do it. Knows nothing of what is in a body.
"""

import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

import aiohttp

from crawlers.fetch.outcome import RefusedError

IN_MEMORY_BYTES = 1_000_000  # a larger body goes to disk while it comes
MAX_RATIO = 100  # of decompressed bytes to compressed ones; pictures reach 20 when they are not compressed themselves
RATIO_FROM_BYTES = 1_000_000  # a smaller body does no harm
WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Body:
    """Bytes on their way; a context manager, after which they are gone."""

    def __init__(self, folder: Path) -> None:
        self._file = SpooledTemporaryFile(IN_MEMORY_BYTES, dir=folder)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    async def fill(self, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        """Take the body of ``response``.

        Raises:
            RefusedError: it is larger than ``max_bytes``, or wrongly or outrageously compressed.
        """
        if (response.content_length or 0) > max_bytes:
            raise RefusedError("too_large")
        size = 0
        async for chunk in decoded(response):
            size += len(chunk)
            if size > max_bytes:
                raise RefusedError("too_large")
            self._file.write(chunk)

    def read(self) -> bytes:
        """All of it."""
        self._file.seek(0)
        return self._file.read()


async def decoded(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes, its Content-Encoding undone; a deadline, and how much is taken, are the caller's matter.

    Raises:
        RefusedError: it is not compressed as it says, or as nothing honest is.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    chunks = response.content.iter_any()
    if encoding in ("identity", ""):
        async for chunk in chunks:
            yield chunk
        return
    if encoding not in WBITS:
        raise RefusedError("bad_encoding")
    decoder = zlib.decompressobj(WBITS[encoding])
    taken = given = 0
    try:
        async for chunk in chunks:
            taken += len(chunk)
            while chunk:
                part = decoder.decompress(chunk, IN_MEMORY_BYTES)
                given += len(part)
                if given > max(RATIO_FROM_BYTES, MAX_RATIO * taken):
                    raise RefusedError("decompression_bomb")
                yield part
                chunk = decoder.unconsumed_tail
            if decoder.eof:  # what may follow is nobody's
                return
    except zlib.error:
        raise RefusedError("bad_encoding") from None
    raise RefusedError("truncated")
