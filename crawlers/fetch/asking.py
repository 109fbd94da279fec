"""Fetches all URLs in the queue of one spool, in one process."""

import asyncio
import hashlib
import math
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from atlas_model.core.errors import ImageError
from atlas_model.core.progress import Progress
from atlas_model.core.threads import ThreadPool
from crawlers.fetch.check import check
from crawlers.fetch.client.client import Client
from crawlers.fetch.client.download import download
from crawlers.fetch.client.outcome import FetchOutcome, ImageRequest
from crawlers.fetch.spool import FLUSH_S, Spool
from crawlers.http.address_guard import ConnectMap

LOOKUPS = 64  # concurrent DNS lookups


@dataclass(frozen=True)
class FetchConfig:
    """Settings of a fetch; the fields are arguments of `Client` and `download`, and ``max_pixels`` of `check`."""

    connect_map: ConnectMap
    user_agent: str
    concurrency: int
    concurrency_per_host: int
    max_attempts: int
    timeout_s: float
    max_bytes: int
    max_pixels: int
    obey_robots: bool
    robots_tags: Collection[str]
    backoff_s: float


class FetchCounts(NamedTuple):
    """Counts of one or more calls of `fetch_queue`."""

    asked: int = 0  # requested URLs
    unchanged: int = 0  # URLs whose server responded that the stored image is unchanged
    retries: int = 0

    def plus(self, other: "FetchCounts") -> "FetchCounts":
        """The sum of both."""
        return FetchCounts(*map(sum, zip(self, other, strict=True)))


def fetch_queue(spool: Spool, total: int, config: FetchConfig) -> FetchCounts:
    """Fetch each of the ``total`` URLs in the queue of ``spool``."""

    def take(data: bytes) -> FetchOutcome:
        try:
            info = check(data, config.max_pixels)
        except ImageError as error:
            return FetchOutcome(error.status, permanent=True)
        image_id = hashlib.sha256(data).hexdigest()
        spool.store(image_id, data, info)
        return FetchOutcome("ok", permanent=True, image_id=image_id)

    client = Client(
        take,
        spool.folder,
        connect_map=config.connect_map,
        user_agent=config.user_agent,
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
        max_bytes=config.max_bytes,
        obey_robots=config.obey_robots,
        robots_tags=config.robots_tags,
        patience_s=math.inf,  # a longer Retry-After than the policy's limit gives up the host instead
    )
    tally = _Tally(spool)
    asyncio.run(tally.fill(client, total, config))
    return FetchCounts(total, tally.unchanged, tally.retries)


class _Tally:
    """Passes outcomes to the spool, and counts them."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ok = self.unchanged = self.retries = 0

    async def fill(self, client: Client, total: int, config: FetchConfig) -> None:
        """`download` the whole queue; on any exception the results so far are stored."""
        # DNS lookups run in threads; with the default number a slow one would delay the others.
        asyncio.get_running_loop().set_default_executor(ThreadPool(LOOKUPS, "lookup"))
        with Progress("fetch", total, "images") as progress:

            def keep(request: ImageRequest, outcome: FetchOutcome, attempts: int) -> None:
                self._spool.keep(request, outcome)
                self._ok += outcome.status == "ok"
                self.unchanged += outcome.unchanged
                self.retries += max(0, attempts - 1)
                progress.advance(1, ok=self._ok, retries=self.retries)

            limits = {"concurrency_per_host": config.concurrency_per_host, "max_attempts": config.max_attempts}
            flushing = asyncio.create_task(self._flush_regularly())
            try:
                async with client:
                    await download(self._spool, client, keep, **limits, backoff_s=config.backoff_s)
            finally:
                flushing.cancel()
                with suppress(asyncio.CancelledError):
                    await flushing
                self._spool.flush()
                self._spool.write_status()

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._spool.flush()
