"""The way through the pages of one source, and where it ends. Knows nothing of requests or of what is on a page.

A shop may have any number of category pages, or pretend to: a listing may link to itself under ever new URLs, a
calendar goes on for ever. Each end has a reason, and each way has one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from crawlers.sources.csv_sources import Source

# Ends as they should be; every other one means that products may be missing.
GOOD_ENDS = {"last_page", "no_new_products", "seen_page"}
MAX_REPEATS = 3  # pages of a category that show, but for the query of their URLs, the products of an earlier page


@dataclass
class Walk:
    """What has been seen on the way, so far."""

    source: Source
    rank: int  # of the source; see `crawlers.crawl.job`
    max_pages: int
    asked: int = 0  # pages
    products: int = 0  # distinct ones
    _urls: set[str] = field(default_factory=set)  # of pages asked for, and where redirects led
    _contents: set[int] = field(default_factory=set)  # a hash of each page's products
    _repeats: int = 0

    def ask(self, url: str) -> None:
        """Note that a page is asked for."""
        self.asked += 1
        self._urls.add(url)

    def arrive(self, url: str, items: Sequence[str], new: int) -> None:
        """Note what came: the page's URL after redirects, its products, and how many of them are new."""
        self._urls.add(url)
        self.products += new
        content = hash(tuple(sorted(_without_queries(items))))
        self._repeats += content in self._contents
        self._contents.add(content)

    def end(self, next_page: str | None, new: int) -> str | None:
        """Why the way ends before ``next_page``; None if it goes on there."""
        if not next_page:
            return "last_page"
        if not new:
            return "no_new_products"
        return self.closed(next_page) or ("repeating_pages" if self._repeats >= MAX_REPEATS else None)

    def closed(self, url: str) -> str | None:
        """Why ``url`` may not be asked for, if so."""
        if url in self._urls:
            return "seen_page"
        if not on_site(url, self.source.site):
            return "offsite"
        return "page_limit" if self.asked >= self.max_pages else None


def on_site(url: str, site: str) -> bool:
    """Whether ``url`` is of the host ``site`` or of one below it; with or without "www."."""
    return f".{urlsplit(url).hostname}".endswith(f".{domain(site)}")


def domain(site: str) -> str:
    """``site`` without "www."."""
    return site.removeprefix("www.")


def _without_queries(urls: Sequence[str]) -> Sequence[str]:
    """The URLs without their queries, unless it is those that tell the products of this page apart."""
    bare = [url.partition("?")[0] for url in urls]
    return bare if 1 < len(bare) == len(set(bare)) else urls
