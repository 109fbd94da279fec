"""Measures what parsing, rate limits, address checks and the journal add to a crawl of pages: CPU and pages per second.

Baseline: a minimal Scrapy spider with Scrapy's default settings that sends the same requests with the same concurrency
and does not parse the responses. Each run is a separate process, measured from its start to its end (with imports, and
for Atlas also products.parquet). The shop is another process, whose work is not measured. The two run in turns, and
medians are compared. The pages have the size and mark-up of shops on common platforms.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

from benchmarks.report import report

HOST = "shop.bench.test"
PRODUCTS, PER_PAGE = 1200, 24
CONCURRENCY = 16
RUNS = 5
FILLER = "<div class='row'><a href='/about/{0}'><span class='label'>Information {0}</span></a></div>\n"


def listing_path(page: int) -> str:
    """The path of a category page."""
    return f"/shirts?page={page}"


def paths() -> list[str]:
    """All pages that a crawl requests, except robots.txt."""
    listings = [listing_path(page) for page in range(1, -(-PRODUCTS // PER_PAGE) + 1)]
    return listings + [f"/p/{number}" for number in range(PRODUCTS)]


def page(title: str, data: object, content: str) -> bytes:
    """A page of about 30 kB of HTML."""
    navigation = "".join(map(FILLER.format, range(250)))
    script = f'<script type="application/ld+json">{json.dumps(data)}</script>'
    head = f"<head><title>{title}</title>{script}</head>"
    return f"<!doctype html><html>{head}<body>{navigation}{content}</body></html>".encode()


def product_page(number: int) -> bytes:
    """A product page."""
    image = [f"http://{HOST}/media/{number}-{position}.jpg" for position in range(4)]
    offer = {"@type": "Offer", "price": f"{number}.90", "priceCurrency": "EUR"}
    steps = [{"@type": "ListItem", "position": n, "name": name} for n, name in enumerate(("Clothing", "Shirts"), 1)]
    data = [
        {"@type": "Product", "name": f"Shirt {number}", "sku": str(number), "image": image, "offers": offer},
        {"@type": "BreadcrumbList", "itemListElement": steps},
    ]
    return page(f"Shirt {number}", data, f"<h1>Shirt {number}</h1><p class='price'>{number}.90</p>")


def listing_page(number: int) -> bytes:
    """A category page."""
    urls = [f"/p/{one}" for one in range((number - 1) * PER_PAGE, min(number * PER_PAGE, PRODUCTS))]
    data = {"@type": "ItemList", "itemListElement": [{"@type": "ListItem", "url": url} for url in urls]}
    links = "".join(f'<a class="product" href="{url}"><img src="{url}.jpg">Shirt</a>' for url in urls)
    following = f'<a rel="next" href="{listing_path(number + 1)}">next</a>' if number * PER_PAGE < PRODUCTS else ""
    return page("Shirts", data, links + following)


def serve() -> None:
    """Serve the shop, and print its port."""
    from aiohttp import web

    pages = {path: listing_page(number) for number, path in enumerate(paths(), 1) if path.startswith("/shirts")}
    pages |= {f"/p/{number}": product_page(number) for number in range(PRODUCTS)}

    async def answer(request: web.Request) -> web.Response:
        body = pages.get(request.path_qs)
        return web.Response(body=body, content_type="text/html", status=200 if body else 404)

    app = web.Application()
    app.router.add_get("/{rest:.*}", answer)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    web.run_app(app, sock=listener, print=None, access_log=None)


def minimal(port: int, folder: Path) -> None:
    """Run the baseline."""
    import scrapy
    from scrapy.crawler import AsyncCrawlerProcess

    class MinimalSpider(scrapy.Spider):
        name = "minimal"

        async def start(self) -> AsyncIterator[scrapy.Request]:
            for path in paths():
                yield scrapy.Request(f"http://127.0.0.1:{port}{path}")

        def parse(self, response: scrapy.http.Response) -> None:
            assert response.status == 200

    process = AsyncCrawlerProcess(
        {
            "ROBOTSTXT_OBEY": True,
            "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENCY,
            "DOWNLOAD_DELAY": 0,
            "LOG_LEVEL": "INFO",
            "LOG_FILE": str(folder / "log.txt"),
        }
    )
    process.crawl(MinimalSpider)
    process.start()


def ours(port: int, folder: Path) -> None:
    """Run a crawl as the stage does."""
    from crawlers.crawl.run import crawl
    from crawlers.http.host_limits import UNLIMITED
    from crawlers.sources.csv_sources import Source

    result = crawl(
        [Source(HOST, ("Clothing", "Shirt"), f"http://{HOST}{listing_path(1)}")],
        output=folder / "products.parquet",
        folder=folder / "work",
        user_agent="Atlas/0 (+https://example.org)",
        connect_map={HOST: ("127.0.0.1", port)},
        max_pages_per_category=1000,
        max_attempts=2,
        timeout_s=30,
        profiles={HOST: UNLIMITED},
        robots_tags=["noai", "noimageai", "noindex"],
    )
    assert result.products == PRODUCTS


def run(what: str, port: int) -> tuple[float, float]:
    """Wall time and CPU time of one run, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.pages", what, str(port), folder]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)  # the children's CPU is in it
        assert status == 0, what
        return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure both."""
    shop = subprocess.Popen([sys.executable, "-m", "benchmarks.pages", "serve"], stdout=subprocess.PIPE, text=True)
    assert shop.stdout is not None
    port = int(shop.stdout.readline())
    taken: dict[str, list[tuple[float, float]]] = {"minimal": [], "ours": []}
    try:
        for number in range(RUNS + 1):
            for what, values in taken.items():
                value = run(what, port)
                if number:  # the first round warms up
                    values.append(value)
    finally:
        shop.terminate()
        shop.wait()
    pages = len(paths())
    rows, figures = [], {"pages": float(pages)}
    for what, values in taken.items():
        seconds, cpu_s = (median(column) for column in zip(*values, strict=True))
        rows += [(f"{what}: pages", pages / seconds, "/s"), (f"{what}: CPU", 1000 * cpu_s / pages, "ms/page")]
        figures |= {f"{what}_pages_per_s": pages / seconds, f"{what}_cpu_ms_per_page": 1000 * cpu_s / pages}
    ratios = [one[1] / other[1] for one, other in zip(taken["ours"], taken["minimal"], strict=True)]
    figures["cpu_vs_minimal_spider"] = median(ratios)
    rows.append(("CPU, ours by minimal", figures["cpu_vs_minimal_spider"], "x"))
    report("pages", rows, figures)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "serve":
        serve()
    else:
        {"minimal": minimal, "ours": ours}[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
