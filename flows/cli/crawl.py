"""``atlas crawl try`` and ``atlas crawl record``: read one page as a crawl does, and save it as a test.

Results go to stdout. The text of a page is untrusted: its control characters are replaced before it is printed.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from web_poet import HttpResponse

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.params import load_params
from atlas_model.core.progress import say
from atlas_model.core.yaml_files import read_yaml
from crawlers.crawl.fetch_page import WHY, fetch_page
from crawlers.crawl.reasons import explained
from crawlers.http.content import GZIP, ContentError, decode_body
from crawlers.http.policy import MAX_PAGE_BYTES
from crawlers.http.user_agent import user_agent
from crawlers.pages.html.bodies import not_a_page
from crawlers.pages.items import COLUMNS, Listing
from crawlers.pages.profile import ShopProfile
from crawlers.pages.registry import kind_of
from crawlers.pages.saved import Kind, SavedPage, read_page
from crawlers.pages.shops import Shop, shop_from, shop_of
from crawlers.sources.sitemaps import read_sitemap
from flows.stages.connections import connections
from flows.text import printable

SAVED_PAGES = Path("tests/crawlers/pages/saved")
NEEDED = {"listing": {"items"}, "product": {"name", "images"}}  # a page without these fields is not usable
SHOWN = {  # fields, in the order in which they are printed
    "listing": ("items", "next_page", "sub_categories"),
    "product": (
        "name", "price", "currency", "availability", "sku", "brand", "gtin", "mpn", "breadcrumbs", "images",
        "additional_properties", "canonical_url",
    ),
}  # fmt: skip
EXTRAS = {"sub_categories", "canonical_url", "brand", "gtin", "mpn"}  # optional: not reported as missing
MAX_LINES = 30  # printed per field
DEMO = ".demo.test"  # the shops of crawlers/shop
HTML = "text/html"  # without a charset: the one declared in the file counts


def try_page(url: str, kind: Kind | None, file: Path | None, profile: Path | None) -> int:
    """Print the fields that a crawl would read at ``url``; 1 if the page is not usable, else 0.

    Args:
        url: of the page.
        kind: of the page; None: detected.
        file: contains the page, so no request is sent.
        profile: a YAML profile to read the page with, instead of the one of its host.
    """
    shop = _shop(url, profile)
    page, found = _read(url, kind, file, shop)
    _print(page, shop, found)
    return int(bool(_missing(page) & NEEDED[page.kind]))


def record_page(url: str, kind: Kind | None, file: Path | None, profile: Path | None, folder: Path | None) -> int:
    """Save the page at ``url`` and its fields as a test, and print them; 1 if the page is not usable, else 0.

    Args:
        url: of the page.
        kind: as in `try_page`.
        file: as in `try_page`.
        profile: as in `try_page`.
        folder: of the saved files; None: tests/crawlers/pages/saved/<host>.
    """
    shop = _shop(url, profile)
    page, found = _read(url, kind, file, shop)
    if found == "sitemap":
        raise InputError(
            f"{printable(url)}: expected a product page or a listing, got a sitemap, which needs no profile and no test"
        )
    path = _free_path(folder or SAVED_PAGES / _host(url), page)
    page.save(path)
    _print(page, shop, found)
    say(
        f"saved: {path.with_suffix('.html')} and {path}. Correct wrong fields in the second "
        "file: the tests compare with it"
    )
    return int(bool(_missing(page) & NEEDED[page.kind]))


def _shop(url: str, profile: Path | None) -> Shop:
    return shop_of(_host(url)) if profile is None else shop_from(profile.stem, read_yaml(profile, ShopProfile))


def _host(url: str) -> str:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host or not url.isprintable():
        raise InputError(f"expected http://... or https://..., got {printable(url)!r}")
    return host


def _read(url: str, kind: Kind | None, file: Path | None, shop: Shop) -> tuple[SavedPage, str | None]:
    """The page and its kind; a page of unknown kind is read as a product page."""
    response = _fetch(url) if file is None else _from_file(url, file)
    if file is None and shop.browser is not None:
        say(f"{shop.name}: a crawl opens its pages in a browser. This command does not run their scripts.")
    content_type = response.headers.get("Content-Type", HTML)
    if what := not_a_page(response):
        raise InputError(f"{printable(str(response.url))}: expected a page, got {printable(what)}")
    if kind is None and (sitemap := read_sitemap(str(response.url), response.body)):
        item = asdict(Listing(sitemap.urls, sub_categories=sitemap.sitemaps))
        if not sitemap.complete:
            say(explained("cut_off"))
        return SavedPage("listing", str(response.url), content_type, response.body, item), "sitemap"
    try:
        found = kind or kind_of(shop, response)
        item = read_page("listing" if found == "listing" else "product", shop, response)
    except Exception as error:  # an untrusted page may make a parser fail in any way
        raise AtlasError(
            f"{printable(str(response.url))}: reading it failed, which is a bug in crawlers/pages: {error!r}"
        ) from error
    page = SavedPage(
        "listing" if found == "listing" else "product", str(response.url), content_type, response.body, item
    )
    return page, found


def _fetch(url: str) -> HttpResponse:
    crawl = load_params().crawl
    if _host(url).endswith(DEMO):  # the demo shop runs only for this source
        crawl = crawl.model_copy(update={"source": "demo"})
    with connections(crawl) as connect_map:
        return fetch_page(
            url,
            connect_map=connect_map,
            user_agent=user_agent(crawl.contact),
            robots_tags=crawl.robots_tags,
            timeout_s=crawl.timeout_s,
        )


def _from_file(url: str, file: Path) -> HttpResponse:
    try:
        body = file.read_bytes()
    except OSError as error:
        raise InputError(f"--file {printable(str(file))}: cannot be read: {error.strerror}") from error
    try:
        encodings = ["gzip"] if body.startswith(GZIP) else []  # saved as it was sent, or compressed later
        return HttpResponse(url, body=decode_body(body, encodings, MAX_PAGE_BYTES), headers={"Content-Type": HTML})
    except ContentError as error:
        raise InputError(f"--file {printable(str(file))}: {WHY.get(error.reason, error.reason)}") from error


def _free_path(folder: Path, page: SavedPage) -> Path:
    """The path at which the page was saved before, else the first free one."""
    number = 1
    while True:
        path = folder / (f"{page.kind}.json" if number == 1 else f"{page.kind}-{number}.json")
        if not path.exists() or SavedPage.load(path).url == page.url:
            return path
        number += 1


def _missing(page: SavedPage) -> set[str]:
    return {field for field in SHOWN[page.kind] if not page.item[field]} - EXTRAS


def _print(page: SavedPage, shop: Shop, found: str | None) -> None:
    what = f"a {found}" if found else "neither a product page nor a listing, as detected"
    sys.stdout.write(f"{printable(page.url)}: {what}, read as {shop.name}\n")
    for field in SHOWN[page.kind]:
        if page.item[field]:
            source = page.item["field_sources"].get(field, "")
            lines = list(_lines(page.item[field]))
            rest = [f"... and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
            count = f" ({len(lines)})" if isinstance(page.item[field], list | dict) else ""
            for number, line in enumerate([*lines[:MAX_LINES], *rest]):
                head = (COLUMNS.get(field, field) + count, source) if number == 0 else ("", "")
                sys.stdout.write(f"{head[0]:<18} {head[1]:<18} {printable(line)}\n")
    if unreadable := page.item.get("unreadable"):
        sys.stdout.write(f"unreadable: {unreadable} of the JSON-LD scripts of the page are not valid JSON\n")
    if missing := [COLUMNS.get(field, field) for field in SHOWN[page.kind] if field in _missing(page)]:
        sys.stdout.write(f"missing: {', '.join(missing)}\n")


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{name}: {text}" for name, text in value.items())
    elif isinstance(value, list):
        yield from value
    else:
        yield str(value)
