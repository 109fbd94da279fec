"""A shop of 6,000 products in its own process, and processes that crawl it and fetch its images.

``python -m tests.support.big_shop shop`` prints its port; the other commands take a folder and that port. All
run as processes so that a test can kill them and the shop uses no CPU time of the test process.
"""

import asyncio
import json
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

from aiohttp import web

from atlas_model.core.processes import die_with_parent
from crawlers.crawl.run import crawl
from crawlers.fetch.collect import image_urls
from crawlers.fetch.images import fetch_images
from crawlers.fetch.spool import Spool
from crawlers.http.host_limits import HostProfile
from crawlers.sources.csv_sources import Source
from tests.support.servers import HOST

PRODUCTS = 6_000
CATEGORIES = 10
PER_PAGE = 100
IMAGES = 3  # per product: two that it shares with others, one of its own
PAGES = PRODUCTS // CATEGORIES // PER_PAGE
AGENT = "Atlas/0 (+https://example.org)"
FAST = HostProfile(delay_s=0, concurrency=16, autothrottle=False)


def image_urls_of(number: int) -> list[str]:
    """The URLs of the images of product ``number``."""
    return [f"http://{HOST}/i/{name}.png" for name in (f"own-{number}", f"a-{number % 50}", f"b-{number % 70}")]


def listing(category: int, page: int) -> str:
    """A page of a category: its products in JSON-LD, and a link to the next page."""
    first = (category * PAGES + page) * PER_PAGE
    tiles = [{"@type": "ListItem", "url": f"/p/{number}"} for number in range(first, first + PER_PAGE)]
    link = f'<link rel="next" href="/c/{category}?page={page + 1}">' if page + 1 < PAGES else ""
    data = json.dumps({"@type": "ItemList", "itemListElement": tiles})
    return f'<html><head>{link}<script type="application/ld+json">{data}</script></head></html>'


def product(number: int) -> str:
    """The page of product ``number``, in JSON-LD."""
    data: dict[str, object] = {
        "@type": "Product",
        "name": f"Product {number}",
        "sku": f"A{number}",
        "image": image_urls_of(number),
    }
    data["offers"] = {"price": f"{number / 100:.2f}", "priceCurrency": "EUR"}
    return f'<html><head><script type="application/ld+json">{json.dumps(data)}</script></head></html>'


def image(name: str) -> bytes:
    """A PNG of one pixel with a comment that makes its bytes unique."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, comment = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), b"Comment\0" + name.encode()
    body = (
        chunk(b"IHDR", header) + chunk(b"tEXt", comment) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def shop() -> None:
    """Serve the shop until the process is killed; prints the port."""
    asked: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        path = request.path_qs
        if path in ("/asked", "/total"):
            return web.json_response(asked if path == "/asked" else asked.total())
        asked[path] += 1
        kind, _, name = request.path[1:].partition("/")
        if kind == "p":
            return web.Response(text=product(int(name)), content_type="text/html")
        if kind == "c":
            return web.Response(text=listing(int(name), int(request.query.get("page", 0))), content_type="text/html")
        if kind == "i":
            return web.Response(body=image(name), content_type="image/png")
        return web.Response(status=404)

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


def crawl_it(folder: Path, port: int) -> None:
    """Crawl the shop into ``folder`` and print the result as JSON."""
    sources = [Source(HOST, ("Things", f"C{one}"), f"http://{HOST}/c/{one}") for one in range(CATEGORIES)]
    result = crawl(
        sources,
        output=folder / "products.parquet",
        folder=folder / "crawl",
        user_agent=AGENT,
        connect_map={HOST: ("127.0.0.1", port)},
        max_pages_per_category=PAGES + 1,
        max_attempts=3,
        timeout_s=30,
        profiles={HOST: FAST},
    )
    print(json.dumps({"products": result.products, "dropped": result.dropped, "faults": result.category_faults}))


def fetch_it(folder: Path, port: int) -> None:
    """Fetch the images of the crawl in ``folder`` and print the result as JSON."""
    with Spool(folder / "fetch") as spool:
        report = fetch_images(
            image_urls(folder / "products.parquet"),
            spool,
            snapshot="one",
            reuse="never",
            connect_map={HOST: ("127.0.0.1", port)},
            user_agent=AGENT,
            concurrency=32,
            concurrency_per_host=32,
            max_attempts=3,
            timeout_s=30,
            max_bytes=10_000,
            max_pixels=100,
            max_failed_share=0,
            obey_robots=False,
            robots_tags=(),
        )
    print(json.dumps({"images": report.images, "statuses": report.statuses}))


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    if what == "shop":
        die_with_parent()
        shop()
    else:
        {"crawl": crawl_it, "fetch": fetch_it}[what](Path(given[0]), int(given[1]))
