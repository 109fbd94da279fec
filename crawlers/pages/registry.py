"""Which shop a host belongs to, and reading its pages.

A table of our own rather than web-poet's `handle_urls`: that one matches URLs with tldextract, which fetches the
list of public suffixes from the network when it is first used.
"""

import re
from dataclasses import dataclass

from web_poet import HttpResponse

from crawlers.items import Listing, Product
from crawlers.pages.base import ListingPage, ProductPage
from crawlers.pages.schema_org import SchemaOrgListingPage, SchemaOrgProductPage
from crawlers.pages.shop_a import ShopAListingPage, ShopAProductPage
from crawlers.pages.shop_b import ShopBListingPage, ShopBProductPage
from crawlers.pages.shop_c import ShopCListingPage, ShopCProductPage
from crawlers.profiles import BrowserProfile, HostProfile


@dataclass(frozen=True)
class Shop:
    """What is known about a shop before any of its pages is read."""

    name: str
    listing: type[ListingPage] = SchemaOrgListingPage
    product: type[ProductPage] = SchemaOrgProductPage
    pace: HostProfile | None = None  # how fast it may be asked
    max_pages: int | None = None  # of a category
    browser: BrowserProfile | None = None  # where its pages are built by script
    product_url: re.Pattern[str] | None = None  # what the URL of a product looks like


GENERIC = Shop("generic")
SHOPS = {
    "shop-a.demo.test": Shop("shop_a", ShopAListingPage, ShopAProductPage),
    "shop-b.demo.test": Shop("shop_b", ShopBListingPage, ShopBProductPage),
    "shop-c.demo.test": Shop("shop_c", ShopCListingPage, ShopCProductPage),
}


def shop_of(host: str) -> Shop:
    """The shop of ``host`` or of the domain above it that is one; else the generic one."""
    while host:
        if host in SHOPS:
            return SHOPS[host]
        host = host.partition(".")[2]
    return GENERIC


async def read_listing(shop: Shop, response: HttpResponse) -> Listing:
    """What a page of a category says; of a load-more endpoint's JSON as well, where the shop's profile reads it."""
    return await shop.listing(response).to_item()


async def read_product(shop: Shop, response: HttpResponse) -> Product:
    """What the page of a product says."""
    return await shop.product(response).to_item()
