"""All URLs, each once: bounded downloads at a time, in all and per host, with retries.

Knows nothing of what is kept of an outcome, nor of where.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from urllib.parse import urlsplit

from crawlers.fetch.client import Client, Outcome
from crawlers.fetch.hosts import Host

Keep = Callable[[str, Outcome, int], Awaitable[None]]
"""Called once per URL with what became of it and the number of attempts that took."""


async def download(
    urls: Iterable[str],
    client: Client,
    keep: Keep,
    *,
    concurrency: int,
    concurrency_per_host: int,
    max_attempts: int,
    backoff_s: float,
) -> None:
    """Ask for every URL and hand each outcome to ``keep``.

    What may pass (429, 5xx, time-outs, connection errors) is tried again, up to ``max_attempts``. A host that
    fails too often in a row is given up: its other URLs get the status ``given_up`` without being asked.

    Args:
        urls: distinct.
        client: makes one attempt.
        keep: takes the outcomes, in any order.
        concurrency: downloads at once. A URL counts for the host that it names, wherever that redirects to.
        concurrency_per_host: likewise, per host; a URL that waits for its next attempt counts here only.
        max_attempts: per URL, the first one included.
        backoff_s: longest wait before the second attempt; doubled for each one after it.
    """
    urls_of: defaultdict[str, list[str]] = defaultdict(list)
    for url in urls:
        urls_of[_host(url)].append(url)
    slots = asyncio.Semaphore(concurrency)

    async def work_off(queue: Iterator[str], host: Host) -> None:
        for url in queue:
            attempts = 0
            outcome = Outcome("given_up", lasting=False)
            while attempts < max_attempts and not outcome.lasting and not host.given_up:
                if attempts:
                    await host.back_off(attempts, outcome.retry_after_s)
                await host.wait()
                async with slots:
                    outcome = await client.get(url)
                attempts += 1
            if attempts:
                host.finished(lasting=outcome.lasting)
            await keep(url, outcome, attempts)

    async with asyncio.TaskGroup() as tasks:
        for its_urls in urls_of.values():
            random.shuffle(its_urls)  # a folder of dead pictures must not look like a dead host
            queue, host = iter(its_urls), Host(backoff_s)
            for _ in range(min(concurrency_per_host, len(its_urls))):
                tasks.create_task(work_off(queue, host))


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # the client says what is wrong with it
        return ""
