"""The public Python interface of the crawler, one page at a time: these names stay (docs/python-api.md).

For whole shops there is the stage `crawl` (docs/crawling.md); it retries and resumes, which nothing does here.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import urlsplit

from web_poet import HttpResponse

from atlas_model.core.errors import AtlasError, InputError
from crawlers.crawl.fetch_page import ask
from crawlers.http.address_guard import ConnectMap
from crawlers.http.user_agent import user_agent
from crawlers.pages.html.bodies import not_a_page
from crawlers.pages.items import Listing, Product
from crawlers.pages.registry import read_listing, read_product
from crawlers.pages.shops import Shop, shop_of

__all__ = ["Listing", "Product", "fetch_listing", "fetch_product", "parse_listing", "parse_product"]

Item = TypeVar("Item", Listing, Product)
Result = TypeVar("Result")
Read = Callable[[Shop, HttpResponse], Coroutine[None, None, Item]]


def fetch_product(
    url: str, *, contact: str, robots_tags: Collection[str], timeout_s: float, connect_map: ConnectMap | None = None
) -> Product:
    """Ask a shop for the page of a product, once, and read it.

    robots.txt is obeyed, and no address that is not public is connected to.

    Args:
        url: of the page; http or https.
        contact: a URL or an e-mail address for the user agent, so that a shop can reach you.
        robots_tags: directives of ``X-Robots-Tag`` that keep us out, such as noai, noimageai, noindex.
        timeout_s: for all of it, robots.txt and redirects included.
        connect_map: host -> (IP address, port), instead of DNS: for hosts in your own network.

    Raises:
        InputError: the page may not be asked for, or is none.
        RetryError: the shop could not be reached, or is too busy: try again later.
        AtlasError: it answered with something else than a page, or the page cannot be read.
    """
    return _in_own_loop(lambda: _item(_ask(url, contact, robots_tags, timeout_s, connect_map), read_product))


def fetch_listing(
    url: str, *, contact: str, robots_tags: Collection[str], timeout_s: float, connect_map: ConnectMap | None = None
) -> Listing:
    """Ask a shop for a page of a category, once, and read it; arguments and errors as of `fetch_product`."""
    return _in_own_loop(lambda: _item(_ask(url, contact, robots_tags, timeout_s, connect_map), read_listing))


def parse_product(url: str, body: bytes, *, content_type: str = "text/html") -> Product:
    """Read the page of a product that you have; no shop is asked.

    Args:
        url: where it came from: links are relative to it, and its host says which profile reads it.
        body: as it was served, decompressed.
        content_type: as the header says; without a charset the page's own statement counts.

    Raises:
        InputError: ``url`` is none, or ``body`` is no page.
        AtlasError: the page cannot be read.
    """
    return _in_own_loop(lambda: _item(_response(url, body, content_type), read_product))


def parse_listing(url: str, body: bytes, *, content_type: str = "text/html") -> Listing:
    """Read a page of a category that you have; arguments and errors as of `parse_product`."""
    return _in_own_loop(lambda: _item(_response(url, body, content_type), read_listing))


def _ask(
    url: str, contact: str, robots_tags: Collection[str], timeout_s: float, connect_map: ConnectMap | None
) -> HttpResponse:
    return ask(
        url,
        connect_map=connect_map or {},
        user_agent=user_agent(contact),
        robots_tags=robots_tags,
        timeout_s=timeout_s,
    )


def _response(url: str, body: bytes, content_type: str) -> HttpResponse:
    return HttpResponse(url, body=body, headers={"Content-Type": content_type})


def _item(response: HttpResponse, read: Read[Item]) -> Item:
    url = str(response.url)
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise InputError(f"expected http://... or https://..., got {url!r}")
    if what := not_a_page(response):
        raise InputError(f"{url}: expected a page, got {what}")
    shop = shop_of(host)
    try:
        return asyncio.run(read(shop, response))
    except Exception as error:  # whatever a stranger's page does to a parser
        raise AtlasError(f"{url}: cannot be read, which is a fault of crawlers/pages: {error!r}") from error


def _in_own_loop(work: Callable[[], Result]) -> Result:
    """Run ``work`` in a thread of its own, because the caller's may run a loop already, as in a notebook."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
