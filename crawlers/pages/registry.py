"""Reads pages with the shop's own page objects, or with the generic ones where the shop has none."""

from web_poet import HttpResponse

from crawlers.pages.generic import ListingPage, ProductPage
from crawlers.pages.items import Listing, Product
from crawlers.pages.shop_a import ShopAListingPage, ShopAProductPage
from crawlers.pages.shop_b import ShopBListingPage, ShopBProductPage
from crawlers.pages.shops import GENERIC, Shop, platforms, shop_of

# `GENERIC` and `shop_of` are exported here so that a script that reads single pages imports one module only.
__all__ = ["GENERIC", "kind_of", "read_listing", "read_product", "shop_of"]

# Page objects of the shops in `SHOPS_WITH_CODE`, by name.
LISTINGS: dict[str, type[ListingPage]] = {"shop_a": ShopAListingPage, "shop_b": ShopBListingPage}
PRODUCTS: dict[str, type[ProductPage]] = {"shop_a": ShopAProductPage, "shop_b": ShopBProductPage}


async def read_listing(shop: Shop, response: HttpResponse) -> Listing:
    """Read a category page, or the JSON of an endpoint that loads more products if a profile has selectors for it."""
    return await _listing_page(shop, response).to_item()


async def read_product(shop: Shop, response: HttpResponse) -> Product:
    """Read a product page."""
    return await _product_page(shop, response).to_item()


def kind_of(shop: Shop, response: HttpResponse) -> str | None:
    """Classify a page as ``product`` or ``listing``; None if it looks like neither."""
    if shop.product_url is not None:
        return "product" if shop.product_url.search(str(response.url)) else "listing"
    return _listing_page(shop, response).kind


def _listing_page(shop: Shop, response: HttpResponse) -> ListingPage:
    page = LISTINGS.get(shop.name, ListingPage) if shop.profile is None else ListingPage
    return page(response, shop.profile, platforms())


def _product_page(shop: Shop, response: HttpResponse) -> ProductPage:
    page = PRODUCTS.get(shop.name, ProductPage) if shop.profile is None else ProductPage
    return page(response, shop.profile, platforms())
