"""The spider: sources -> category pages -> next pages -> product pages, each product page once.

It notes which categories link to which product (`links`) and spools what each product page says; which label a
product gets is decided when all is known (`crawlers.crawl`), because the order in which pages arrive is not the
same twice. Knows no shop, no label's meaning, and nothing of politeness.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadTimeoutError,
    IgnoreRequest,
)
from scrapy.http import Response, TextResponse
from scrapy.spidermiddlewares.httperror import HttpError
from twisted.python.failure import Failure
from web_poet import HttpResponse, HttpResponseHeaders

from atlas_model.progress import Progress
from crawlers.items import Product
from crawlers.job import TRANSIENT, Label
from crawlers.pages.registry import Shop, read_listing, read_product, shop_of
from crawlers.politeness import HostDownError, RobotsUnreachableError
from crawlers.sources import Source
from crawlers.spool import SpoolWriter

LISTING_PRIORITY = 10  # category pages first: then the number of products is known early

log = logging.getLogger(__name__)

REASON_OF_ERROR = {  # the first that matches
    RobotsUnreachableError: "robots_unreachable",
    HostDownError: "host_down",
    DownloadTimeoutError: "timeout",
    CannotResolveHostError: "no_such_host",
    DownloadConnectionRefusedError: "refused",
    DownloadCancelledError: "too_large",
}


@dataclass
class Walk:
    """The way through one source's pages."""

    source: Source
    pages: int = 0
    listing_urls: set[str] = field(default_factory=set)
    products: set[str] = field(default_factory=set)


class CatalogueSpider(scrapy.Spider):
    """Walks all sources.

    Args:
        sources: where to start.
        max_pages_per_category: category pages of one source, at most.
        spool: what product pages say; those already in it are not asked for again.
        progress: counts product pages.
    """

    name = "catalogue"

    def __init__(
        self, *, sources: Sequence[Source], max_pages_per_category: int, spool: SpoolWriter, progress: Progress
    ) -> None:
        super().__init__()
        self.allowed_domains = sorted({_domain(source) for source in sources})  # for Scrapy: redirects
        self._sources, self._max_pages, self._spool, self._progress = sources, max_pages_per_category, spool, progress
        self.links: dict[str, set[Label]] = {}  # product page -> its categories
        self.failed: dict[str, str] = {}  # product page -> a transient reason
        self.category_faults: list[tuple[str, str]] = []  # category page, reason
        self.counts: Counter[str] = Counter()

    async def start(self) -> AsyncIterator[scrapy.Request]:
        """The first page of each category."""
        for source in self._sources:
            yield self._listing_request(Walk(source), source.url)

    async def parse_listing(self, response: Response, walk: Walk) -> AsyncIterator[scrapy.Request]:
        """Note the products of a category page, and go on to the next page while there are new ones."""
        walk.pages += 1
        self.counts["listing_pages"] += 1
        listing = await self._read(read_listing, shop_of(walk.source.site), response)
        if isinstance(listing, str):
            self.category_faults.append((response.url, listing))
            return
        fresh = [url for url in listing.items if url not in walk.products]
        walk.products.update(fresh)
        if not walk.products:
            self.category_faults.append((response.url, "no_products"))
        for request in self._product_requests(fresh, walk.source):
            yield request
        next_page = listing.next_page
        if not next_page or not fresh or next_page in walk.listing_urls or not _on_site(next_page, walk.source):
            return
        if walk.pages < self._max_pages:
            yield self._listing_request(walk, next_page)
        else:
            self.category_faults.append((next_page, "page_limit"))

    async def parse_product(self, response: Response, url: str) -> None:
        """Spool what the page says."""
        product = await self._read(read_product, shop_of(_host(url)), response)
        if isinstance(product, Product):
            outcome = {"dropped": product.missing} if product.missing else {"product": product.to_json()}
        else:
            outcome = {"dropped": product}
        self._settle(url, outcome)

    def _product_requests(self, urls: list[str], source: Source) -> Iterator[scrapy.Request]:
        for url in urls:
            if not _on_site(url, source):
                self.counts["offsite"] += 1
                continue
            categories = self.links.setdefault(url, set())
            known = bool(categories) or url in self._spool.urls
            categories.add((source.site, source.taxonomy))
            self._progress.total = len(self.links)
            if not known:
                yield scrapy.Request(url, self.parse_product, errback=self._product_failed, cb_kwargs={"url": url})

    def _listing_request(self, walk: Walk, url: str) -> scrapy.Request:
        walk.listing_urls.add(url)
        return scrapy.Request(
            url,
            self.parse_listing,
            errback=self._listing_failed,
            cb_kwargs={"walk": walk},
            priority=LISTING_PRIORITY,
        )

    def _listing_failed(self, failure: Failure) -> None:
        self.category_faults.append((failure.request.url, _reason(failure)))

    def _product_failed(self, failure: Failure) -> None:
        url, reason = failure.request.cb_kwargs["url"], _reason(failure)
        if reason in TRANSIENT:
            self.failed[url] = reason
            self._progress.advance()
        else:
            self._settle(url, {"dropped": reason})

    def _settle(self, url: str, outcome: dict[str, Any]) -> None:
        self.counts["product_pages"] += 1
        self._spool.append({"url": url} | outcome)
        self._progress.advance()

    async def _read(self, read: Callable[[Shop, HttpResponse], Awaitable[Any]], shop: Shop, response: Response) -> Any:
        """What ``read`` finds on ``response``, or the reason why there is nothing."""
        if not isinstance(response, TextResponse):
            return "not_html"
        headers = HttpResponseHeaders.from_bytes_dict(response.headers)
        try:
            return await read(
                shop, HttpResponse(response.url, body=response.body, status=response.status, headers=headers)
            )
        except Exception:  # a stranger's page may break any parser; that must cost this page only
            log.warning("%s: cannot be read", response.url, exc_info=True)
            return "unreadable"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _domain(source: Source) -> str:
    return source.site.removeprefix("www.")


def _on_site(url: str, source: Source) -> bool:
    return f".{_host(url)}".endswith(f".{_domain(source)}")


def _reason(failure: Failure) -> str:
    error = failure.value
    if isinstance(error, HttpError):
        return f"http_{error.response.status}"
    for kind, reason in REASON_OF_ERROR.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, IgnoreRequest):
        return "robots" if "robots.txt" in str(error) else "offsite"
    return "connection"
