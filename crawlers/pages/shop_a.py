"""shop-a.demo.test: JSON-LD on product pages, CSS classes in listings."""

from collections.abc import Iterator
from typing import Any

from web_poet import field

from crawlers.pages.base import ListingPage
from crawlers.pages.schema_org import Node, SchemaOrgProductPage


class ShopAListingPage(ListingPage):
    """A list of links; the next page stands in the head."""

    @field
    def items(self) -> list[str]:
        """Links of the tiles."""
        return self.css("li.product a.product-link::attr(href)").getall()


class ShopAProductPage(SchemaOrgProductPage):
    """JSON-LD, and a table of details."""

    def syntaxes(self) -> Iterator[list[Node]]:
        """JSON-LD only: the others are not there, and looking for them takes time."""
        yield self.json_ld

    @field
    def breadcrumbs(self) -> list[Any]:
        """Without the first one, "Home"."""
        return super().breadcrumbs[1:]

    @field
    def additional_properties(self) -> Iterator[tuple[Any, Any]]:
        """The brand, and the table."""
        yield "Brand", self._first("brand")
        for row in self.css("table.details tr"):
            yield row.css("th::text").get(), row.css("td::text").get()
