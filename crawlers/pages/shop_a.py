"""shop-a.demo.test: JSON-LD on product pages, CSS classes in listings."""

from web_poet import field

from crawlers.pages.generic import ListingPage, ProductPage


class ShopAListingPage(ListingPage):
    """Category pages: product links by CSS class; the next page is a link in the head."""

    @field
    def items(self) -> list[str]:
        """URLs of the product tiles."""
        return self.css("li.product a.product-link::attr(href)").getall()


class ShopAProductPage(ProductPage):
    """Product pages: JSON-LD and a table of details."""

    @field
    def additional_properties(self) -> list[tuple[str | None, str | None]]:
        """The brand and the rows of the table."""
        rows = [(row.css("th::text").get(), row.css("td::text").get()) for row in self.css("table.details tr")]
        return [("Brand", self.reading.details("additional_properties").get("brand")), *rows]
