"""The pages of any shop: each field from wherever the page has it. What a shop's own page objects build on.

A shop that needs code overrides fields here and gives values as the page has them: the processors make them clean.
Names are those of zyte-common-items, in snake case. Knows no shop.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from parsel import Selector
from web_poet import HttpResponse, WebPage, field

from crawlers.pages.html.document import Document
from crawlers.pages.items import Listing, Product
from crawlers.pages.page_kind import LISTING
from crawlers.pages.profile import Profile
from crawlers.pages.reading import Reading
from crawlers.pages.structured_data.stock import stock_of
from crawlers.pages.text.numbers import clean_brand, clean_gtin, clean_mpn, clean_sku
from crawlers.pages.text.values import (
    clean_text,
    clean_texts,
    clean_trail,
    currency_code,
    http_url,
    http_urls,
    parse_amount,
    text_map,
)

OWN = "css"  # the source of a field that a shop's own page object reads
LISTING_FIELDS = ("items", "next_page")  # those with a source
PRODUCT_FIELDS = (
    "name", "sku", "price", "currency", "availability", "brand", "gtin", "mpn", "breadcrumbs", "additional_properties",
    "images",
)  # fmt: skip


class _Joining:
    """Links made absolute as `Document` does; web-poet's way alters them."""

    reading: Reading

    def urljoin(self, url: str) -> str:
        """``url`` made absolute."""
        return self.reading.document.urljoin(url)


class ListingPage(_Joining, WebPage[Listing]):  # type: ignore[misc]  # `urljoin` gives a str on purpose
    """A page of a category.

    Args:
        response: as it was served: HTML, or the JSON of an endpoint that loads more products.
        profile: of the shop, if it has one.
        platforms: profiles of platforms that the shop may run on.
    """

    def __init__(
        self, response: HttpResponse, profile: Profile | None = None, platforms: Sequence[Profile] = ()
    ) -> None:
        super().__init__(response)
        self.reading = Reading(Document(self), profile, platforms)

    @property
    def selector(self) -> Selector:
        """The page, parsed once for all."""
        return self.reading.document.selector

    def http_url(self, target: Any) -> str | None:
        """See `Document.http_url`; the processors' way to it."""
        return self.reading.document.http_url(target)

    class Processors:
        """What cleans each field."""

        items = [http_urls]  # noqa: RUF012 (web-poet's convention: a constant)
        next_page = [http_url]  # noqa: RUF012
        sub_categories = [http_urls]  # noqa: RUF012

    @field
    def items(self) -> Any:
        """URLs of product pages."""
        return self.reading.items("items")

    @field
    def next_page(self) -> Any:
        """URL of the category's next page: as a profile says, else as the page says, else by a platform's habit."""
        items = self.items
        return None if self.reading.leads_to_itself else self.reading.next_page("next_page", counting=bool(items))

    @property
    def kind(self) -> str | None:
        """``product`` or ``listing``; None where the page looks like neither."""
        known: str | None = self.reading.kind
        return known or (LISTING if self.items else None)

    @field
    def sub_categories(self) -> Any:
        """URLs of the categories below this one."""
        items = self.items
        return [] if self.reading.leads_to_itself else self.reading.sub_categories(without=items)

    @field
    def unreadable(self) -> int:
        """Scripts of JSON-LD on the page that could not be read."""
        return self.reading.unreadable

    async def to_item(self) -> Listing:
        """All fields, clean, and where they stood."""
        item = await super().to_item()
        return replace(item, field_sources=_sources(item, self.reading, LISTING_FIELDS))


class ProductPage(_Joining, WebPage[Product]):  # type: ignore[misc]  # `urljoin` gives a str on purpose
    """The page of one product; the arguments are those of `ListingPage`."""

    def __init__(
        self, response: HttpResponse, profile: Profile | None = None, platforms: Sequence[Profile] = ()
    ) -> None:
        super().__init__(response)
        self.reading = Reading(Document(self), profile, platforms)

    @property
    def selector(self) -> Selector:
        """The page, parsed once for all."""
        return self.reading.document.selector

    def http_url(self, target: Any) -> str | None:
        """See `Document.http_url`; the processors' way to it."""
        return self.reading.document.http_url(target)

    class Processors:
        """What cleans each field."""

        canonical_url = [http_url]  # noqa: RUF012
        name = [clean_text]  # noqa: RUF012
        sku = [clean_sku]  # noqa: RUF012
        price = [parse_amount]  # noqa: RUF012
        currency = [currency_code]  # noqa: RUF012
        availability = [stock_of]  # noqa: RUF012
        brand = [clean_brand]  # noqa: RUF012
        gtin = [clean_gtin]  # noqa: RUF012
        mpn = [clean_mpn]  # noqa: RUF012
        breadcrumbs = [clean_texts]  # noqa: RUF012
        additional_properties = [text_map]  # noqa: RUF012
        images = [http_urls]  # noqa: RUF012

    @field
    def url(self) -> str:
        """Of the page itself."""
        return self.reading.document.url

    @field
    def canonical_url(self) -> Any:
        """The page's own idea of its URL."""
        return self.reading.document.canonical_url

    @field
    def name(self) -> Any:
        """Title."""
        return self.reading.first("name", clean_text)

    @field
    def sku(self) -> Any:
        """The shop's number of the product."""
        return self.reading.sku("sku")

    @field
    def price(self) -> Any:
        """An amount, alone or with its currency."""
        return self.reading.price("price")

    @field
    def currency(self) -> Any:
        """A code, a symbol, or a text with the price."""
        return self.reading.currency("currency")

    @field
    def availability(self) -> Any:
        """Whether it can be bought: InStock, OutOfStock, PreOrder."""
        return self.reading.availability("availability")

    @field
    def brand(self) -> Any:
        """Name of the brand."""
        return self.reading.first("brand", clean_brand)

    @field
    def gtin(self) -> Any:
        """The number that it has all over the world."""
        return self.reading.first("gtin", clean_gtin)

    @field
    def mpn(self) -> Any:
        """The maker's number."""
        return self.reading.first("mpn", clean_mpn)

    @field
    def unreadable(self) -> int:
        """Scripts of JSON-LD on the page that could not be read."""
        return self.reading.unreadable

    @field
    def breadcrumbs(self) -> Any:
        """Names of the categories above the product, the widest first."""
        return self.reading.first("breadcrumbs", self._trail)

    @field
    def additional_properties(self) -> Any:
        """Pairs of names and values."""
        return self.reading.details("additional_properties")

    @field
    def images(self) -> Any:
        """URLs of images."""
        return self.reading.images("images")

    async def to_item(self) -> Product:
        """All fields, clean, and where they stood."""
        item = await super().to_item()
        return replace(item, field_sources=_sources(item, self.reading, PRODUCT_FIELDS))

    def _trail(self, values: Any) -> list[str]:
        here = {self.url, self.canonical_url}
        return clean_trail(values or (), here, self.name, self.reading.document)


def _sources(item: Any, reading: Reading, fields: Sequence[str]) -> dict[str, str]:
    """Where each of ``fields`` that ``item`` has was read."""
    return {name: reading.sources.get(name, OWN) for name in fields if getattr(item, name) not in (None, [], {})}
