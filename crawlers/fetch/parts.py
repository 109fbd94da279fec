"""Fetches a queue in several processes: each part of the hosts gets its own spool, which is merged afterwards.

All URLs of a host are in one part, and one process fetches a part, so the limits of a host (concurrency, delays,
robots.txt) hold for any number of processes. `FetchConfig.concurrency` applies to each process.

Finished parts are merged in order. Parts of an interrupted run are merged before the next run.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heapify, heapreplace
from pathlib import Path

from atlas_model.core.progress import Progress
from crawlers.fetch.asking import FetchConfig, FetchCounts, fetch_queue
from crawlers.fetch.index import Plan
from crawlers.fetch.spool import Spool

ParallelMap = Callable[[Callable[[Path], FetchCounts], Sequence[Path]], Iterable[FetchCounts]]
"""Same interface as `map`."""

MOST_PARTS = 64  # each costs the creation and merging of a spool

FOLDER = "parts"  # subfolder of the spool's folder


def fetch_in_parts(spool: Spool, plan: Plan, config: FetchConfig, parallel_map: ParallelMap) -> FetchCounts:
    """Like `asking.fetch_queue`, in the processes of ``parallel_map``, which can access the folder of ``spool``."""
    parts = []
    for number, hosts in enumerate(_balanced(spool.queue_sizes())):
        parts.append(spool.folder / FOLDER / f"{number:03d}")
        spool.export_queue(parts[-1], hosts)
    total = FetchCounts()
    with Progress("fetch", sum(spool.queue_sizes().values()), "images") as progress:
        for part, counts in zip(parts, parallel_map(partial(fetch_part, plan=plan, config=config), parts), strict=True):
            _merge(spool, part)
            total = total.plus(counts)
            progress.advance(counts.asked, retries=total.retries)
    return total


def fetch_part(folder: Path, *, plan: Plan, config: FetchConfig) -> FetchCounts:
    """Fetch the part in ``folder``, or the rest of it if it was interrupted."""
    with Spool(folder) as spool:
        return fetch_queue(spool, spool.resume(plan), config)


def merge_parts(spool: Spool) -> None:
    """Merge the parts that an interrupted run left."""
    for part in sorted(spool.folder.glob(f"{FOLDER}/*")):
        _merge(spool, part)


def _merge(spool: Spool, folder: Path) -> None:
    with Spool(folder) as part:
        spool.merge(part)
    shutil.rmtree(folder)


def _balanced(sizes: dict[str, int]) -> list[list[str]]:
    """Distribute hosts to parts with about the same number of URLs."""
    parts: list[tuple[int, int, list[str]]] = [(0, number, []) for number in range(min(MOST_PARTS, len(sizes)))]
    heapify(parts)
    for host in sorted(sizes, key=lambda host: (-sizes[host], host)):
        size, number, hosts = parts[0]
        heapreplace(parts, (size + sizes[host], number, [*hosts, host]))
    return [hosts for _, _, hosts in sorted(parts, key=lambda part: part[1])]
