"""Classification of a page as product page or listing, by points for features of each kind.

Needed because a shop may redirect a category with one product to that product, and because `atlas crawl try` accepts
any URL. A page without any evidence is neither kind.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from crawlers.pages.heuristics import Heuristics
from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, ancestors, names_of
from crawlers.pages.listings.groups import TileGroup, distances, steps_up
from crawlers.pages.structured_data.structured import SchemaOrg

PRODUCT, LISTING = "product", "listing"

# Classes and ids of the page, or of the element that holds its content.
PRODUCT_NAMES = re.compile(
    r"(?:^|[\s_-])(?:single-product|catalog-product-view|product-(?:product|page|details?|info|view|template)|"
    r"productinfo\w*|template-product|page-type-product|product-id-\d+|page-product)(?:$|[\s_-])|^\s*product\s|\sproduct\s",
    re.IGNORECASE,
)
LISTING_NAMES = re.compile(
    r"(?:^|[\s_-])(?:tax-product\w*|catalog-category-view|catalogsearch\w*|product-(?:category|list(?:ing)?|search)|"
    r"template-(?:collection|search)|page-type-category|category-id-\d+|page-category|post-type-archive-product|"
    r"indexproductlist\w*)(?:$|[\s_-])|^\s*category\s|\scategory\s",
    re.IGNORECASE,
)
PRODUCT_TYPES = {"product", "og:product", "product.item", "product:product"}  # values of og:type
LISTING_TYPES = {"product.group", "product_group", "og:product.group"}
CONTAINERS = 6  # elements below body that are examined

# Points of each feature.
ONE_PRODUCT, SAME_NAME, CLASS_NAME, BUY_BUTTON, PRICE, GALLERY, URL_LIKE_TILES, SKU_IN_URL = (
    3.0,
    1.0,
    3.0,
    3.0,
    1.5,
    1.0,
    1.0,
    4.0,
)
PRODUCT_LIST, SEVERAL_PRODUCTS, TILE_GROUP, PAGER, ALL_PRICED = 4.0, 2.0, 2.0, 2.0, 1.0
MIN_PRODUCT_POINTS, MIN_LEAD = 4.5, 2.0  # a crawled category is a product page only with these points and this lead


@dataclass(frozen=True)
class Evidence:
    """Points for both kinds of page."""

    product: float
    listing: float
    has_visible_offer: bool  # a visible price or buy button, or classes of a product page

    @property
    def is_product_page(self) -> bool:
        """Whether a page that was requested as a category is a product page; strict, to avoid losing categories."""
        return self.has_visible_offer and self.product >= MIN_PRODUCT_POINTS and self.product - self.listing >= MIN_LEAD

    @property
    def kind(self) -> str | None:
        """The more likely kind; None without evidence."""
        if max(self.product, self.listing) < 1:
            return None
        return PRODUCT if self.product > self.listing else LISTING


def collect_evidence(
    page: Document, syntaxes: list[SchemaOrg], heuristics: Heuristics, items: list[str], paged: bool
) -> Evidence:
    """Collect the evidence on ``page``.

    Args:
        page: the page.
        syntaxes: its structured data.
        heuristics: readers of its visible content.
        items: product URLs that a profile's selectors found.
        paged: whether a link to a next page was found.
    """
    if page.root is None:
        return Evidence(0.0, PRODUCT_LIST if items else 0.0, False)
    product = listing = 0.0
    single = [syntax for syntax in syntaxes if len(syntax.product_names) == 1 and syntax.read("price") is not None]
    listing += PRODUCT_LIST * any(syntax.lists_products for syntax in syntaxes)
    if single:
        product += ONE_PRODUCT + SAME_NAME * any(heuristics.read("name") in syntax.product_names for syntax in single)
    elif any(len(syntax.product_names) > 1 for syntax in syntaxes):
        listing += SEVERAL_PRODUCTS
    types = {
        meta.get("content", "").strip().lower() for meta in page.tagged("meta") if meta.get("property") == "og:type"
    }
    product += ONE_PRODUCT * bool(types & PRODUCT_TYPES)
    listing += SEVERAL_PRODUCTS * bool(types & LISTING_TYPES)
    classes = [f" {names_of(element)} " for element in _containers(page)]
    is_named_listing = any(LISTING_NAMES.search(name) for name in classes)
    is_named_product = any(PRODUCT_NAMES.search(name) for name in classes) and not is_named_listing
    product += CLASS_NAME * is_named_product
    listing += CLASS_NAME * is_named_listing
    group = heuristics.tiles.listing
    in_tiles = set() if group is None or len(group.urls) < 2 else set(group.tiles)
    price = None if heuristics.prices.best is None else heuristics.prices.best.element
    has_button, has_price = (_is_outside(element, in_tiles) for element in (heuristics.labels.button, price))
    product += BUY_BUTTON * has_button + PRICE * has_price + GALLERY * bool(heuristics.gallery)
    product += GALLERY * bool(heuristics.labels.values("sku")) + SKU_IN_URL * bool(heuristics.labels.numbers_in_url)
    if group is not None and not group.is_box and not _stands_below_price(page, heuristics, group):
        product += URL_LIKE_TILES * (len(group.urls) > 1 and _has_pattern_of(page.url, group))
        listing += (TILE_GROUP if len(group.urls) > 1 else 1.0) + ALL_PRICED * (group.priced > 0.5)
        listing += PAGER * group.is_near_pager
    listing += PAGER * paged + PRODUCT_LIST * (len(items) > 1 and not is_named_product)
    return Evidence(product, listing, has_button or has_price or is_named_product)


def _containers(page: Document) -> list[Element]:
    """The page's root elements, and the elements right below its body that may hold the content."""
    found = page.elements("/html | /html/body")
    return [*found, *page.elements("/html/body/*/*[@id] | /html/body/main | /html/body/*[@id]")[:CONTAINERS]]


def _is_outside(element: Element | None, tiles: set[Element]) -> bool:
    return element is not None and not any(node in tiles for node in (element, *ancestors(element)))


def _stands_below_price(page: Document, heuristics: Heuristics, group: TileGroup) -> bool:
    """Whether a price is nearer to the heading than the tiles, which then are recommendations beside a product."""
    heading, price = page.heading_or_title, heuristics.prices.best
    if heading is None or price is None or page.is_in_margin(heading):
        return False
    return steps_up(distances(heading), price.element) < group.distance


def _has_pattern_of(url: str, group: TileGroup) -> bool:
    """Whether ``url`` has the pattern of the tiles' URLs: a product page that links to other products."""
    own = _pattern(url)
    return bool(own) and sum(_pattern(one) == own for one in group.urls) > len(group.urls) / 2


def _pattern(url: str) -> tuple[str, ...]:
    """The URL's path and query with numbers replaced by 0; empty if it has no number."""
    parts = urlsplit(url)
    pattern = re.sub(r"\d+", "0", f"{parts.path}?{parts.query}")
    return (pattern,) if "0" in pattern else ()
