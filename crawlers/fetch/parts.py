"""Asking in parts: the URLs of some hosts, with a spool of their own, for whoever comes; then back into the one spool.

A host is in one part, and a part is one process's, so that what is promised to a host (requests at once, pauses, its
robots.txt) holds however many processes ask. `FetchConfig.concurrency` is of each of them.

What a part has got is taken in when it is done, in the order of the parts; and before the next run if this one is
killed. Knows nothing of who asks.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heapify, heapreplace
from pathlib import Path

from atlas_model.core.progress import Progress
from crawlers.fetch.asking import Counts, FetchConfig, ask
from crawlers.fetch.index import Plan
from crawlers.fetch.spool import Spool

Spread = Callable[[Callable[[Path], Counts], Sequence[Path]], Iterable[Counts]]
"""Like `map`."""

MOST_PARTS = 64  # each is one spool to make and to take in

FOLDER = "parts"  # in the folder of the spool


def ask_in_parts(spool: Spool, plan: Plan, config: FetchConfig, spread: Spread) -> Counts:
    """As `asking.ask`, by those among whom ``spread`` spreads it: they see the folder of ``spool``."""
    parts = []
    for number, hosts in enumerate(_shared_out(spool.queue_sizes())):
        parts.append(spool.folder / FOLDER / f"{number:03d}")
        spool.hand_out(parts[-1], hosts)
    total = Counts()
    with Progress("fetch", sum(spool.queue_sizes().values()), "images") as progress:
        for part, counts in zip(parts, spread(partial(ask_part, plan=plan, config=config), parts), strict=True):
            _take_in(spool, part)
            total = total.plus(counts)
            progress.advance(counts.asked, retries=total.retries)
    return total


def ask_part(folder: Path, *, plan: Plan, config: FetchConfig) -> Counts:
    """Ask for what was handed out to ``folder``, as far as nobody has."""
    with Spool(folder) as spool:
        return ask(spool, spool.go_on(plan), config)


def take_in_parts(spool: Spool) -> None:
    """Take in what parts were left by a run that was killed."""
    for part in sorted(spool.folder.glob(f"{FOLDER}/*")):
        _take_in(spool, part)


def _take_in(spool: Spool, folder: Path) -> None:
    with Spool(folder) as part:
        spool.take_in(part)
    shutil.rmtree(folder)


def _shared_out(sizes: dict[str, int]) -> list[list[str]]:
    """Hosts in parts that are about as large as each other, by the URLs of each host."""
    parts: list[tuple[int, int, list[str]]] = [(0, number, []) for number in range(min(MOST_PARTS, len(sizes)))]
    heapify(parts)
    for host in sorted(sizes, key=lambda host: (-sizes[host], host)):
        size, number, hosts = parts[0]
        heapreplace(parts, (size + sizes[host], number, [*hosts, host]))
    return [hosts for _, _, hosts in sorted(parts, key=lambda part: part[1])]
