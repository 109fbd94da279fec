"""The compared clients, each a program: ``python -m benchmarks.fetching.clients NAME PORT COUNT FOLDER``.

Each downloads ``COUNT`` images and stores their bytes in ``FOLDER``; img2dataset has its own program (`measure`).
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crawlers.fetch.client.outcome import FetchOutcome, ImageRequest

CONCURRENCY = 64
THREADS = 32
SMALL = "small/"


def urls(port: int, count: int, prefix: str = "") -> Iterator[str]:
    """The URLs to download."""
    return (f"http://127.0.0.1:{port}/{prefix}{number:05d}.jpg" for number in range(count))


def sequential(port: int, count: int, folder: Path) -> None:
    """urllib, one image after the other, as in the original project."""
    from urllib.request import urlopen

    for url in urls(port, count):
        with urlopen(url) as response:
            (folder / url.rpartition("/")[2]).write_bytes(response.read())


def requests_threads(port: int, count: int, folder: Path) -> None:
    """`requests`, 32 threads, one Session."""
    import requests
    from requests.adapters import HTTPAdapter

    with requests.Session() as session, ThreadPoolExecutor(THREADS) as pool:
        session.mount("http://", HTTPAdapter(pool_maxsize=THREADS))

        def one(url: str) -> None:
            (folder / url.rpartition("/")[2]).write_bytes(session.get(url, timeout=30).content)

        for _ in pool.map(one, urls(port, count)):
            pass


def scrapy_files(port: int, count: int, folder: Path) -> None:
    """Scrapy's FilesPipeline with high concurrency and no throttling."""
    import scrapy
    from scrapy.crawler import CrawlerProcess

    class Spider(scrapy.Spider):
        name = "images"

        async def start(self) -> AsyncIterator[dict[str, list[str]]]:
            for url in urls(port, count):  # an item of all of them would open a connection for each at once
                yield {"file_urls": [url]}

    settings = {
        "ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1},
        "FILES_STORE": str(folder),
        "CONCURRENT_ITEMS": CONCURRENCY,
        "CONCURRENT_REQUESTS": CONCURRENCY,
        "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENCY,
        "DOWNLOAD_DELAY": 0,
        "LOG_LEVEL": "ERROR",
        "TELNETCONSOLE_ENABLED": False,
        "ROBOTSTXT_OBEY": False,
    }
    process = CrawlerProcess(settings)
    process.crawl(Spider)
    process.start()


def bare_aiohttp(port: int, count: int, folder: Path) -> None:
    """Only aiohttp, writing files: no address checks, validation or retries."""
    import aiohttp

    async def download() -> None:
        waiting = urls(port, count)

        async def work(session: aiohttp.ClientSession) -> None:
            for url in waiting:
                async with session.get(url) as response:
                    (folder / url.rpartition("/")[2]).write_bytes(await response.read())

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:
            await asyncio.gather(*(work(session) for _ in range(CONCURRENCY)))

    asyncio.run(download())


def atlas(port: int, count: int, folder: Path, prefix: str = "") -> None:
    """The stage fetch: address checks, robots.txt, validation, spool, and writing of Parquet."""
    from crawlers.fetch.collect import write_images
    from crawlers.fetch.images import fetch_images
    from crawlers.fetch.spool import Spool

    with Spool(folder / "spool") as spool:
        report = fetch_images(
            urls(port, count, prefix),
            spool,
            snapshot="benchmark",
            reuse="validate",
            connect_map={"127.0.0.1": ("127.0.0.1", port)},
            user_agent="Atlas/benchmark",
            concurrency=CONCURRENCY,
            concurrency_per_host=CONCURRENCY,
            max_attempts=4,
            timeout_s=30,
            max_bytes=20_000_000,
            max_pixels=40_000_000,
            max_failed_share=0.0,
            obey_robots=True,
            robots_tags=["noai", "noimageai", "noindex"],
        )
        assert report.images == count, report
        write_images(folder / "shards", spool, 1024)


def atlas_small(port: int, count: int, folder: Path) -> None:
    """The stage fetch on many small images; prints ``<images> <resident MB>`` twice per second."""
    import psutil

    from crawlers.fetch import spool as module

    kept = [0]
    keep = module.Spool.keep

    def counting(spool: module.Spool, request: "ImageRequest", outcome: "FetchOutcome") -> None:
        kept[0] += 1
        keep(spool, request, outcome)

    def watch() -> None:
        while not ended.wait(0.5) and kept[0] < count:
            print(kept[0], psutil.Process().memory_info().rss / 1e6, flush=True)

    module.Spool.keep = counting  # type: ignore[assignment, method-assign]  # to count
    ended = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        atlas(port, count, folder, SMALL)
    finally:
        ended.set()
        watcher.join()


CLIENTS: dict[str, Callable[[int, int, Path], None]] = {
    client.__name__: client for client in (sequential, requests_threads, scrapy_files, bare_aiohttp, atlas, atlas_small)
}

if __name__ == "__main__":
    CLIENTS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
