"""Combines several readers of a page, and records for each field its value and its source.

The readers, in order: the shop's profile, the platform's profile, JSON-LD, microdata, OpenGraph, heuristics. Each reads
the page on first use. For most fields the first usable value is taken. Price, SKU, availability and images have their
own rules, chosen by measurements on real pages (benchmarks/product_pages.py).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any, Protocol, TypeVar

from crawlers.pages.fields.currencies import resolve_currency
from crawlers.pages.fields.gallery import SourceImages, merge_images
from crawlers.pages.fields.images import is_placeholder
from crawlers.pages.fields.url_numbers import number_in_url
from crawlers.pages.heuristics import Heuristics
from crawlers.pages.html.document import Document
from crawlers.pages.listings.pager import next_pages
from crawlers.pages.listings.tiles import links_below
from crawlers.pages.page_kind import LISTING, PRODUCT, Evidence, collect_evidence
from crawlers.pages.profile import Rewrite, ShopProfile
from crawlers.pages.selecting import ProfileReader, apply_rewrites, matches_platform
from crawlers.pages.structured_data.json_ld import json_ld
from crawlers.pages.structured_data.microdata import microdata, open_graph
from crawlers.pages.structured_data.nodes import Node
from crawlers.pages.structured_data.stock import IN_STOCK, OUT_OF_STOCK, stock_of
from crawlers.pages.structured_data.structured import SchemaOrg
from crawlers.pages.text.numbers import clean_gtin, clean_sku
from crawlers.pages.text.values import clean_text, currency_code, http_url, http_urls, parse_amount, text_map

T = TypeVar("T")
STRUCTURED = ("json-ld", "microdata", "opengraph")  # sources that are structured data
MAY_HOLD_PROMOTIONS = ("profile", "microdata")  # sources that may also include promoted products beside a listing
PRODUCT_PAGE = "product page"  # source of a listing whose URL led to its only product


class Reader(Protocol):
    """Reads fields of one page."""

    def read(self, field: str) -> Any:
        """The raw value of ``field``; None if the reader finds none."""
        ...

    def source(self, field: str) -> str:
        """The name recorded as the source of ``field``."""
        ...


class Reading:
    """All readers of one page.

    Args:
        document: the page.
        profile: profile of its shop, if there is one.
        platforms: platform profiles; the first whose ``detect`` matches the page is used.
    """

    def __init__(self, document: Document, profile: ShopProfile | None, platforms: Sequence[ShopProfile]) -> None:
        self.document, self._profile, self._platforms = document, profile, platforms
        self.sources: dict[str, str] = {}  # field -> source
        self._known: dict[str, Any] = {}  # field -> value; some fields depend on others

    @cached_property
    def _shop(self) -> ProfileReader | None:
        return None if self._profile is None else ProfileReader(self._profile, self.document)

    @cached_property
    def _platform(self) -> ProfileReader | None:
        found = (one for one in self._platforms if one.detect and matches_platform(one.detect, self.document))
        return next((ProfileReader(one, self.document) for one in found), None)

    @cached_property
    def _profiles(self) -> list[ProfileReader]:
        return [reader for reader in (self._shop, self._platform) if reader is not None]

    @cached_property
    def _json_ld(self) -> tuple[list[Node], int]:
        return json_ld(self.document)

    @property
    def unreadable(self) -> int:
        """Number of JSON-LD scripts that could not be parsed."""
        return self._json_ld[1]

    @cached_property
    def _syntaxes(self) -> list[SchemaOrg]:
        loaders = (lambda _: self._json_ld[0], microdata, open_graph)
        return [SchemaOrg(name, self.document, load) for name, load in zip(STRUCTURED, loaders, strict=True)]

    @cached_property
    def _heuristics(self) -> Heuristics:
        return Heuristics(self.document)

    def first(self, field: str, clean: Callable[[Any], T]) -> T:
        """The first reader's value of ``field`` that is not empty after ``clean``."""
        if field not in self._known:
            value, source = _first(field, clean, [*self._profiles, *self._syntaxes, self._heuristics])
            self._known[field] = self._record(field, value, source)
        known: T = self._known[field]
        return known

    def sku(self, field: str) -> str | None:
        """The shop's product number: from a profile, else the visible text, else structured data, else the URL.

        Visible text precedes structured data, in which many shops put the number of a size or the manufacturer's. A
        GTIN in structured data is used only if no other number is found.
        """
        last: tuple[str, str] | None = None
        for value, source in self._numbers(field):
            number = clean_sku(value)
            if number and not (source in STRUCTURED and clean_gtin(number)):
                return self._record(field, number, self._structured_source_of(number, field) or source)
            last = last or (number and (number, source)) or None
        return None if last is None else self._record(field, *last)

    def _numbers(self, field: str) -> Iterator[tuple[Any, str]]:
        for profile in self._profiles:
            yield profile.read(field), profile.source(field)
        guessed = self._heuristics.source(field)
        labels = self._heuristics.labels
        yield from ((value, guessed) for value in (*labels.numbers_in_url, *labels.numbers))
        yield self._heuristics.read(field), guessed
        yield from ((reader.read(field), reader.source(field)) for reader in self._syntaxes)
        urls = [self.document.url, self.document.canonical_url]
        yield number_in_url(self.document, urls), "url"
        yield from ((value, guessed) for value in self._heuristics.labels.values("gtin"))

    def _structured_source_of(self, number: str, field: str) -> str | None:
        """The source of structured data that has the same number."""
        same = (one.source(field) for one in self._syntaxes if _letters(one.read(field)) == _letters(number))
        return next(same, None)

    def price(self, field: str) -> Decimal | None:
        """The current price. The visible price replaces a structured one that the page shows as struck through."""
        amount = self.first(field, parse_amount)
        if amount and self.sources.get(field) in STRUCTURED and (now := self._heuristics.prices.lower_than(amount)):
            self._known[field] = self._record(field, now.amount, self._heuristics.source(field))
        known: Decimal | None = self._known[field]
        return known

    def currency(self, field: str) -> str | None:
        """The currency code; a symbol that several countries share is resolved with the page's country."""
        code = self.first(field, currency_code)
        if code is not None:
            return code
        readers: list[Reader] = [*self._profiles, *self._syntaxes, self._heuristics]
        for reader in readers:
            text = clean_text(reader.read(field))
            if text and (found := resolve_currency(text, self.document)):
                return self._record(field, found[0], f"{reader.source(field)}+{found[1]}")
        return None

    def availability(self, field: str) -> str | None:
        """The availability by the first reader that finds one, else in stock if there is a price.

        Structured data that says out of stock is overruled by a visible buy button without a sold-out text: it then
        describes a single size or colour.
        """
        stock = self.first(field, stock_of)
        if stock == OUT_OF_STOCK and self.sources.get(field) in STRUCTURED and self._heuristics.labels.has_buy_button:
            return self._record(field, IN_STOCK, self._heuristics.source(field))
        if stock is None and self.price("price"):
            return self._record(field, IN_STOCK, "price")
        return stock

    def details(self, field: str) -> dict[str, str]:
        """Pairs of name and value from the first structured source, then from visible tables and lists."""
        structured, how_structured = _first(field, text_map, self._syntaxes)
        shown, how_shown = _first(field, text_map, [*self._profiles, self._heuristics])
        return self._record(
            field, text_map([*structured.items(), *shown.items()]), "+".join(filter(None, (how_structured, how_shown)))
        )

    def next_page(self, field: str, *, counting: bool) -> str | None:
        """The URL of the next page: by the shop's profile, else by the page, else by the platform's profile.

        Args:
            field: name of the field.
            counting: whether a profile's ``page_url`` may be used; False on a page without products.
        """
        for url, source in self._next_pages(field, counting=counting):
            if url and url != self.document.url:
                return self._record(field, url, source)
        return None

    def _next_pages(self, field: str, *, counting: bool) -> Iterator[tuple[str | None, str]]:
        for reader in self._profiles:
            yield http_url(reader.read(field), self.document), "profile"
        if self._shop is not None and counting:
            yield self._shop.counted_next_page(), "profile"
        yield from next_pages(self.document, exclude=self._known.get("items") or ())
        if self._platform is not None and counting:
            yield self._platform.counted_next_page(), "profile"

    def items(self, field: str) -> list[str]:
        """The product URLs of a listing: by the shop's profile, else by the first reader with any.

        If a category redirects to its only product, the result is that page's URL, not the products that it recommends.
        """
        if self._shop is not None and (found := self.product_urls(self._shop.read(field))):
            return self._record(field, found, self._shop.source(field))
        if self.is_product_page:
            return self._record(field, [self.document.url], PRODUCT_PAGE)
        found = self.first(field, self.product_urls)
        if found and self.sources[field] in MAY_HOLD_PROMOTIONS:
            promoted = self._heuristics.tiles.promoted
            found = [url for url in found if url not in promoted]
        return found

    @property
    def redirects_to_product(self) -> bool:
        """Whether the page was requested as a listing and is a product page."""
        return self.sources.get("items") == PRODUCT_PAGE

    @cached_property
    def is_product_page(self) -> bool:
        """Whether the page is a product page, by `Evidence.is_product_page` or by its URL."""
        if self.document.root is None:
            return False
        if (known := self._has_product_url) is not None:
            return known
        first = self._syntaxes[0]
        if first.lists_products and not first.product_names:  # skips collecting the rest of the evidence
            return False
        return self._evidence.is_product_page

    @property
    def kind(self) -> str | None:
        """The more likely kind, ``product`` or ``listing``; None if it is neither."""
        if (known := self._has_product_url) is not None:
            return PRODUCT if known else LISTING
        return self._evidence.kind

    @cached_property
    def _has_product_url(self) -> bool | None:
        """Whether the page's URL matches ``product_url`` of the profiles; None if no profile has one."""
        known = [reader.profile for reader in self._profiles if reader.profile.product_url]
        url = apply_rewrites(self.document.url, self._rules("rewrite_product_urls"))
        return all(re.search(str(one.product_url), url) for one in known) if known else None

    @cached_property
    def _evidence(self) -> Evidence:
        named = [self.product_urls(reader.read("items")) for reader in self._profiles]
        paged = next(next_pages(self.document), None) is not None
        return collect_evidence(
            self.document, self._syntaxes[:-1], self._heuristics, max(named, key=len, default=[]), paged
        )

    def product_urls(self, values: Iterable[Any] | None) -> list[str]:
        """Product URLs without duplicates, rewritten and filtered by the profiles."""
        urls = [
            apply_rewrites(url, self._rules("rewrite_product_urls")) for url in http_urls(values or (), self.document)
        ]
        wanted = [reader.profile.product_url for reader in self._profiles if reader.profile.product_url]
        return [
            url
            for url in dict.fromkeys(urls)
            if url != self.document.url and all(re.search(pattern, url) for pattern in wanted)
        ]

    def sub_categories(self, *, exclude: Collection[str]) -> list[str]:
        """The links below this page's own path that are not in ``exclude``, its products."""
        rules = self._rules("rewrite_product_urls")
        return [url for url in links_below(self.document) if apply_rewrites(url, rules) not in exclude]

    def images(self, field: str) -> list[str]:
        """The product's image URLs: from a profile, else merged from structured data and the gallery."""
        known, source = _first(field, self.image_urls, self._profiles)
        if known:
            return self._record(field, known, source)
        structured = [SourceImages(one.source(field), self.image_urls(one.read(field))) for one in self._syntaxes]
        guessed = self._heuristics.source(field)
        urls, sources = merge_images(structured, SourceImages(guessed, self.image_urls(self._heuristics.gallery)))
        if not urls:
            urls, sources = self.image_urls(self._heuristics.read(field)), [guessed]
        return self._record(field, urls, "+".join(sources))

    def image_urls(self, values: Iterable[Any] | None) -> list[str]:
        """Image URLs without duplicates and placeholders, rewritten to full size by the profiles."""
        urls = [
            apply_rewrites(url, self._rules("rewrite_image_urls")) for url in http_urls(values or (), self.document)
        ]
        return [url for url in dict.fromkeys(urls) if not is_placeholder(url) and "{" not in url and "%7B" not in url]

    def _rules(self, name: str) -> list[Rewrite]:
        return [rule for reader in self._profiles for rule in getattr(reader.profile, name)]

    def _record(self, field: str, value: T, source: str | None) -> T:
        if source:
            self.sources[field] = source
        return value


def _letters(number: Any) -> str:
    return "".join(filter(str.isalnum, str(number))).lower()


def _first(field: str, clean: Callable[[Any], T], readers: Sequence[Reader]) -> tuple[T, str | None]:
    for reader in readers:
        value = clean(reader.read(field))
        if value:
            return value, reader.source(field)
    return clean(None), None
