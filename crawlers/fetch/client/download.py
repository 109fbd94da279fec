"""All URLs, each once: some hosts at a time, bounded downloads from each, with retries.

Knows nothing of what is kept of an outcome, nor of where, and never holds the list of URLs.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from crawlers.fetch.client.client import Client
from crawlers.fetch.client.hosts import Host
from crawlers.fetch.client.outcome import FetchOutcome, ImageRequest

MAX_HOSTS = 256  # asked at once; some wait between two attempts, so it is more than the downloads at once


class Queue(Protocol):
    """What is to be asked for."""

    def hosts(self) -> Iterator[str]:
        """Each host once."""

    def pending(self, host: str) -> Iterator[ImageRequest]:
        """Its URLs, shuffled: a folder of dead images must not look like a dead host."""


Keep = Callable[[ImageRequest, FetchOutcome, int], None]
"""Called once per URL with what became of it and the number of attempts that took."""


async def download(
    queue: Queue, client: Client, keep: Keep, *, concurrency_per_host: int, max_attempts: int, backoff_s: float
) -> None:
    """Ask for every URL and hand each outcome to ``keep``.

    What is transient (`crawlers.http.policy`) is tried again, up to ``max_attempts``. A host that fails too often in a
    row, or asks for a long break, is given up: its other URLs get the status ``given_up`` without being asked.

    Args:
        queue: a URL counts for the host that it names, wherever that redirects to.
        client: makes one attempt; bounds the downloads at once.
        keep: takes the outcomes, in any order.
        concurrency_per_host: downloads at once from one host; URLs that wait for their next attempt count as well.
        max_attempts: per URL, the first one included.
        backoff_s: longest wait before the second attempt; doubled for each one after it.
    """
    places = asyncio.Semaphore(MAX_HOSTS)

    async def work_off(urls: Iterator[ImageRequest], host: Host) -> None:
        for request in urls:
            attempts = 0
            outcome = FetchOutcome.failed("given_up")
            while attempts < max_attempts and not outcome.permanent and not host.given_up:
                if attempts:
                    await host.back_off(attempts)
                await host.wait()
                outcome = await client.get(request)
                host.answered(outcome.retry_after_s)
                attempts += 1
            if attempts:
                host.finished(permanent=outcome.permanent)
            keep(request, outcome, attempts)

    async def ask(name: str) -> None:
        urls, host = queue.pending(name), Host(backoff_s)
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency_per_host):
                workers.create_task(work_off(urls, host))
        places.release()

    async with asyncio.TaskGroup() as tasks:
        for name in queue.hosts():
            await places.acquire()
            tasks.create_task(ask(name))
