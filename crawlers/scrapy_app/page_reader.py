"""From a response to what a journal keeps of a page, and whether it is the page that the journal knows.

Knows nothing of what follows from it.
"""

import hashlib
import json
import logging
from typing import Any, TypedDict

from scrapy.http import Response, TextResponse
from web_poet import HttpResponse, HttpResponseHeaders

from crawlers.crawl.journal import LISTING, PRODUCT, SITEMAP, Page
from crawlers.http import policy
from crawlers.http.urls import sent
from crawlers.pages.registry import read_listing, read_product
from crawlers.pages.shops import Shop
from crawlers.scrapy_app.download_handler import UNBOUNDED
from crawlers.sources.sitemaps import read_sitemap

JSON = ("application/json", "text/json", "application/ld+json")
TAIL = 2000  # bytes at the end of a page, in which its last tags stand
NOT_MODIFIED = 304

log = logging.getLogger(__name__)


class _Validators(TypedDict):
    etag: str | None
    last_modified: str | None


def conditions(known: Page | None) -> dict[str, bytes]:
    """The headers of a request for a page that may still be as it was when it became ``known``."""
    values = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified} if known else {}
    return {name: value.encode("latin-1") for name, value in values.items() if value}


def unchanged(known: Page | None, url: str, response: Response) -> Page | None:
    """What is ``known`` of a page, if ``response`` (to a request for ``url``) is the same page again."""
    if known is None or known.sha256 is None or (known.final_url or sent(url)) != response.url:
        return None  # a 304 may be of another page, where a redirect leads elsewhere by now
    if response.status == NOT_MODIFIED:
        return known
    same = known.sha256 == hashlib.sha256(response.body).digest()
    return known._replace(**_validators(response)) if same else None


async def read(kind: str, shop: Shop, reader: str, url: str, response: Response) -> Page:
    """What ``response`` (to a request for ``url``) says as a page of ``kind``."""
    said, dropped = await _read(kind, shop, response)
    return Page(
        said=None if said is None else json.dumps(said, ensure_ascii=False),
        dropped=dropped,
        reader=reader,
        final_url=None if response.url == sent(url) else response.url,
        sha256=hashlib.sha256(response.body).digest(),
        **_validators(response),
    )


async def _read(kind: str, shop: Shop, response: Response) -> tuple[dict[str, Any] | None, str | None]:
    if kind != PRODUCT and (sitemap := read_sitemap(response.url, response.body)):
        said = {"items": sitemap.urls, "next_pages": sitemap.sitemaps, "sitemap": True}
        return said if sitemap.complete else said | {"cut_off": True}, None
    if kind == SITEMAP:
        return None, "no_sitemap"
    if fault := "cut_off" if _is_broken_json(response) else None if isinstance(response, TextResponse) else "not_html":
        return None, fault
    headers = HttpResponseHeaders.from_bytes_dict(response.headers, "latin-1")
    page = HttpResponse(response.url, body=response.body, status=response.status, headers=headers)
    try:
        if kind == LISTING:
            listing = await read_listing(shop, page)
            said = {"items": listing.items, "next_pages": [listing.next_page] if listing.next_page else []}
            return said | {"cut_off": True} if _breaks_off(response) else said, None
        product = await read_product(shop, page)
        return product.to_json(), product.missing
    except Exception:  # a stranger's page may break any parser; that must cost this page only
        log.warning("%s: cannot be read", response.url, exc_info=True)
        return None, "unreadable"


def _is_broken_json(response: Response) -> bool:
    """Whether it says that it is JSON and is none: what a list of products in it would lack, nobody can know."""
    kind = (response.headers.get("Content-Type") or b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind not in JSON:
        return False
    try:
        json.loads(response.body)
    except RecursionError:
        return False
    except ValueError:
        return True
    return False


def _breaks_off(response: Response) -> bool:
    """Whether the HTML ends before its end tags, and no header says that it had to end there."""
    end = response.body[-TAIL:].lower()
    ended = b"</html" in end or b"</body" in end
    return UNBOUNDED in response.flags and not ended and b"<body" in response.body.lower()


def _validators(response: Response) -> _Validators:
    """What a later request may ask with, whether the page has changed."""
    return {
        "etag": policy.validator((response.headers.get("ETag") or b"").decode("latin-1")),
        "last_modified": policy.validator((response.headers.get("Last-Modified") or b"").decode("latin-1")),
    }
