"""From URLs to a spool that holds their pictures, with a count of everything.

Knows nothing of products; `collect` makes the outputs.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from atlas_model.errors import RetryError
from atlas_model.progress import Progress
from crawlers.connect import ConnectMap
from crawlers.fetch.client import Client, Outcome
from crawlers.fetch.download import download
from crawlers.fetch.spool import Place, Spool

BACKOFF_S = 0.5  # longest wait before a second attempt


class Fetched(NamedTuple):
    """What became of a URL."""

    status: str  # as in `client.Outcome`
    image_id: str | None  # this and place: only where status is ok
    place: Place | None  # in the spool


@dataclass(frozen=True)
class Report:
    """Counts of a run; each distinct URL counts once."""

    urls: int
    spooled: int  # URLs that an earlier, interrupted run had asked for
    pictures: int  # distinct ones
    statuses: dict[str, int]
    bytes: int  # of all URLs with status ok
    retries: int
    seconds: float  # downloads of this run, the collecting left out
    pictures_per_s: float | None  # URLs asked for in this run by its seconds

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Pictures:
    """All that `fetch_pictures` found."""

    spool: Spool  # holds the bytes
    fetched: dict[str, Fetched]  # by URL, sorted
    report: Report


def fetch_pictures(
    urls: Iterable[str],
    spool_folder: Path,
    *,
    connect_map: ConnectMap,
    user_agent: str,
    concurrency: int,
    concurrency_per_host: int,
    max_attempts: int,
    timeout_s: float,
    max_bytes: int,
    max_pixels: int,
    max_failed_share: float,
    backoff_s: float = BACKOFF_S,
) -> Pictures:
    """Ask for every URL that the spool does not have, and keep what comes there.

    ``urls`` may repeat. The spool in ``spool_folder`` is of one snapshot (or manifest) and no other. The keywords
    are those of `Client` and `download`; ``max_failed_share`` says how much of the URLs may fail in a way that may
    pass before that is an error.

    Raises:
        RetryError: no URL gave a picture, or more than ``max_failed_share`` failed in a way that may pass.
    """
    spool = Spool(spool_folder, max_bytes=max_bytes, max_pixels=max_pixels)
    client = Client(
        connect_map=connect_map,
        user_agent=user_agent,
        timeout_s=timeout_s,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
    )
    wanted = sorted(set(urls))
    missing = [url for url in wanted if url not in spool.entries]
    tally = _Tally(spool)
    started = time.monotonic()
    asyncio.run(
        tally.fill(
            missing,
            client,
            concurrency=concurrency,
            concurrency_per_host=concurrency_per_host,
            max_attempts=max_attempts,
            backoff_s=backoff_s,
        )
    )
    seconds = time.monotonic() - started
    fetched = {url: tally.fetched(url) for url in wanted}
    statuses = Counter(picture.status for picture in fetched.values())
    counts = ", ".join(f"{status} {count}" for status, count in statuses.most_common())
    if wanted and not statuses["ok"]:
        remedy = ". A host in a network of your own has to be named in crawl.connect" if statuses["blocked"] else ""
        raise RetryError(f"none of {len(wanted)} picture URLs gave a picture: {counts}{remedy}")
    failed = sum(status != "blocked" for status in tally.passing.values())
    if failed > max_failed_share * len(wanted):
        raise RetryError(
            f"{failed} of {len(wanted)} picture URLs failed in a way that may pass ({counts}). Run again later: what "
            "has come is kept and not asked for twice. To go on without them, raise fetch.max_failed_share."
        )
    report = Report(
        urls=len(wanted),
        spooled=len(wanted) - len(missing),
        pictures=len({picture.image_id for picture in fetched.values()} - {None}),
        statuses=dict(sorted(statuses.items())),
        bytes=sum(spool.entries[url].size for url, picture in fetched.items() if picture.status == "ok"),
        retries=tally.retries,
        seconds=round(seconds, 3),
        pictures_per_s=round(len(missing) / seconds, 1) if missing else None,
    )
    return Pictures(spool, fetched, report)


class _Tally:
    """Takes the outcomes of a run: the lasting ones into the spool, the others into a dict."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.passing: dict[str, str] = {}  # URL -> status
        self._ok = 0
        self.retries = 0

    async def fill(self, urls: list[str], client: Client, **limits: Any) -> None:
        """`download` all of ``urls``; whatever ends it, what has come is in the spool."""
        with Progress("fetch", len(urls), "pictures") as progress:

            async def keep(url: str, outcome: Outcome, attempts: int) -> None:
                await self._keep(url, outcome)
                self.retries += max(0, attempts - 1)
                progress.advance(1, ok=self._ok, retries=self.retries)

            flushing = asyncio.create_task(self._spool.flush_regularly())
            try:
                async with client:
                    await download(urls, client, keep, **limits)
            finally:
                flushing.cancel()
                with suppress(asyncio.CancelledError):
                    await flushing
                self._spool.flush()

    async def _keep(self, url: str, outcome: Outcome) -> None:
        self._ok += outcome.status == "ok"
        if outcome.lasting and outcome.status != "blocked":  # the next run may be allowed to ask
            await self._spool.add(url, outcome)
        else:
            self.passing[url] = outcome.status

    def fetched(self, url: str) -> Fetched:
        """What became of ``url``, in this run or before it."""
        entry = self._spool.entries.get(url)
        if entry is None:
            return Fetched(self.passing[url], None, None)
        return Fetched(entry.status, entry.image_id, entry.place if entry.image_id else None)
