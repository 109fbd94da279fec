"""From URLs to a spool that holds their pictures, with a count of everything.

Knows nothing of products; `collect` makes the outputs.
"""

import asyncio
import hashlib
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from atlas_model.errors import PictureError, RetryError
from atlas_model.progress import Progress
from crawlers.connect import ConnectMap
from crawlers.fetch.check import check
from crawlers.fetch.client import Client
from crawlers.fetch.download import download
from crawlers.fetch.index import Plan, Reuse
from crawlers.fetch.outcome import Outcome, Wanted
from crawlers.fetch.spool import FLUSH_S, Spool

BACKOFF_S = 0.5  # longest wait before a second attempt
LOOKUPS = 64  # of names, at once


@dataclass(frozen=True)
class Report:
    """Counts of a run; each distinct URL counts once."""

    urls: int
    spooled: int  # URLs that needed no asking: an earlier run had their answer
    unchanged: int  # URLs whose server said that the picture of an earlier snapshot has not changed
    pictures: int  # distinct ones
    statuses: dict[str, int]
    bytes: int  # of all URLs with status ok
    retries: int
    seconds: float  # downloads of this run, the collecting left out
    pictures_per_s: float | None  # URLs asked for in this run by its seconds

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def fetch_pictures(
    urls: Iterable[str],
    spool: Spool,
    *,
    snapshot: str,
    reuse: Reuse,
    connect_map: ConnectMap,
    user_agent: str,
    concurrency: int,
    concurrency_per_host: int,
    max_attempts: int,
    timeout_s: float,
    max_bytes: int,
    max_pixels: int,
    max_failed_share: float,
    obey_robots: bool,
    robots_tags: Collection[str],
    backoff_s: float = BACKOFF_S,
) -> Report:
    """Ask for every URL whose answer ``spool`` does not have, and keep what comes there.

    ``urls`` may repeat. What was asked for in ``snapshot`` is not asked for again, unless it failed in a way that
    may pass; ``reuse`` says what to do with the pictures of other snapshots (what gave none there is asked for
    again). The other keywords are those of `Client` and `download`; ``max_failed_share`` says how much of the URLs
    may fail in a way that may pass before that is an error.

    Raises:
        RetryError: no URL gave a picture, or more than ``max_failed_share`` failed in a way that may pass.
    """
    wanted, missing = spool.begin(urls, Plan(snapshot, reuse, max_bytes, max_pixels))

    def take(data: bytes) -> Outcome:
        try:
            info = check(data, max_pixels)
        except PictureError as error:
            return Outcome(error.status, lasting=True)
        image_id = hashlib.sha256(data).hexdigest()
        spool.store(image_id, data, info)
        return Outcome("ok", lasting=True, image_id=image_id)

    client = Client(
        take,
        spool.folder,
        connect_map=connect_map,
        user_agent=user_agent,
        concurrency=concurrency,
        timeout_s=timeout_s,
        max_bytes=max_bytes,
        obey_robots=obey_robots,
        robots_tags=robots_tags,
    )
    tally = _Tally(spool)
    limits = {"concurrency_per_host": concurrency_per_host, "max_attempts": max_attempts, "backoff_s": backoff_s}
    started = time.monotonic()
    asyncio.run(tally.fill(client, missing, **limits))
    seconds = time.monotonic() - started

    statuses = spool.statuses()
    _check_enough(spool, wanted, statuses, max_failed_share)
    pictures, size = spool.totals()
    return Report(
        urls=wanted,
        spooled=wanted - missing,
        unchanged=tally.unchanged,
        pictures=pictures,
        statuses=statuses,
        bytes=size,
        retries=tally.retries,
        seconds=round(seconds, 3),
        pictures_per_s=round(missing / seconds, 1) if missing else None,
    )


def _check_enough(spool: Spool, wanted: int, statuses: dict[str, int], max_failed_share: float) -> None:
    counts = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items(), key=lambda item: -item[1]))
    if wanted and "ok" not in statuses:
        remedy = ". A host in a network of your own has to be named in crawl.connect" if "blocked" in statuses else ""
        raise RetryError(f"none of {wanted} picture URLs gave a picture: {counts}{remedy}")
    failed = spool.passing()
    if failed > max_failed_share * wanted:
        raise RetryError(
            f"{failed} of {wanted} picture URLs failed in a way that may pass ({counts}). Run again later: what "
            "has come is kept and not asked for twice. To go on without them, raise fetch.max_failed_share."
        )


class _Tally:
    """Hands the outcomes of a run to the spool, and counts."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ok = self.unchanged = self.retries = 0

    async def fill(self, client: Client, total: int, **limits: Any) -> None:
        """`download` all that the spool has in its queue; whatever ends it, what has come is kept."""
        # Names are looked up in threads, and a slow one must not keep the others waiting.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(LOOKUPS, "lookup"))
        with Progress("fetch", total, "pictures") as progress:

            def keep(wanted: Wanted, outcome: Outcome, attempts: int) -> None:
                self._spool.keep(wanted, outcome)
                self._ok += outcome.status == "ok"
                self.unchanged += outcome.unchanged
                self.retries += max(0, attempts - 1)
                progress.advance(1, ok=self._ok, retries=self.retries)

            flushing = asyncio.create_task(self._flush_regularly())
            try:
                async with client:
                    await download(self._spool, client, keep, **limits)
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
