"""Whether a page is a product's or a category's, by what both kinds of page have and the other has not.

A shop may redirect a category of one product to that product, and whoever looks at a page need not say what it is.
Evidence is added up for both sides; a page whose reader has nothing to go by is neither. Knows no shop.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from crawlers.pages.heuristics import Heuristics
from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, above, names_of
from crawlers.pages.listings.groups import Group, distances, steps_up
from crawlers.pages.structured_data.structured import SchemaOrg

PRODUCT, LISTING = "product", "listing"

# What the whole page, or the part that holds its content, is called.
OF_PRODUCT = re.compile(
    r"(?:^|[\s_-])(?:single-product|catalog-product-view|product-(?:product|page|details?|info|view|template)|"
    r"productinfo\w*|template-product|page-type-product|product-id-\d+|page-product)(?:$|[\s_-])|^\s*product\s|\sproduct\s",
    re.IGNORECASE,
)
OF_LISTING = re.compile(
    r"(?:^|[\s_-])(?:tax-product\w*|catalog-category-view|catalogsearch\w*|product-(?:category|list(?:ing)?|search)|"
    r"template-(?:collection|search)|page-type-category|category-id-\d+|page-category|post-type-archive-product|"
    r"indexproductlist\w*)(?:$|[\s_-])|^\s*category\s|\scategory\s",
    re.IGNORECASE,
)
PRODUCT_TYPES = {"product", "og:product", "product.item", "product:product"}  # of og:type
LISTING_TYPES = {"product.group", "product_group", "og:product.group"}
CONTAINERS = 6  # elements below body that are looked at

# Points.
SAID, NAMED, CALLED, BOUGHT, ASKED, SHOWN, LIKE_TILES, IN_URL = 3.0, 1.0, 3.0, 3.0, 1.5, 1.0, 1.0, 4.0
LISTED, SEVERAL, TILED, PAGED, ALL_PRICED = 4.0, 2.0, 2.0, 2.0, 1.0
SURE, BY = 4.5, 2.0  # points of a product, and how many more than of a listing, before a listing's reader believes it


@dataclass(frozen=True)
class Evidence:
    """Points for both kinds of page."""

    product: float
    listing: float
    shown: bool  # a price or a button to buy is there for people, or the page is called a product's

    @property
    def is_surely_product(self) -> bool:
        """Whether a page that was asked for as a category's is a product's."""
        return self.shown and self.product >= SURE and self.product - self.listing >= BY

    @property
    def kind(self) -> str | None:
        """What the page most likely is; None where it is neither."""
        if max(self.product, self.listing) < 1:
            return None
        return PRODUCT if self.product > self.listing else LISTING


def evidence_of(
    page: Document, syntaxes: list[SchemaOrg], guesses: Heuristics, items: list[str], paged: bool
) -> Evidence:
    """The evidence on ``page``.

    Args:
        page: the page.
        syntaxes: what it says to machines.
        guesses: what it shows.
        items: products that a profile names on it.
        paged: whether it has a next page.
    """
    if page.root is None:
        return Evidence(0.0, LISTED if items else 0.0, False)
    product = listing = 0.0
    alone = [syntax for syntax in syntaxes if len(syntax.product_names) == 1 and syntax.read("price") is not None]
    listing += LISTED * any(syntax.lists_products for syntax in syntaxes)
    if alone:
        product += SAID + NAMED * any(guesses.read("name") in syntax.product_names for syntax in alone)
    elif any(len(syntax.product_names) > 1 for syntax in syntaxes):
        listing += SEVERAL
    types = {
        meta.get("content", "").strip().lower() for meta in page.tagged("meta") if meta.get("property") == "og:type"
    }
    product += SAID * bool(types & PRODUCT_TYPES)
    listing += SEVERAL * bool(types & LISTING_TYPES)
    called = [f" {names_of(element)} " for element in _containers(page)]
    is_called = any(OF_PRODUCT.search(name) for name in called) and not any(OF_LISTING.search(name) for name in called)
    product += CALLED * is_called
    listing += CALLED * any(OF_LISTING.search(name) for name in called)
    group = guesses.tiles.listing
    in_tiles = set() if group is None or len(group.urls) < 2 else set(group.tiles)
    price = None if guesses.prices.best is None else guesses.prices.best.element
    bought, asked = (_is_outside(element, in_tiles) for element in (guesses.labels.button, price))
    product += BOUGHT * bought + ASKED * asked + SHOWN * bool(guesses.gallery)
    product += SHOWN * bool(guesses.labels.values("sku")) + IN_URL * bool(guesses.labels.numbers_in_url)
    if group is not None and not group.is_box and not _stands_below_price(page, guesses, group):
        product += LIKE_TILES * (len(group.urls) > 1 and _is_like(page.url, group))
        listing += (TILED if len(group.urls) > 1 else 1.0) + ALL_PRICED * (group.priced > 0.5)
        listing += PAGED * group.is_near_pager
    listing += PAGED * paged + LISTED * (len(items) > 1 and not is_called)
    return Evidence(product, listing, bought or asked or is_called)


def _containers(page: Document) -> list[Element]:
    """The page as a whole, and the parts right below its body that may hold the content."""
    found = page.elements("/html | /html/body")
    return [*found, *page.elements("/html/body/*/*[@id] | /html/body/main | /html/body/*[@id]")[:CONTAINERS]]


def _is_outside(element: Element | None, tiles: set[Element]) -> bool:
    return element is not None and not any(node in tiles for node in (element, *above(element)))


def _stands_below_price(page: Document, guesses: Heuristics, group: Group) -> bool:
    """Whether a price stands nearer to the page's heading than the tiles: they are beside a product."""
    heading, price = page.anchor, guesses.prices.best
    if heading is None or price is None or page.is_in_margin(heading):
        return False
    return steps_up(distances(heading), price.element) < group.apart


def _is_like(url: str, group: Group) -> bool:
    """Whether ``url`` looks like those of the tiles: a product's that shows others of its kind."""
    own = _pattern(url)
    return bool(own) and sum(_pattern(one) == own for one in group.urls) > len(group.urls) / 2


def _pattern(url: str) -> tuple[str, ...]:
    """What URLs share that name things by a number; empty where there is none."""
    parts = urlsplit(url)
    pattern = re.sub(r"\d+", "0", f"{parts.path}?{parts.query}")
    return (pattern,) if "0" in pattern else ()
