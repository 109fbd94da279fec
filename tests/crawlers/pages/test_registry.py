"""Saved pages: each saved/<folder>/<name>.html is read and compared with the item in <name>.json.

`atlas crawl record` saves such pages; nothing else need be done to have them tested.
"""

import json
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from web_poet import HttpResponse

from crawlers.pages import registry
from crawlers.pages.items import Product
from crawlers.pages.saved import Kind, SavedPage, read_page
from crawlers.pages.shops import SHOPS_WITH_CODE, shop_of
from crawlers.pages.text.values import clean_text, currency_code, http_url, parse_amount

SAVED = Path(__file__).parent / "saved"
PAGES = sorted(SAVED.glob("*/*.json"))
HTML = {"Content-Type": "text/html; charset=utf-8"}


def read(html: bytes, url: str, kind: Kind) -> dict[str, Any]:
    """Read a page; returns the item as JSON values."""
    return read_page(kind, shop_of(urlsplit(url).hostname or ""), HttpResponse(url, body=html, headers=HTML))


@pytest.fixture(scope="module")
def items() -> dict[Path, dict[str, Any]]:
    """The item read from each saved page."""
    pages = {path: SavedPage.load(path) for path in PAGES}
    return {
        path: read_page(page.kind, shop_of(urlsplit(page.url).hostname or ""), page.response)
        for path, page in pages.items()
    }


@pytest.mark.parametrize(
    ("path", "field"),
    [(path, field) for path in PAGES for field in json.loads(path.read_text(encoding="utf-8"))["item"]],
    ids=lambda value: value if isinstance(value, str) else str(value.relative_to(SAVED).with_suffix("")),
)
def test_field_of_saved_page(path: Path, field: str, items: dict[Path, dict[str, Any]]) -> None:
    assert items[path][field] == SavedPage.load(path).item[field]


def test_saved_pages_cover_all_fields_and_shops_with_code() -> None:
    pages = [SavedPage.load(path) for path in PAGES]
    assert {(shop, kind) for shop in SHOPS_WITH_CODE for kind in ("listing", "product")} <= {
        (urlsplit(page.url).hostname, page.kind) for page in pages
    }
    for page in pages:
        if page.kind == "product":
            assert set(page.item) == set(Product.__dataclass_fields__)


@pytest.mark.parametrize("kind", ["listing", "product"])
@pytest.mark.parametrize("host", [*SHOPS_WITH_CODE, "unknown.example"])
@pytest.mark.parametrize(
    "html",
    [
        b"",
        b"   ",
        b"\x00\xff\xfe",
        b"<html>",
        b"<!-- only a comment -->",
        b'<script type="application/ld+json"></script>',
        b'<script type="application/ld+json">[null, 1, "x", [[]], {"@type": 3}]</script>',
        b'<script type="application/ld+json">' + b'{"@graph":' * 3000 + b"</script>",
        b'<script type="application/ld+json">{"@type": "Product", "name": {"a": []}, "offers": 1, "image": 7}</script>',
        b'<div itemscope itemtype="https://schema.org/Product"></div><h1 itemprop="name"></h1>',
        b'<link rel="canonical" href="http://[broken"><link rel="next" href="javascript:x">',
    ],
    ids=range(11),
)
def test_useless_page_yields_an_empty_item(host: str, kind: Kind, html: bytes) -> None:
    item = read(html, f"http://{host}/x", kind)
    assert not any(value for field, value in item.items() if field not in ("url", "unreadable"))
    assert item["unreadable"] == (b'{"@graph":' in html)


@pytest.mark.parametrize("kind", ["listing", "product"])
@pytest.mark.parametrize(
    "html",
    [
        b"<h1>x</h1>" + b"<div class=price>1 " * 50_000,
        b"<h1>x</h1>" + b"<div><a href=/p><img src=/i.jpg>" * 20_000,
        b"<div itemscope itemprop=a itemtype=http://schema.org/Product>" * 50_000,
        b"<table><tr><td>a<td>" * 20_000,
        b"<h1>x</h1><img class=gallery srcset='" + b"a 1w, " * 500_000 + b"'>",
        b'<script type="application/ld+json">' + b'{"a":[1,/**/' * 200_000 + b"</script>",
        b"<div class=pagination>" + b"<a href='?page=2'>x</a><b class=current>1</b>" * 20_000,
        b"<div class=breadcrumb>" * 200 + b"<li>x" * 50_000,
        (b"<div class='" + b"xxxxxxxx " * 2_000 + b"'>") * 50 + b"<a href=/p>x</a>" * 2_000,
        b'<script type="application/ld+json">{' + b"\n" * 200_000 + b"</script>",
    ],
    ids=["prices", "links", "items", "tables", "srcset", "json", "pager", "trails", "names", "lines"],
)
@pytest.mark.no_cover  # coverage would slow it down
def test_malicious_pages_are_read_in_bounded_time(kind: Kind, html: bytes) -> None:
    started = time.process_time()
    read(html, "https://unknown.example/x", kind)
    assert time.process_time() - started < 5  # seconds; each takes less than one


def test_title_keeps_html_as_text_and_resolves_entities_once() -> None:
    html = b"<h1 class=product_title>&lt;script&gt;alert(1)&lt;/script&gt; &amp;amp; more</h1>"
    item = read(html, "http://shop-c.demo.test/product/x-1/", "product")
    assert item["name"] == "<script>alert(1)</script> &amp; more"


def test_subdomain_belongs_to_its_shop() -> None:
    assert shop_of("www.shop-a.demo.test") is SHOPS_WITH_CODE["shop-a.demo.test"]
    assert shop_of("demo.test") is shop_of("notshop-a.demo.test")


@pytest.mark.parametrize(
    ("text", "amount", "currency"),
    [
        ("Rs.\u00a01,299.00", "1299.00", "INR"),
        ("Rs.999", "999.00", "INR"),
        ("1\u202f299,90 €", "1299.90", "EUR"),
        ("CHF 1’299.–", "1299.00", "CHF"),
        ("£1,234", "1234.00", "GBP"),
        ("10 € - 20 €", "10.00", "EUR"),
        ("1299.999", "1300.00", None),
        ("$ 12", "12.00", None),
        ("12,50 lei", "12.50", "RON"),
        ("-5 €", None, "EUR"),
        (-1, None, None),
        ("sold out", None, None),
        ("9" * 30, None, None),
        ("", None, None),
        (None, None, None),
        (12.5, "12.50", None),
        (True, None, None),
        ({"price": 1}, None, None),
    ],
)
def test_price(text: object, amount: str | None, currency: str | None) -> None:
    assert parse_amount(text) == (None if amount is None else Decimal(amount))
    assert currency_code(text) == currency


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  a\u00a0\n b ", "a b"),
        ("a\u202eb\u200bc\x00d", "abcd"),
        ("half \ud800 pair", "half  pair"),
        ("", None),
        ([], None),
        (7, "7"),
    ],
)
def test_clean_text(text: object, clean: str | None) -> None:
    assert clean_text(text) == clean


def test_text_length_is_bounded() -> None:
    assert len(clean_text("x" * 10**6) or "") == 2000


@dataclass(frozen=True)
class Base:
    def urljoin(self, url: str) -> str:
        return urljoin("http://shop.test/list", url)


def test_rejects_urls_with_invalid_hosts_or_ports() -> None:
    hopeless = ["http://a..test/", f"http://{'a' * 64}.test/", "http://h:99999/"]
    assert [http_url(url, Base()) for url in hopeless] == [None] * len(hopeless)
    assert http_url("http://münchen.test/a#b", Base()) == "http://münchen.test/a"


def test_removes_passwords_from_urls() -> None:
    assert http_url("//user:secret@shop.test:8080/p/1?q=a@b", Base()) == "http://shop.test:8080/p/1?q=a@b"


def test_registry_alone_suffices_to_read_a_page() -> None:
    assert {"GENERIC", "read_listing", "read_product", "shop_of"} <= set(registry.__all__)
