"""Converts a response to a journal row, and detects pages that are unchanged since the last crawl."""

import hashlib
import json
import logging
from typing import Any, TypedDict

from scrapy.http import Response, TextResponse
from web_poet import HttpResponse, HttpResponseHeaders

from atlas_model.core.machine import check_machine_for
from crawlers.crawl.journal import LISTING, PRODUCT, SITEMAP, JournalPage
from crawlers.http import policy
from crawlers.http.endings import is_broken_json, is_json
from crawlers.http.urls import request_url
from crawlers.pages.registry import read_listing, read_product
from crawlers.pages.shops import Shop
from crawlers.sources.sitemaps import read_sitemap

NOT_MODIFIED = 304

log = logging.getLogger(__name__)


class _Validators(TypedDict):
    etag: str | None
    last_modified: str | None


def conditions(known: JournalPage | None) -> dict[str, bytes]:
    """The headers of a conditional request for the page ``known``."""
    values = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified} if known else {}
    return {name: value.encode("latin-1") for name, value in values.items() if value}


def unchanged(known: JournalPage | None, url: str, response: Response) -> JournalPage | None:
    """The row ``known``, if ``response`` (to a request for ``url``) says or shows that the page is unchanged."""
    if known is None or known.sha256 is None or (known.final_url or request_url(url)) != response.url:
        return None  # the response is for another page, because a redirect has changed
    if response.status == NOT_MODIFIED:
        return known
    same = known.sha256 == hashlib.sha256(response.body).digest()
    return known._replace(**_validators(response)) if same else None


async def read(kind: str, shop: Shop, reader: str, url: str, response: Response) -> JournalPage:
    """Read ``response`` (to a request for ``url``) as a page of ``kind``."""
    said, dropped = await _read(kind, shop, response)
    return JournalPage(
        item=None if said is None else json.dumps(said, ensure_ascii=False),
        dropped=dropped,
        reader=reader,
        final_url=None if response.url == request_url(url) else response.url,
        sha256=hashlib.sha256(response.body).digest(),
        **_validators(response),
    )


async def _read(kind: str, shop: Shop, response: Response) -> tuple[dict[str, Any] | None, str | None]:
    if kind != PRODUCT and (sitemap := read_sitemap(response.url, response.body)):
        said = {"items": sitemap.urls, "next_pages": sitemap.sitemaps, "sitemap": True}
        return said if sitemap.complete else said | {"cut_off": True}, None
    if kind == SITEMAP:
        return None, "no_sitemap"
    content_type = (response.headers.get("Content-Type") or b"").decode("latin-1")
    is_broken = is_json(content_type) and is_broken_json(response.body)  # its list of products may be truncated
    if fault := "cut_off" if is_broken else None if isinstance(response, TextResponse) else "not_html":
        return None, fault
    headers = HttpResponseHeaders.from_bytes_dict(response.headers, "latin-1")
    page = HttpResponse(response.url, body=response.body, status=response.status, headers=headers)
    try:
        if kind == LISTING:
            listing = await read_listing(shop, page)
            return {"items": listing.items, "next_pages": [listing.next_page] if listing.next_page else []}, None
        product = await read_product(shop, page)
        return product.to_json(), product.missing
    except Exception as error:  # an untrusted page may make any parser fail; only this page is lost
        check_machine_for(error, 10 * policy.MAX_PAGE_BYTES)  # a tree of lxml takes several times its text
        log.warning("%s: cannot be read", response.url, exc_info=True)
        return None, "unreadable"


def _validators(response: Response) -> _Validators:
    """The validators for a later conditional request."""
    return {
        "etag": policy.validator((response.headers.get("ETag") or b"").decode("latin-1")),
        "last_modified": policy.validator((response.headers.get("Last-Modified") or b"").decode("latin-1")),
    }
