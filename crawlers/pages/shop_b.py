"""shop-b.demo.test: microdata on product pages, bare links in listings."""

from web_poet import field

from crawlers.pages.generic import ListingPage, ProductPage


class ShopBListingPage(ListingPage):
    """Category pages: text tiles, which only their class distinguishes from other links."""

    @field
    def items(self) -> list[str]:
        """URLs of the product tiles."""
        return self.css("article.tile > a::attr(href)").getall()


class ShopBProductPage(ProductPage):
    """Product pages: microdata and a definition list of details."""

    @field
    def additional_properties(self) -> list[tuple[str | None, str | None]]:
        """The brand and the entries of the definition list."""
        names = self.css("dl.specs dt")
        rows = [(name.css("::text").get(), name.xpath("following-sibling::dd[1]/text()").get()) for name in names]
        return [("Brand", self.reading.details("additional_properties").get("brand")), *rows]
