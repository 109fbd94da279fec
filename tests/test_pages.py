"""Page objects on saved pages: tests/pages/<shop>_<kind>.html is read, <shop>_<kind>.json says what is on it."""

import asyncio
import json
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from web_poet import HttpResponse

from crawlers.items import Product
from crawlers.pages.registry import GENERIC, WITH_CODE, read_listing, read_product, shop_of
from crawlers.pages.values import clean_text, currency_code, parse_amount

SAVED = Path(__file__).parent / "pages"


def read(html: bytes, url: str, kind: str) -> dict:
    """The item on a page, as plain values."""
    read = read_listing if kind == "listing" else read_product
    item = asyncio.run(read(shop_of(urlsplit(url).hostname), HttpResponse(url, body=html)))
    return item.to_json() if kind == "product" else asdict(item)


def cases() -> list[tuple[str, str]]:
    """Every field of every saved page."""
    expected = {path.stem: json.loads(path.read_text())["item"] for path in sorted(SAVED.glob("*.json"))}
    return [(name, field) for name, item in expected.items() for field in item]


@pytest.mark.parametrize(("name", "field"), cases())
def test_field(name: str, field: str) -> None:
    expected = json.loads((SAVED / f"{name}.json").read_text())
    item = read((SAVED / f"{name}.html").read_bytes(), expected["page_url"], name.rpartition("_")[2])
    assert item[field] == expected["item"][field]


def test_every_field_and_every_shop_is_covered() -> None:
    hosts = {urlsplit(json.loads(path.read_text())["page_url"]).hostname for path in SAVED.glob("*_product.json")}
    assert set(WITH_CODE) <= hosts
    for path in SAVED.glob("*_product.json"):
        assert set(json.loads(path.read_text())["item"]) | {"field_sources"} == set(Product.__dataclass_fields__)


@pytest.mark.parametrize("kind", ["listing", "product"])
@pytest.mark.parametrize("host", [*WITH_CODE, "unknown.example"])
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
def test_a_page_without_anything_useful_reads_as_nothing(host: str, kind: str, html: bytes) -> None:
    item = read(html, f"http://{host}/x", kind)
    assert not any(value for field, value in item.items() if field != "url")


def test_html_in_a_title_stays_text_and_entities_are_resolved_once() -> None:
    html = b"<h1 class=product_title>&lt;script&gt;alert(1)&lt;/script&gt; &amp;amp; more</h1>"
    item = read(html, "http://shop-c.demo.test/product/x-1/", "product")
    assert item["name"] == "<script>alert(1)</script> &amp; more"


def test_hosts_below_a_shop_are_read_as_it() -> None:
    assert shop_of("www.shop-a.demo.test") is WITH_CODE["shop-a.demo.test"]
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


def test_texts_have_an_end() -> None:
    assert len(clean_text("x" * 10**6) or "") == 2000
