"""Public Python API of the crawler, for single pages; its names are stable (docs/python-api.md).

Nothing here retries or resumes. The stage `crawl` (docs/crawling.md) does, and crawls whole shops.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import urlsplit

from web_poet import HttpResponse

from atlas_model.core.errors import AtlasError, InputError
from crawlers.crawl.fetch_page import fetch_page
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
    """Fetch a product page with one request, and read it.

    robots.txt is obeyed, and only public addresses are connected to.

    Args:
        url: http or https URL of the page.
        contact: URL or e-mail address for the user agent, under which a shop can reach you.
        robots_tags: directives of ``X-Robots-Tag`` that forbid a page, such as noai, noimageai, noindex.
        timeout_s: total timeout (s), including robots.txt and redirects.
        connect_map: host -> (IP address, port), instead of DNS, for hosts in your own network.

    Raises:
        InputError: the page may not be requested, or it is not a page.
        RetryError: a transient error: the shop cannot be reached, or is overloaded.
        AtlasError: the response is not a page, or the page cannot be read.
    """
    return _in_own_loop(lambda: _item(_fetch(url, contact, robots_tags, timeout_s, connect_map), read_product))


def fetch_listing(
    url: str, *, contact: str, robots_tags: Collection[str], timeout_s: float, connect_map: ConnectMap | None = None
) -> Listing:
    """Fetch a category page with one request, and read it; arguments and errors as in `fetch_product`."""
    return _in_own_loop(lambda: _item(_fetch(url, contact, robots_tags, timeout_s, connect_map), read_listing))


def parse_product(url: str, body: bytes, *, content_type: str = "text/html") -> Product:
    """Read a product page that you already have; no request is sent.

    Args:
        url: URL of the page; links are relative to it, and its host selects the shop's profile.
        body: response body, decompressed.
        content_type: value of the header; without a charset, the one declared in the page is used.

    Raises:
        InputError: ``url`` is invalid, or ``body`` is not a page.
        AtlasError: the page cannot be read.
    """
    return _in_own_loop(lambda: _item(_response(url, body, content_type), read_product))


def parse_listing(url: str, body: bytes, *, content_type: str = "text/html") -> Listing:
    """Read a category page that you already have; arguments and errors as in `parse_product`."""
    return _in_own_loop(lambda: _item(_response(url, body, content_type), read_listing))


def _fetch(
    url: str, contact: str, robots_tags: Collection[str], timeout_s: float, connect_map: ConnectMap | None
) -> HttpResponse:
    return fetch_page(
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
    except Exception as error:  # an untrusted page may make a parser fail in any way
        raise AtlasError(f"{url}: reading it failed, which is a bug in crawlers/pages: {error!r}") from error


def _in_own_loop(work: Callable[[], Result]) -> Result:
    """Run ``work`` in a new thread, because the caller's thread may run an event loop, as in a notebook."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
