"""From URLs to a spool that holds their images, with a count of everything.

Knows nothing of products; `collect` makes the outputs.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from atlas_model.core.errors import RetryError
from crawlers.fetch.asking import FetchConfig, ask
from crawlers.fetch.index import Plan, Reuse
from crawlers.fetch.parts import Spread, ask_in_parts, take_in_parts
from crawlers.fetch.spool import Spool
from crawlers.http.address_guard import ConnectMap
from crawlers.http.policy import IMAGE_BACKOFF_S


@dataclass(frozen=True)
class FetchReport:
    """Counts of a run; each distinct URL counts once."""

    urls: int
    spooled: int  # URLs that needed no asking: an earlier run had their answer
    unchanged: int  # URLs whose server said that the image of an earlier snapshot has not changed
    images: int  # distinct ones
    statuses: dict[str, int]
    bytes: int  # of all URLs with status ok
    retries: int
    seconds: float  # downloads of this run, the collecting left out
    images_per_s: float | None  # URLs asked for in this run by its seconds

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def fetch_images(
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
    backoff_s: float = IMAGE_BACKOFF_S,
    spread: Spread | None = None,
) -> FetchReport:
    """Ask for every URL whose answer ``spool`` does not have, and keep what comes there.

    ``urls`` may repeat. What was asked for in ``snapshot`` is not asked for again, unless it failed in a way that
    may pass; ``reuse`` says what to do with the images of other snapshots (what gave none there is asked for
    again). The other keywords are those of `Client` and `download`; ``max_failed_share`` says how much of the URLs
    may fail in a way that may pass before that is an error. With ``spread`` others do the asking (see `parts`).

    Raises:
        RetryError: no URL gave an image, or more than ``max_failed_share`` failed in a way that may pass.
    """
    config = FetchConfig(
        connect_map=connect_map,
        user_agent=user_agent,
        concurrency=concurrency,
        concurrency_per_host=concurrency_per_host,
        max_attempts=max_attempts,
        timeout_s=timeout_s,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        obey_robots=obey_robots,
        robots_tags=robots_tags,
        backoff_s=backoff_s,
    )
    plan = Plan(snapshot, reuse, max_bytes, max_pixels)
    take_in_parts(spool)  # of a run that was killed
    wanted, missing = spool.begin(urls, plan)

    started = time.monotonic()
    counts = ask(spool, missing, config) if spread is None else ask_in_parts(spool, plan, config, spread)
    seconds = time.monotonic() - started

    statuses = spool.statuses()
    _check_enough(spool, wanted, statuses, max_failed_share)
    images, size = spool.totals()
    return FetchReport(
        urls=wanted,
        spooled=wanted - missing,
        unchanged=counts.unchanged,
        images=images,
        statuses=statuses,
        bytes=size,
        retries=counts.retries,
        seconds=round(seconds, 3),
        images_per_s=round(missing / seconds, 1) if missing else None,
    )


def _check_enough(spool: Spool, wanted: int, statuses: dict[str, int], max_failed_share: float) -> None:
    counts = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items(), key=lambda item: -item[1]))
    if wanted and "ok" not in statuses:
        remedy = ". A host in a network of your own has to be named in crawl.connect" if "blocked" in statuses else ""
        raise RetryError(f"none of {wanted} image URLs gave an image: {counts}{remedy}")
    failed = spool.transient_failures()
    if failed > max_failed_share * wanted:
        raise RetryError(
            f"{failed} of {wanted} image URLs failed in a way that may pass ({counts}). Run again later: what "
            "has come is kept and not asked for twice. To go on without them, raise fetch.max_failed_share."
        )
