"""``python -m tests.support.browsing``: renders pages with the browser, as a crawl does, in its own process.

Takes a `Visits` as JSON on stdin; prints the results as JSON.
"""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import scrapy
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.http import Response, TextResponse
from twisted.python.failure import Failure

from atlas_model.core.processes import die_with_parent
from crawlers.http.chromium import find_browser
from crawlers.http.host_limits import BrowserProfile
from crawlers.scrapy_app.browser import request_meta
from crawlers.scrapy_app.errors import reason_of
from crawlers.scrapy_app.settings import scrapy_settings
from tests.support.crawling import QUICK


@dataclass
class Visits:
    """Pages to read: URL -> the arguments of its `BrowserProfile`, optionally with ``timeout_s``."""

    pages: dict[str, dict[str, Any]]
    connect_map: dict[str, tuple[str, int]]
    log: str
    timeout_s: float = 30
    allowed: str = "shop.test"
    max_attempts: int = 1

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.support.browsing"]


def browse(visits: Visits) -> dict[str, dict[str, Any]]:
    """The result for each URL: ``status`` or ``reason``, ``url`` and ``text``."""
    ended = subprocess.run(
        visits.command, input=json.dumps(asdict(visits)), text=True, capture_output=True, check=False
    )
    log = Path(visits.log)
    assert ended.returncode == 0, ended.stderr + (log.read_text() if log.exists() else "")
    came: dict[str, dict[str, Any]] = json.loads(ended.stdout)
    return came


class BrowsingSpider(scrapy.Spider):
    """Requests each page of a `Visits` once and records the result."""

    name = "browsing"

    def __init__(self, visits: Visits, came: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.visits, self.came, self.allowed_domains = visits, came, [visits.allowed]

    async def start(self) -> AsyncIterator[scrapy.Request]:
        for url, profile in self.visits.pages.items():
            given = {"wait_for": None, "load_more": None, "max_clicks": 0, "scroll": False} | profile
            timeout_s = given.pop("timeout_s", self.visits.timeout_s)
            meta = request_meta(BrowserProfile(**given)) | {"download_timeout": timeout_s}
            yield scrapy.Request(url, self.read, errback=self.failed, meta=meta, cb_kwargs={"asked": url})

    def read(self, response: Response, asked: str) -> None:
        assert isinstance(response, TextResponse)
        self.came[asked] = {"status": response.status, "url": response.url, "text": response.text}

    def failed(self, failure: Failure) -> None:
        asked = failure.request.cb_kwargs["asked"]  # type: ignore[attr-defined]  # Scrapy puts it there
        assert failure.value is not None
        self.came[asked] = {"reason": reason_of(failure.value), "text": str(failure.value)}


def main() -> None:
    """Read the pages of the `Visits` on stdin and print the results as JSON."""
    die_with_parent()
    visits = Visits(**json.loads(sys.stdin.read()))
    settings = scrapy_settings(
        hosts=[visits.allowed],
        profiles=dict.fromkeys(visits.connect_map, QUICK),
        connect_map=visits.connect_map,
        user_agent="Atlas/0 (+https://example.org)",
        max_attempts=visits.max_attempts,
        timeout_s=visits.timeout_s,
        robots_tags=["noai"],
        browser=find_browser(None),
        log_file=visits.log,
    )
    came: dict[str, dict[str, Any]] = {}
    process = AsyncCrawlerProcess(settings)
    process.crawl(BrowsingSpider, visits=visits, came=came)
    process.start()
    print(json.dumps(came))


if __name__ == "__main__":
    main()
