"""Entry point of a fetch: downloads URLs into a spool, checks the share of failures, and reports counts."""

import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from atlas_model.core.errors import RetryError
from atlas_model.core.progress import say
from crawlers.fetch.asking import FetchConfig, fetch_queue
from crawlers.fetch.index import Plan, Reuse
from crawlers.fetch.parts import ParallelMap, fetch_in_parts, merge_parts
from crawlers.fetch.spool import Spool
from crawlers.http.address_guard import ConnectMap
from crawlers.http.policy import IMAGE_BACKOFF_S


@dataclass(frozen=True)
class FetchReport:
    """Counts of a run; each distinct URL counts once."""

    urls: int
    spooled: int  # URLs that were not requested, because an earlier run has their result
    unchanged: int  # URLs whose server responded that the image of an earlier snapshot is unchanged
    images: int  # distinct images
    statuses: dict[str, int]
    bytes: int  # of all URLs with status ok
    retries: int
    seconds: float  # time of the downloads, without writing the outputs
    images_per_s: float | None  # URLs requested in this run, divided by its seconds

    def to_json(self) -> dict[str, Any]:
        """The counts as metrics."""
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
    parallel_map: ParallelMap | None = None,
) -> FetchReport:
    """Fetch every URL whose result ``spool`` does not have, and store the results there.

    ``urls`` may repeat. URLs that were requested in ``snapshot`` are not requested again, except after transient
    failures. ``reuse`` decides about images of other snapshots; URLs without an image there are requested again.
    ``max_failed_share`` is the largest accepted share of URLs with transient failures. ``parallel_map`` fetches parts
    of the queue in other processes (see `parts`); None: this process fetches all. The other arguments are those of
    `Client` and `download`.

    Raises:
        RetryError: no URL yielded an image, or more than ``max_failed_share`` had transient failures.
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
    merge_parts(spool)  # parts of an interrupted run
    wanted, missing = spool.begin(urls, plan)

    started = time.monotonic()
    counts = (
        fetch_queue(spool, missing, config)
        if parallel_map is None
        else fetch_in_parts(spool, plan, config, parallel_map)
    )
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
        remedy = ". Name hosts in your own network in crawl.connect" if "blocked" in statuses else ""
        raise RetryError(f"none of {wanted} image URLs yielded an image: {counts}{remedy}")
    failed = spool.transient_failures()
    if failed > max_failed_share * wanted:
        raise RetryError(
            f"{failed} of {wanted} image URLs had transient failures or no valid response ({counts}). Run again later: "
            "the images fetched so far are kept. To continue without the others, raise fetch.max_failed_share."
        )
    if failed:
        say(
            f"warning: fetch: {failed} of {wanted} image URLs failed ({counts}), fewer than fetch.max_failed_share "
            "allows; their images are missing"
        )
