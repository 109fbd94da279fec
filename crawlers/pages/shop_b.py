"""shop-b.demo.test: microdata on product pages, bare links in listings."""

from collections.abc import Iterator
from typing import Any

from web_poet import field

from crawlers.pages.base import ListingPage
from crawlers.pages.schema_org import Node, SchemaOrgProductPage


class ShopBListingPage(ListingPage):
    """Tiles; one of the links below them says "Next"."""

    @field
    def items(self) -> list[str]:
        """Links of the tiles."""
        return self.css("article.tile > a::attr(href)").getall()

    @field
    def next_page(self) -> str | None:
        """The link that says so."""
        return self.xpath('//nav[@class="pages"]/a[.="Next"]/@href').get()


class ShopBProductPage(SchemaOrgProductPage):
    """Microdata, and a list of details."""

    def syntaxes(self) -> Iterator[list[Node]]:
        """Microdata only: the others are not there, and looking for them takes time."""
        yield self.microdata

    @field
    def additional_properties(self) -> Iterator[tuple[Any, Any]]:
        """The brand, and the list of definitions."""
        yield "Brand", self._first("brand")
        for name in self.css("dl.specs dt"):
            yield name.css("::text").get(), name.xpath("following-sibling::dd[1]/text()").get()
