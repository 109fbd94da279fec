"""What every listing page and every product page answers, whatever the shop.

A shop's page object gives each field as the page has it; the processors here make it clean. Names are those of
zyte-common-items, in snake case. Knows no shop.
"""

from typing import Any

from web_poet import WebPage, field

from crawlers.items import Listing, Product
from crawlers.pages.values import clean_text, clean_texts, currency_code, http_url, http_urls, parse_amount, text_map


class ListingPage(WebPage[Listing]):
    """A page of a category."""

    class Processors:
        """What cleans each field."""

        items = [http_urls]  # noqa: RUF012 (web-poet's convention: a constant)
        next_page = [http_url]  # noqa: RUF012

    @field
    def items(self) -> Any:
        """URLs of product pages."""
        return []

    @field
    def next_page(self) -> Any:
        """URL of the category's next page."""
        return self.css("link[rel~=next]::attr(href), a[rel~=next]::attr(href)").get()


class ProductPage(WebPage[Product]):
    """The page of one product."""

    class Processors:
        """What cleans each field."""

        canonical_url = [http_url]  # noqa: RUF012
        name = [clean_text]  # noqa: RUF012
        sku = [clean_text]  # noqa: RUF012
        price = [parse_amount]  # noqa: RUF012
        currency = [currency_code]  # noqa: RUF012
        breadcrumbs = [clean_texts]  # noqa: RUF012
        additional_properties = [text_map]  # noqa: RUF012
        images = [http_urls]  # noqa: RUF012

    @field
    def url(self) -> str:
        """Of the page itself."""
        return str(self.response.url)

    @field
    def canonical_url(self) -> Any:
        """The page's own idea of its URL."""
        return self.css("link[rel~=canonical]::attr(href)").get()

    @field
    def name(self) -> Any:
        """Title."""
        return None

    @field
    def sku(self) -> Any:
        """The shop's number of the product."""
        return None

    @field
    def price(self) -> Any:
        """An amount, alone or with its currency."""
        return None

    @field
    def currency(self) -> Any:
        """A code, a symbol, or a text with the price."""
        return None

    @field
    def breadcrumbs(self) -> Any:
        """Names of the categories above the product, the widest first."""
        return []

    @field
    def additional_properties(self) -> Any:
        """Pairs of names and values."""
        return []

    @field
    def images(self) -> Any:
        """URLs of pictures."""
        return []
