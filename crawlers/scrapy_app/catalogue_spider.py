"""The spider: from sources to category pages, next pages and product pages, each product page once.

It stores every page in the journal and does not request pages that the current crawl has stored. The journal also
records which categories link to which product. Labels are assigned afterwards (`crawlers.crawl.aggregate`), because the
order of responses varies.

Only a few product pages are in Scrapy's queue at a time and the others in the journal, so that memory is bounded.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, NotRequired, Self, TypedDict
from urllib.parse import urlsplit

import scrapy
from scrapy import signals
from scrapy.crawler import Crawler
from scrapy.http import Response
from twisted.python.failure import Failure

from atlas_model.core.progress import Progress
from crawlers.crawl.job import CrawlJob
from crawlers.crawl.journal import LISTING, PRODUCT, ROBOTS, SITEMAP, Journal, JournalPage
from crawlers.crawl.pagination import GOOD_ENDS, ListingWalk, domain, on_site
from crawlers.http.policy import is_retried_next_run
from crawlers.http.urls import join_url, request_url
from crawlers.pages.items import Product
from crawlers.pages.shops import GENERIC, Shop, shop_of
from crawlers.pages.text.values import http_urls
from crawlers.scrapy_app.browser import request_meta
from crawlers.scrapy_app.download_handler import VERBATIM
from crawlers.scrapy_app.errors import reason_of
from crawlers.scrapy_app.page_reader import NOT_MODIFIED, conditions, read, unchanged
from crawlers.scrapy_app.politeness import LINKS_ONLY
from crawlers.sources.sitemaps import MAX_BYTES as MAX_SITEMAP_BYTES
from crawlers.sources.sitemaps import Base, is_named_sitemap

LISTING_PRIORITY = 10  # category pages first, so that the number of products is known early
QUEUED = 128  # limit of product pages per site in Scrapy's queue
REFILL = 64  # the queue is refilled when so few are left


class _Said(TypedDict):
    """Journal content of a category page or a sitemap (written by `page_reader`)."""

    items: list[str]  # URLs of products
    next_pages: list[str]  # of a sitemap: other sitemaps
    sitemap: NotRequired[bool]
    cut_off: NotRequired[bool]  # it may lack some


class CatalogueSpider(scrapy.Spider):
    """Crawls all sources of ``job``.

    Args:
        job: the job.
        journal: its journal; pages that the current crawl has stored are not requested again.
        progress: progress display of product pages.
    """

    name = "catalogue"

    def __init__(self, *, job: CrawlJob, journal: Journal, progress: Progress) -> None:
        super().__init__()
        self.allowed_domains = sorted({domain(source.site) for source in job.sources})  # for redirects
        self._job, self._journal, self._progress = job, journal, progress
        self._queued: Counter[str] = Counter()  # site -> product pages in Scrapy's queue
        self._checked = not job.check_sitemaps
        self.counts: Counter[str] = Counter()
        self.walk_ends: Counter[str] = Counter()  # reason -> sources whose pages ended for it
        self.category_faults: list[tuple[str, str]] = []  # URL of a category page, reason
        self.sitemap_faults: list[tuple[str, str]] = []  # URL of a sitemap that could not be fetched, reason
        self.listed = {
            source.site: Counter(pages=0, items=0) for source in job.sources
        }  # site -> category pages and items on them

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        """Called by Scrapy."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider._robots_parsed, signal=signals.robots_parsed)
        crawler.signals.connect(spider._idle, signal=signals.spider_idle)
        return spider

    async def start(self) -> AsyncIterator[scrapy.Request]:
        """The first requests: for each source, the first page that is not in the journal."""
        for rank, source in enumerate(self._job.sources):
            limit = shop_of(source.site).max_pages or self._job.max_pages_per_category
            for request in self._go_on(ListingWalk(source, rank, limit), [source.url]):
                yield request

    async def parse_listing(self, response: Response, walk: ListingWalk, url: str) -> AsyncIterator[scrapy.Request]:
        """Record the products of a category page, and follow its next page."""
        page = await self._settle(LISTING, shop_of(walk.source.site), url, response)
        if page is None:
            yield self._listing_request(walk, url, None)
            return
        for request in self._go_on(walk, self._arrive(walk, url, page)):
            yield request

    async def parse_product(self, response: Response, url: str, site: str) -> AsyncIterator[scrapy.Request]:
        """Store a product page."""
        page = await self._settle(PRODUCT, shop_of(_host(url)), url, response)
        if page is None:
            yield self._product_request(url, site, None)
            return
        if page.item and "?" in url:
            product = Product.from_json(json.loads(page.item))
            self._journal.count_variant(url, json.dumps(replace(product, url=product.page_url).to_json()))
        for request in self._product_done(site):
            yield request

    async def parse_sitemap(self, response: Response, walk: ListingWalk, url: str) -> AsyncIterator[scrapy.Request]:
        """Store a sitemap, and follow its links to others."""
        page = await self._settle(SITEMAP, shop_of(walk.source.site), url, response)
        if page is None:
            yield self._sitemap_request(walk, url, None)
            return
        said = _said(page)
        if said.get("cut_off"):
            self.category_faults.append((url, "cut_off"))
        for request in self._look_through(walk, said["next_pages"]):
            yield request

    async def _settle(self, kind: str, shop: Shop, url: str, response: Response) -> JournalPage | None:
        """Store the page, reusing the old item if unchanged; None: an unconditional request is needed."""
        page = unchanged(self._journal.page(kind, url), url, response)
        if page is not None:
            self.counts["not_modified" if response.status == NOT_MODIFIED else "same_content"] += 1
        elif response.status == NOT_MODIFIED:
            return None
        else:
            page = await read(kind, shop, self._reader(shop), url, response)
        self.counts[kind] += 1
        self._journal.put(kind, url, page)
        return page

    # Category pages

    def _go_on(self, walk: ListingWalk, urls: list[str]) -> Iterator[scrapy.Request]:
        """Continue a walk from ``urls`` through pages in the journal, and request the first ones that are not."""
        waiting = list(urls)
        while waiting:
            url = waiting.pop()
            if end := walk.closed(url):
                self._end(walk, url, end)
                continue
            walk.ask(url)
            page = self._journal.page(LISTING, url)
            if page is not None and self._is_settled(page):
                waiting += self._arrive(walk, url, page)
            else:
                yield self._listing_request(walk, url, page)
        yield from self._refill(walk.source.site)

    def _arrive(self, walk: ListingWalk, url: str, page: JournalPage) -> list[str]:
        """Record the products of a category page; returns the next pages to follow."""
        said, site = _said(page), walk.source.site
        items, next_pages = self._products(said, site), said["next_pages"]
        here = [item for item in items if on_site(item, site)]
        for item in set(items).difference(here):
            self._journal.fault("link", item, "offsite")
        new = self._journal.link(here, walk.rank, site)
        walk.arrive(page.final_url or url, items, new)
        self.listed[site].update(pages=page.item is not None, items=len(items))
        self._progress.total = self._journal.found
        if "sitemap" in said and next_pages:
            if said.get("cut_off"):
                self._end(walk, url, "cut_off")
            return next_pages
        end = page.dropped or walk.end(next_pages[0] if next_pages else None, new)
        if said.get("cut_off") and (end is None or end in GOOD_ENDS):
            self._end(walk, url, "cut_off")
            return [] if end else next_pages
        if end is None:
            return next_pages
        self._end(walk, next_pages[0] if next_pages else url, end)
        return []

    def _end(self, walk: ListingWalk, url: str, end: str) -> None:
        self.walk_ends[end] += 1
        if end not in GOOD_ENDS:
            self.category_faults.append((url, end))
        elif not walk.products:
            self.category_faults.append((url, "no_products"))

    @staticmethod
    def _products(said: _Said, site: str) -> list[str]:
        pattern = shop_of(site).product_url if "sitemap" in said else None
        return [item for item in said["items"] if pattern.search(item)] if pattern else said["items"]

    def _listing_request(self, walk: ListingWalk, url: str, known: JournalPage | None) -> scrapy.Request:
        return self._request(
            url,
            known,
            shop_of(walk.source.site),
            callback=self.parse_listing,
            errback=self._listing_failed,
            cb_kwargs={"walk": walk, "url": url},
            priority=LISTING_PRIORITY,
        )

    def _listing_failed(self, failure: Failure) -> None:
        given, why = _failed(failure)
        walk, url = given["walk"], given["url"]
        if not is_retried_next_run(why):
            self._journal.put(LISTING, url, JournalPage(dropped=why, reader=self._reader(shop_of(walk.source.site))))
        self._end(walk, url, why)

    # Product pages

    def _refill(self, site: str) -> Iterator[scrapy.Request]:
        """Requests for the next product pages in the journal, up to the limit of the queue."""
        while self._queued[site] <= REFILL:
            urls = self._journal.next_products(site, QUEUED - self._queued[site])
            if not urls:
                return
            for url in urls:
                variant = self._journal.variant_of(url)
                if variant is None:
                    self._queued[site] += 1
                    yield self._product_request(url, site, self._journal.page(PRODUCT, url))
                else:
                    self.counts["variants"] += 1
                    self._journal.put(PRODUCT, url, JournalPage(variant.item, variant.dropped, variant.reader))
                    self._progress.advance()

    def _product_request(self, url: str, site: str, known: JournalPage | None) -> scrapy.Request:
        return self._request(
            url,
            known,
            shop_of(_host(url)),
            callback=self.parse_product,
            errback=self._product_failed,
            cb_kwargs={"url": url, "site": site},
        )

    def _product_failed(self, failure: Failure) -> Iterator[scrapy.Request]:
        given, why = _failed(failure)
        url, site = given["url"], given["site"]
        if is_retried_next_run(why):
            self._journal.fault(PRODUCT, url, why)
        else:
            self.counts[PRODUCT] += 1
            self._journal.put(PRODUCT, url, JournalPage(dropped=why, reader=self._reader(shop_of(_host(url)))))
        yield from self._product_done(site)

    def _product_done(self, site: str) -> Iterator[scrapy.Request]:
        self._queued[site] -= 1
        self._progress.advance()
        yield from self._refill(site)

    # Sitemaps, to find products that no category lists

    def _robots_parsed(self, robotparser: Any, request: scrapy.Request) -> None:
        sitemaps = http_urls(robotparser.rp.sitemaps, Base(request.url))
        self._journal.put(ROBOTS, _host(request.url), JournalPage(json.dumps(sitemaps), reader=self._reader(GENERIC)))

    def _idle(self) -> None:
        """Called by Scrapy when all requests are done; starts the search of sitemaps."""
        if not self._checked:
            self._checked = True
            for source in {source.site: source for source in self._job.sources}.values():
                robots = self._journal.page(ROBOTS, source.site)
                robots = robots if robots and robots.crawl == self._journal.crawl else None
                named = json.loads(robots.item) if robots and robots.item else []
                walk = ListingWalk(source, 0, self._job.max_pages_per_category)
                for request in self._look_through(walk, named or [join_url(source.url, "/sitemap.xml")]):
                    self.crawler.engine.crawl(request)

    def _look_through(self, walk: ListingWalk, urls: list[str]) -> Iterator[scrapy.Request]:
        waiting = list(urls)
        while waiting:
            url = waiting.pop()
            if walk.closed(url) or self._is_settled(self._journal.page(LISTING, url)):
                continue  # a sitemap that is a source has been read already
            walk.ask(url)
            page = self._journal.page(SITEMAP, url)
            if page is not None and self._is_settled(page):
                waiting += _said(page)["next_pages"]
            else:
                yield self._sitemap_request(walk, url, page)

    def _sitemap_request(self, walk: ListingWalk, url: str, known: JournalPage | None) -> scrapy.Request:
        return self._request(
            url,
            known,
            GENERIC,
            callback=self.parse_sitemap,
            errback=self._sitemap_failed,
            cb_kwargs={"walk": walk, "url": url},
        )

    def _sitemap_failed(self, failure: Failure) -> None:
        """Store the failure; it is counted only if there may be a sitemap, because many shops have none."""
        given, why = _failed(failure)
        if is_retried_next_run(why):
            self.sitemap_faults.append((given["url"], why))
        else:
            self._journal.put(SITEMAP, given["url"], JournalPage(dropped=why, reader=self._reader(GENERIC)))

    # Shared by all kinds of pages

    def _request(self, url: str, known: JournalPage | None, shop: Shop, **arguments: Any) -> scrapy.Request:
        meta: dict[str, Any] = {LINKS_ONLY: arguments["callback"] != self.parse_product, VERBATIM: True}
        if is_named_sitemap(url):
            meta["download_maxsize"] = MAX_SITEMAP_BYTES
        if shop.browser:
            return scrapy.Request(request_url(url), meta=meta | request_meta(shop.browser), **arguments)
        headers = conditions(known)
        if headers:
            meta["handle_httpstatus_list"] = [NOT_MODIFIED]
        return scrapy.Request(request_url(url), headers=headers, meta=meta, **arguments)

    def _reader(self, shop: Shop) -> str:
        return self._job.readers[shop.name]

    def _is_settled(self, page: JournalPage | None) -> bool:
        return page is not None and page.crawl == self._journal.crawl


def _said(page: JournalPage) -> _Said:
    """The item of a category page or sitemap; empty if it was discarded."""
    said: _Said = json.loads(page.item) if page.item else {"items": [], "next_pages": []}
    return said


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _failed(failure: Failure) -> tuple[dict[str, Any], str]:
    """The ``cb_kwargs`` of the request that failed, and the reason why it did."""
    request: scrapy.Request = failure.request  # type: ignore[attr-defined]  # Scrapy puts it there
    assert failure.value is not None
    return request.cb_kwargs, reason_of(failure.value)
