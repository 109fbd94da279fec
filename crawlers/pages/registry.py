"""Reading the pages of a shop: by its own page objects where it has some, generically otherwise."""

from web_poet import HttpResponse

from crawlers.pages.generic import ListingPage, ProductPage
from crawlers.pages.items import Listing, Product
from crawlers.pages.shop_a import ShopAListingPage, ShopAProductPage
from crawlers.pages.shop_b import ShopBListingPage, ShopBProductPage
from crawlers.pages.shops import GENERIC, Shop, platforms, shop_of

# The shops are those of `crawlers.pages.shops`: scripts that read single pages need no other module.
__all__ = ["GENERIC", "kind_of", "read_listing", "read_product", "shop_of"]

# Of the shops in `WITH_CODE`, by name.
LISTINGS: dict[str, type[ListingPage]] = {"shop_a": ShopAListingPage, "shop_b": ShopBListingPage}
PRODUCTS: dict[str, type[ProductPage]] = {"shop_a": ShopAProductPage, "shop_b": ShopBProductPage}


async def read_listing(shop: Shop, response: HttpResponse) -> Listing:
    """What a page of a category says; the JSON of an endpoint that loads more as well, where a profile reads it."""
    return await _listing_page(shop, response).to_item()


async def read_product(shop: Shop, response: HttpResponse) -> Product:
    """What the page of a product says."""
    return await _product_page(shop, response).to_item()


def kind_of(shop: Shop, response: HttpResponse) -> str | None:
    """Whether a page is a ``product``'s or a ``listing``; None where it looks like neither."""
    if shop.product_url is not None:
        return "product" if shop.product_url.search(str(response.url)) else "listing"
    return _listing_page(shop, response).kind


def _listing_page(shop: Shop, response: HttpResponse) -> ListingPage:
    page = LISTINGS.get(shop.name, ListingPage) if shop.profile is None else ListingPage
    return page(response, shop.profile, platforms())


def _product_page(shop: Shop, response: HttpResponse) -> ProductPage:
    page = PRODUCTS.get(shop.name, ProductPage) if shop.profile is None else ProductPage
    return page(response, shop.profile, platforms())
