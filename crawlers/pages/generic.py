"""Generic page objects for any shop, and the base classes of shop-specific ones.

A shop-specific page object overrides fields and returns raw values; the processors here clean them. Field names are
those of zyte-common-items in snake case.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from parsel import Selector
from web_poet import HttpResponse, WebPage, field

from crawlers.pages.html.document import Document
from crawlers.pages.items import Listing, Product
from crawlers.pages.page_kind import LISTING
from crawlers.pages.profile import ShopProfile
from crawlers.pages.reading import Reading
from crawlers.pages.structured_data.stock import stock_of
from crawlers.pages.text.numbers import clean_brand, clean_gtin, clean_mpn, clean_sku
from crawlers.pages.text.values import (
    clean_breadcrumbs,
    clean_text,
    clean_texts,
    currency_code,
    http_url,
    http_urls,
    parse_amount,
    text_map,
)

CSS = "css"  # source of a field that a shop-specific page object reads
LISTING_FIELDS = ("items", "next_page")  # fields whose source is recorded
PRODUCT_FIELDS = (
    "name", "sku", "price", "currency", "availability", "brand", "gtin", "mpn", "breadcrumbs", "additional_properties",
    "images",
)  # fmt: skip


class _UrlJoining:
    """Makes links absolute with `Document.urljoin`, because web-poet's own method alters them."""

    reading: Reading

    def urljoin(self, url: str) -> str:
        """``url`` made absolute."""
        return self.reading.document.urljoin(url)


class ListingPage(_UrlJoining, WebPage[Listing]):  # type: ignore[misc]  # `urljoin` returns str on purpose
    """Page object of a category page.

    Args:
        response: HTML, or the JSON of an endpoint that loads more products.
        profile: profile of the shop, if there is one.
        platforms: profiles of platforms that the shop may run on.
    """

    def __init__(
        self, response: HttpResponse, profile: ShopProfile | None = None, platforms: Sequence[ShopProfile] = ()
    ) -> None:
        super().__init__(response)
        self.reading = Reading(Document(self), profile, platforms)

    @property
    def selector(self) -> Selector:
        """Selector over the document that all readers share."""
        return self.reading.document.selector

    def http_url(self, target: Any) -> str | None:
        """See `Document.http_url`; called by the processors."""
        return self.reading.document.http_url(target)

    class Processors:
        """Functions that clean each field."""

        items = [http_urls]
        next_page = [http_url]
        sub_categories = [http_urls]

    @field
    def items(self) -> Any:
        """URLs of product pages."""
        return self.reading.items("items")

    @field
    def next_page(self) -> Any:
        """URL of the category's next page: by the shop's profile, else by the page, else by the platform's profile."""
        items = self.items
        return None if self.reading.redirects_to_product else self.reading.next_page("next_page", counting=bool(items))

    @property
    def kind(self) -> str | None:
        """``product`` or ``listing``; None if the page looks like neither."""
        known: str | None = self.reading.kind
        return known or (LISTING if self.items else None)

    @field
    def sub_categories(self) -> Any:
        """URLs of narrower categories."""
        items = self.items
        return [] if self.reading.redirects_to_product else self.reading.sub_categories(exclude=items)

    @field
    def unreadable(self) -> int:
        """Number of JSON-LD scripts that could not be parsed."""
        return self.reading.unreadable

    async def to_item(self) -> Listing:
        """All fields, cleaned, with their sources."""
        item = await super().to_item()
        return replace(item, field_sources=_sources(item, self.reading, LISTING_FIELDS))


class ProductPage(_UrlJoining, WebPage[Product]):  # type: ignore[misc]  # `urljoin` returns str on purpose
    """Page object of a product page; the arguments are those of `ListingPage`."""

    def __init__(
        self, response: HttpResponse, profile: ShopProfile | None = None, platforms: Sequence[ShopProfile] = ()
    ) -> None:
        super().__init__(response)
        self.reading = Reading(Document(self), profile, platforms)

    @property
    def selector(self) -> Selector:
        """Selector over the document that all readers share."""
        return self.reading.document.selector

    def http_url(self, target: Any) -> str | None:
        """See `Document.http_url`; called by the processors."""
        return self.reading.document.http_url(target)

    class Processors:
        """Functions that clean each field."""

        canonical_url = [http_url]
        name = [clean_text]
        sku = [clean_sku]
        price = [parse_amount]
        currency = [currency_code]
        availability = [stock_of]
        brand = [clean_brand]
        gtin = [clean_gtin]
        mpn = [clean_mpn]
        breadcrumbs = [clean_texts]
        additional_properties = [text_map]
        images = [http_urls]

    @field
    def url(self) -> str:
        """URL of the page after redirects."""
        return self.reading.document.url

    @field
    def canonical_url(self) -> Any:
        """URL in the page's canonical link."""
        return self.reading.document.canonical_url

    @field
    def name(self) -> Any:
        """Title."""
        return self.reading.first("name", clean_text)

    @field
    def sku(self) -> Any:
        """The shop's own product number."""
        return self.reading.sku("sku")

    @field
    def price(self) -> Any:
        """Price, with or without its currency."""
        return self.reading.price("price")

    @field
    def currency(self) -> Any:
        """Currency code or symbol, or a text that holds the price with one."""
        return self.reading.currency("currency")

    @field
    def availability(self) -> Any:
        """InStock, OutOfStock or PreOrder."""
        return self.reading.availability("availability")

    @field
    def brand(self) -> Any:
        """Brand name."""
        return self.reading.first("brand", clean_brand)

    @field
    def gtin(self) -> Any:
        """Global Trade Item Number (EAN, UPC, ISBN)."""
        return self.reading.first("gtin", clean_gtin)

    @field
    def mpn(self) -> Any:
        """Manufacturer part number."""
        return self.reading.first("mpn", clean_mpn)

    @field
    def unreadable(self) -> int:
        """Number of JSON-LD scripts that could not be parsed."""
        return self.reading.unreadable

    @field
    def breadcrumbs(self) -> Any:
        """Names of the product's categories, broadest first."""
        return self.reading.first("breadcrumbs", self._trail)

    @field
    def additional_properties(self) -> Any:
        """Product details as pairs of name and value."""
        return self.reading.details("additional_properties")

    @field
    def images(self) -> Any:
        """Image URLs."""
        return self.reading.images("images")

    async def to_item(self) -> Product:
        """All fields, cleaned, with their sources."""
        item = await super().to_item()
        return replace(item, field_sources=_sources(item, self.reading, PRODUCT_FIELDS))

    def _trail(self, values: Any) -> list[str]:
        here = {self.url, self.canonical_url}
        return clean_breadcrumbs(values or (), here, self.name, self.reading.document)


def _sources(item: Any, reading: Reading, fields: Sequence[str]) -> dict[str, str]:
    """The source of each of ``fields`` that has a value in ``item``."""
    return {name: reading.sources.get(name, CSS) for name in fields if getattr(item, name) not in (None, [], {})}
