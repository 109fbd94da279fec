"""Decides where the walk through one source's pages ends.

A listing may link to endless pages, for example to itself under new URLs. Every walk ends with a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from crawlers.sources.csv_sources import Source

# Regular ends; with any other reason, products may be missing.
GOOD_ENDS = {"last_page", "no_new_products", "seen_page"}
MAX_REPEATS = 3  # pages with the same products as an earlier page, ignoring the queries of product URLs


@dataclass
class ListingWalk:
    """State of the walk through one source's pages."""

    source: Source
    rank: int  # rank of the source; see `crawlers.crawl.job`
    max_pages: int
    asked: int = 0  # requested pages
    products: int = 0  # distinct products
    _urls: set[str] = field(default_factory=set)  # requested URLs and their redirect targets
    _contents: set[int] = field(default_factory=set)  # hash of each page's products
    _repeats: int = 0

    def ask(self, url: str) -> None:
        """Record a requested page."""
        self.asked += 1
        self._urls.add(url)

    def arrive(self, url: str, items: Sequence[str], new: int) -> None:
        """Record a response: URL after redirects, product URLs, and how many of them are new."""
        self._urls.add(url)
        self.products += new
        content = hash(tuple(sorted(_without_queries(items))))
        self._repeats += content in self._contents
        self._contents.add(content)

    def end(self, next_page: str | None, new: int) -> str | None:
        """Reason for which the walk ends before ``next_page``; None if it continues there."""
        if not next_page:
            return "last_page"
        if not new:
            return "no_new_products"
        return self.closed(next_page) or ("repeating_pages" if self._repeats >= MAX_REPEATS else None)

    def closed(self, url: str) -> str | None:
        """Reason for which ``url`` is not requested; None if it may be."""
        if url in self._urls:
            return "seen_page"
        if not on_site(url, self.source.site):
            return "offsite"
        return "page_limit" if self.asked >= self.max_pages else None


def on_site(url: str, site: str) -> bool:
    """Whether ``url`` has the host ``site`` (ignoring "www.") or a subdomain of it."""
    return f".{urlsplit(url).hostname}".endswith(f".{domain(site)}")


def domain(site: str) -> str:
    """``site`` without "www."."""
    return site.removeprefix("www.")


def _without_queries(urls: Sequence[str]) -> Sequence[str]:
    """The URLs without their queries, unless only the queries distinguish the products of this page."""
    bare = [url.partition("?")[0] for url in urls]
    return bare if 1 < len(bare) == len(set(bare)) else urls
