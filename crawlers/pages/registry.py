"""Which page objects read which host.

A table of our own rather than web-poet's `handle_urls`: that one matches URLs with tldextract, which fetches the
list of public suffixes from the network when it is first used.
"""

from dataclasses import dataclass

from crawlers.pages.base import ListingPage, ProductPage
from crawlers.pages.schema_org import SchemaOrgListingPage, SchemaOrgProductPage
from crawlers.pages.shop_a import ShopAListingPage, ShopAProductPage
from crawlers.pages.shop_b import ShopBListingPage, ShopBProductPage
from crawlers.pages.shop_c import ShopCListingPage, ShopCProductPage


@dataclass(frozen=True)
class ShopPages:
    """The page objects of one shop."""

    listing: type[ListingPage]
    product: type[ProductPage]


GENERIC = ShopPages(SchemaOrgListingPage, SchemaOrgProductPage)
SHOPS = {
    "shop-a.demo.test": ShopPages(ShopAListingPage, ShopAProductPage),
    "shop-b.demo.test": ShopPages(ShopBListingPage, ShopBProductPage),
    "shop-c.demo.test": ShopPages(ShopCListingPage, ShopCProductPage),
}


def pages_of(host: str) -> ShopPages:
    """The page objects for ``host`` or the domain above it that has some; else the generic ones."""
    while host:
        if host in SHOPS:
            return SHOPS[host]
        host = host.partition(".")[2]
    return GENERIC
