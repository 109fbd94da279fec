"""Downloads all URLs of a queue with retries, with a limited number of hosts and of downloads per host."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from crawlers.fetch.client.client import Client
from crawlers.fetch.client.hosts import Host
from crawlers.fetch.client.outcome import FetchOutcome, ImageRequest

MAX_HOSTS = 256  # concurrent hosts; more than downloads, because some hosts wait between attempts


class Queue(Protocol):
    """Source of the requests."""

    def hosts(self) -> Iterator[str]:
        """The distinct hosts."""

    def pending(self, host: str) -> Iterator[ImageRequest]:
        """The host's requests, shuffled so that a folder of missing images does not look like a dead host."""


Keep = Callable[[ImageRequest, FetchOutcome, int], None]
"""Called once per URL with its outcome and the number of attempts."""


async def download(
    queue: Queue, client: Client, keep: Keep, *, concurrency_per_host: int, max_attempts: int, backoff_s: float
) -> None:
    """Fetch every URL and pass each outcome to ``keep``.

    Transient failures (`crawlers.http.policy`) are retried up to ``max_attempts``. A host with too many consecutive
    failures, or with a long Retry-After, is given up: its other URLs get the status ``given_up`` without a request.

    Args:
        queue: the requests by host, regardless of redirects to other hosts.
        client: makes one attempt; bounds the concurrent downloads.
        keep: receives the outcomes, in any order.
        concurrency_per_host: concurrent downloads per host, including URLs that wait for a retry.
        max_attempts: attempts per URL, including the first.
        backoff_s: longest wait (s) before the second attempt; doubled for each further one.
    """
    places = asyncio.Semaphore(MAX_HOSTS)

    async def work_off(urls: Iterator[ImageRequest], host: Host) -> None:
        for request in urls:
            attempts = 0
            outcome = FetchOutcome.failed("given_up")
            while attempts < max_attempts and not outcome.permanent and not host.given_up:
                if attempts:
                    await host.back_off(attempts)
                outcome = await client.get(request)
                host.record_retry_after(outcome.retry_after_s)
                attempts += 1
            if attempts:
                host.record_result(permanent=outcome.permanent)
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
