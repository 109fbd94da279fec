"""shop-c.demo.test: bare HTML with CSS classes. Listings cut titles short and gallery pictures are thumbnails."""

import re
from collections.abc import Iterator
from typing import Any

from web_poet import field

from crawlers.pages.base import ListingPage, ProductPage

NUMBER = re.compile(r"-(\d+)/?$")


class ShopCListingPage(ListingPage):
    """A grid of tiles, and an arrow to older ones."""

    @field
    def items(self) -> list[str]:
        """Links of the titles."""
        return self.css("div.item a.item-title::attr(href)").getall()

    @field
    def next_page(self) -> str | None:
        """The arrow."""
        return self.css("a.older::attr(href)").get()


class ShopCProductPage(ProductPage):
    """Classes on everything; the article number stands in the URL only."""

    @field
    def name(self) -> str | None:
        """Heading."""
        return self.css("h1.product_title::text").get()

    @field
    def sku(self) -> str | None:
        """Last part of the URL."""
        number = NUMBER.search(self.url)
        return number and number[1]

    @field
    def price(self) -> str | None:
        """As "Rs. 1,299.00"."""
        return self.css("span.price::text").get()

    @field
    def currency(self) -> str | None:
        """From the same text."""
        return self.css("span.price::text").get()

    @field
    def breadcrumbs(self) -> list[str]:
        """Without the first one, "Home"."""
        return self.css("div.crumbs a::text").getall()[1:]

    @field
    def additional_properties(self) -> Iterator[tuple[Any, Any]]:
        """Lines like "Material: Linen"."""
        for line in self.css("ul.attributes li::text").getall():
            name, _, value = line.partition(":")
            yield name, value

    @field
    def images(self) -> list[str]:
        """What the thumbnails link to."""
        return self.css("div.gallery a::attr(href)").getall()
