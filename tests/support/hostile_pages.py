"""Damaged and hostile product and listing pages, and the check that each product field stands in the page."""

import asyncio
import html
import json
import lzma
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote, urlsplit

from scrapy.http import HtmlResponse
from web_poet import HttpResponse

from crawlers.crawl.journal import LISTING, PRODUCT, JournalPage
from crawlers.http.urls import request_url
from crawlers.pages.saved import SavedPage
from crawlers.pages.shops import shop_of
from crawlers.scrapy_app.page_reader import read
from tests.support.crawling import listing, product
from tests.support.isolated_runs import Kind
from tests.support.mutations import NUMBERS, STRANGE, mutated_text
from tests.support.paths import ROOT

SAVED = ROOT / "tests/crawlers/pages/saved"
REAL = ROOT.parent / "shared/pages_benchmark/html"  # where it is there
HEADERS = (
    *("text/html; charset=utf-8", "text/html", "text/html; charset=iso-8859-1", "text/html; charset=shift_jis"),
    *("text/html; charset=nosuch", "application/xhtml+xml", "text/html; charset=utf-16", "text/html; charset=big5"),
)
REASONS = {"no_title", "no_image", "unreadable", "cut_off", "not_html", "no_sitemap"}
TAG = re.compile(rb"<[^<>]{1,300}>")
ATTRIBUTE = re.compile(rb"""=\s*["'][^"'<>]{0,300}["']""")
SCRIPT = re.compile(rb"(<script[^>]*ld\+json[^>]*>)(.*?)(</script>)", re.DOTALL)
STATED = {"InStock", "OutOfStock", "PreOrder"}


@dataclass(frozen=True)
class Page:
    """A response."""

    kind: str
    url: str
    content_type: str
    body: bytes


@cache
def valid_pages() -> list[Page]:
    """The saved pages, pages of the tests' shop, and real ones where they are there."""
    saved = [SavedPage.load(path) for path in sorted(SAVED.glob("*/*.json"))]
    pages = [Page(one.kind, one.url, one.content_type, one.body) for one in saved]
    own = [
        (
            PRODUCT,
            product("Red Shirt", "A-12", ["/i/1.jpg", "/i/2.jpg"], price="12.50", breadcrumb=("Clothing", "Tops")),
        ),
        (LISTING, listing("/p/1", "/p/2", next_page="/c?page=2")),
    ]
    pages += [Page(kind, "https://shop.test/p/1", HEADERS[0], str(reply.body).encode()) for kind, reply in own]
    real = [lzma.decompress(path.read_bytes()) for path in sorted(REAL.glob("*.xz"))]
    return pages + [Page(PRODUCT, "https://unknown.example/p/1", HEADERS[0], body) for body in real]


def mutated_page(random: Random) -> Page:
    """A damaged or hostile page; some are read as the other kind, or have another content type."""
    pages = valid_pages()
    page, other = random.choice(pages), random.choice(pages)
    body = mutated_text(page.body, random, [other.body], [_tag, _tag, _attribute, _script, _script, _nested])
    kind = page.kind if random.random() < 0.8 else random.choice((LISTING, PRODUCT))
    content_type = page.content_type if random.random() < 0.8 else random.choice(HEADERS)
    return Page(kind, page.url, content_type, body)


def _tag(data: bytes, random: Random) -> bytes:
    """Remove, repeat or move a tag."""
    tags = list(TAG.finditer(data))
    if not tags:
        return data
    one, other = random.choice(tags), random.choice(tags)
    new = random.choice((b"", one[0] * 2, one[0] * 3_000, other[0], b"<" + one[0], one[0][:-1]))
    return data[: one.start()] + new + data[one.end() :]


def _attribute(data: bytes, random: Random) -> bytes:
    found = list(ATTRIBUTE.finditer(data))
    if not found:
        return data
    one = random.choice(found)
    new = random.choice((*STRANGE, *NUMBERS, random.choice(found)[0].decode("latin-1")))
    return data[: one.start()] + b'="' + new.encode("utf-8", "surrogatepass") + b'"' + data[one.end() :]


def _script(data: bytes, random: Random) -> bytes:
    """Change a value of JSON-LD to one of another type."""
    found = list(SCRIPT.finditer(data))
    if not found:
        return data
    one = random.choice(found)
    try:
        value = json.loads(one[2])
    except ValueError:
        return data
    places = [value]
    for node in places:
        places += [
            child for child in (node.values() if isinstance(node, dict) else node) if isinstance(child, dict | list)
        ]
    node = random.choice(places)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if keys:
        odd = (
            None,
            True,
            -1,
            1e308,
            10**400,
            "",
            "  ",
            [],
            {},
            [[[]]],
            {"@value": "x"},
            {"@id": "#a"},
            ["a", {}],
            node,
        )
        node[random.choice(keys)] = random.choice((*odd, *STRANGE[:20], *NUMBERS))
    try:
        written = json.dumps(value)
    except ValueError:  # the node in itself
        return data
    return data[: one.start(2)] + written.encode() + data[one.end(2) :]


def _nested(data: bytes, random: Random) -> bytes:
    at = random.choice([one.start() for one in TAG.finditer(data)] or [0])
    opening = random.choice(
        (b"<div>", b"<span class='price'>", b"<table><tr><td>", b"<a href='/p/9'><img src='/9.jpg'>", b"<b")
    )
    return data[:at] + opening * random.choice((50, 300, 5_000, 50_000)) + data[at:]


def read_page(page: Page) -> JournalPage:
    """Read ``page`` as the spider does."""
    response = HtmlResponse(page.url, body=page.body, headers={"Content-Type": page.content_type})
    shop = shop_of(urlsplit(page.url).hostname or "")
    return asyncio.run(read(page.kind, shop, "reader", request_url(page.url), response))


def check_page(page: Page, folder: Path) -> str:
    """Check that a page is discarded with a reason, or that each of its fields stands in the page."""
    found = read_page(page)
    assert found.dropped is None or found.dropped in REASONS, found.dropped
    assert found.dropped != "unreadable", "a reader failed: see the log"
    if found.item is None:
        assert found.dropped, "neither an item nor a reason"
        return found.dropped
    item = json.loads(found.item)
    if page.kind == PRODUCT:
        check_fields(item, page)
    elif page.kind == LISTING:
        urls = item["items"] + item["next_pages"]
        assert all(url.startswith(("http://", "https://")) for url in urls)
        assert len(item["items"]) == len(set(item["items"]))
    return found.dropped or f"ok, {page.kind}"


def check_fields(item: Mapping[str, Any], page: Page) -> None:
    """Assert that the name, numbers, price, brand, details and images of a product are in its page."""
    texts = _Texts(page)
    for name in ("name", "sku", "gtin", "mpn", "brand"):
        value = item[name]
        assert value is None or texts.has(str(value)) or (name == "gtin" and texts.has(str(value)[3:-1])), (name, value)
    for name, values in (("breadcrumbs", item["breadcrumbs"]), ("details", item["additional_properties"])):
        pairs = values.items() if isinstance(values, dict) else ((one, one) for one in values)
        for key, value in pairs:
            assert texts.has(str(value)), (name, key, value)
    if item["price"] is not None:
        assert texts.has_amount(Decimal(str(item["price"]))), item["price"]
    assert item["availability"] in (None, *STATED)
    for url in item["images"]:
        last = urlsplit(url).path.rstrip("/").rpartition("/")[2] or urlsplit(url).netloc
        assert texts.has(unquote(last), r"[\W_]+") or texts.has(last, r"[\W_]+"), url  # a size may be removed from it


class _Texts:
    """The texts of a page without white space and punctuation: as written, unescaped, without tags, as JSON."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._versions: list[str] = []
        self._letters: list[str] = []
        self._waiting = self._all_versions()

    def _all_versions(self) -> Iterator[str]:
        text = HttpResponse(
            self._page.url, body=self._page.body, headers={"Content-Type": self._page.content_type}
        ).text
        without = re.sub(r"<!--.*?-->|<script.*?</script>|<[^>]*>", "", text, flags=re.DOTALL)
        escaped = re.sub(r"\\(.)", r"\1", _json_unescaped(text))
        versions = [self._page.url, text, without, escaped, re.sub(r"<[^>]*>", "", text), unquote(text)]
        versions.append(self._page.body.decode("utf-8", "replace"))
        for _ in range(4):
            yield from versions
            versions = [plain for one in versions if (plain := html.unescape(one)) != one]

    def _each(self) -> Iterator[tuple[str, str]]:
        """Each version, as written and as letters; made when it is wanted."""
        yield from zip(self._versions, self._letters, strict=True)
        for version in self._waiting:
            self._versions.append(version)
            self._letters.append(_letters(version))
            yield version, self._letters[-1]

    def has(self, text: str, separators: str = r"[\s,;/|]+") -> bool:
        wanted = _letters(text)
        if any(wanted in letters for _, letters in self._each()):
            return True
        parts = [_letters(part) for part in re.split(separators, text)]  # a text of several elements
        return all(any(part in letters for _, letters in self._each()) for part in parts)

    def has_amount(self, amount: Decimal) -> bool:
        """Whether the amount is in the page, with any separators, or as a number that rounds to it."""
        cents = str(amount).replace(".", "")
        wanted = {cents.lstrip("0"), cents.rstrip("0").lstrip("0"), cents.lstrip("0").removesuffix("00")} - {""}
        if amount == 0 or any(one in letters for one in wanted for _, letters in self._each()):
            return True
        numbers = (found for text, _ in self._each() for found in re.findall(r"\d[\d.,'’\s]*(?:[eE][-+]?\d+)?", text))
        return any(_rounds_to(one, amount) for one in numbers)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", text)).casefold()


def _json_unescaped(text: str) -> str:
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)


def _rounds_to(text: str, amount: Decimal) -> bool:
    for written in (text, text.replace(",", ""), text.replace(".", "").replace(",", "."), text.replace(",", ".")):
        try:
            value = Decimal(re.sub(r"['’\s]", "", written).rstrip("."))
            if abs(value - amount) <= Decimal("0.0051"):
                return True
        except (ArithmeticError, ValueError):
            continue
    return False


PAGES = Kind(mutated_page, check_page)
