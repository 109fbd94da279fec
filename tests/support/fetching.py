"""An image server with correct and, on request, faulty responses; and fetching from it."""

import asyncio
import io
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from aiohttp import web
from PIL import Image

from atlas_model.data.schemas import PRODUCTS, write_table
from crawlers.fetch.images import FetchReport, fetch_images
from crawlers.fetch.index import UrlStatus
from crawlers.fetch.spool import Spool

HOST = "images.test"
MAX_BYTES = 100_000
MAX_PIXELS = 1_000_000


def jpeg(seed: int | str, side: int = 24) -> bytes:
    """A small JPEG image that depends on ``seed``."""
    pixels = np.random.default_rng(list(str(seed).encode())).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(data, "JPEG")
    return data.getvalue()


Answer = Callable[["Server", web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Counts requests; ``/images/<name>`` is an image, other paths respond as `ODD` defines."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()  # by path
        self.times: dict[str, list[float]] = {}
        self.headers: list[dict[str, str]] = []
        self.in_flight: Counter[str] = Counter()  # by host
        self.most_in_flight: Counter[str] = Counter()
        self.delay_s = 0.0
        self.hang_after: int | None = None  # requests; later ones get no response
        self.odd: dict[str, Answer] = {}
        self.port = 0

    @property
    def connect_map(self) -> dict[str, tuple[str, int]]:
        return dict.fromkeys((HOST, "other.test"), ("127.0.0.1", self.port))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path, host = request.raw_path, request.host
        self.asked[path] += 1
        self.times.setdefault(path, []).append(time.monotonic())
        self.headers.append(dict(request.headers))
        for key in (host, "all"):
            self.in_flight[key] += 1
            self.most_in_flight[key] = max(self.most_in_flight[key], self.in_flight[key])
        try:
            if self.hang_after is not None and self.asked.total() > self.hang_after:
                await asyncio.sleep(600)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if request.path in self.odd:
                return await self.odd[request.path](self, request)
            return web.Response(body=jpeg(path), content_type="image/jpeg")
        finally:
            self.in_flight.subtract((host, "all"))


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Run ``server`` in a thread."""
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", server.answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        started.set()
        await stop.wait()
        await runner.cleanup()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as asyncio_runner:
            asyncio_runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def url(path: str, host: str = HOST) -> str:
    """The URL of ``path`` on the image server."""
    return f"http://{host}{path}"


class Images(NamedTuple):
    """The result of fetching."""

    report: FetchReport
    fetched: dict[str, UrlStatus]  # by URL, sorted

    @property
    def statuses(self) -> dict[str, str]:
        return {url: found.status for url, found in self.fetched.items()}


def options(server: Server, **changes: Any) -> dict[str, Any]:
    """Arguments of `fetch_images` for ``server``, with ``changes``."""
    return {
        "snapshot": "one",
        "reuse": "validate",
        "connect_map": server.connect_map,
        "user_agent": "Atlas/test",
        "concurrency": 16,
        "concurrency_per_host": 16,
        "max_attempts": 2,
        "timeout_s": 5.0,
        "max_bytes": MAX_BYTES,
        "max_pixels": MAX_PIXELS,
        "max_failed_share": 1.0,
        "obey_robots": False,
        "robots_tags": ["noai"],
        "backoff_s": 0.01,
    } | changes


def get(server: Server, urls: list[str], folder: Path, **changes: Any) -> Images:
    """Fetch ``urls`` into a spool in ``folder``, and close the spool."""
    with Spool(folder / "spool") as spool:
        report = fetch_images(urls, spool, **options(server, **changes))
        return Images(report, {url: spool.lookup(url) for url in sorted(set(urls))})


def write_products(path: Path, urls: dict[str, list[str]]) -> Path:
    """A table of products and the URLs of their images."""
    rows = [
        {
            "product_id": name,
            "site": "x",
            "title": name,
            "breadcrumb": [],
            "taxonomy": ["A"],
            "details": [],
            "image_urls": its,
        }
        for name, its in sorted(urls.items())
    ]
    write_table(path, pa.Table.from_pylist(rows, schema=PRODUCTS), PRODUCTS)
    return path


def with_status(status: int, body: bytes | None = None, /, **headers: str) -> Answer:
    """Responds with ``status``."""

    async def answer(server: Server, request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=jpeg("not a word") if body is None else body, headers=headers)

    return answer


def with_body(body: bytes, content_type: str = "image/jpeg") -> Answer:
    """Responds with ``body``."""

    async def answer(server: Server, request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type)

    return answer


def moved(location: str) -> Answer:
    """Redirects to ``location``."""
    return with_status(302, Location=location)


def fails_first(times: int, status: int = 500, **headers: str) -> Answer:
    """Responds to the first requests with ``status``, to later ones with an image."""

    async def answer(server: Server, request: web.Request) -> web.StreamResponse:
        if server.asked[request.raw_path] <= times:
            return web.Response(status=status, headers=headers)
        return web.Response(body=jpeg(request.raw_path))

    return answer
