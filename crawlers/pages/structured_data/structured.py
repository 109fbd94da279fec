"""Reader of structured data: JSON-LD, microdata and OpenGraph, which share one node format.

A page has one `SchemaOrg` reader for each of the three; `SchemaOrg.source` names the format.
"""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import text_of
from crawlers.pages.structured_data.nodes import (
    Node,
    crumb_url,
    elements_of,
    image_urls_of,
    is_a,
    name_of,
    nodes_in,
    of_type,
    path_of,
    text_in,
    url_of,
    values_of,
)
from crawlers.pages.structured_data.offers import Offer, best_offer
from crawlers.pages.text.numbers import clean_brand, clean_gtin, clean_mpn, clean_sku
from crawlers.pages.text.values import clean_text

PRODUCT_TYPES = ("Product", "ProductGroup", "IndividualProduct", "ProductModel", "SomeProducts", "Vehicle", "Book")
LIST_TYPES = ("ItemList", "OfferCatalog", "ProductCollection")
ENTRY_TYPES = ("ListItem", "Offer", *PRODUCT_TYPES)  # accepted entries of a list; others are articles or menu links
DETAILS = ("brand", "color", "material", "pattern", "size", "gender", "category")  # properties of Product
GTINS = ("gtin", "gtin13", "gtin12", "gtin14", "gtin8", "ean", "upc", "isbn")
WORD = re.compile(r"\w+")


class SchemaOrg:
    """Reads fields from one structured data format; a field without a value is None.

    Args:
        source: name of the format.
        page: the page.
        load: parses the page's nodes; called when the first field is read.
    """

    def __init__(self, source: str, page: Document, load: Callable[[Document], list[Node]]) -> None:
        self._source, self._page, self._load = source, page, load

    @cached_property
    def _nodes(self) -> list[Node]:
        return self._load(self._page)

    @cached_property
    def _products(self) -> list[Node]:
        """The node of the page's product, and further nodes about it, such as those that apps add for ratings."""
        products = list(of_type(self._nodes, *PRODUCT_TYPES))
        main = self._main(products)
        return [main, *(node for node in products if node is not main and node.get("name") in (None, main.get("name")))]

    def _main(self, products: list[Node]) -> Node:
        """The node of the page's own product, by URL, else by heading; empty if all are of other products."""
        path = path_of(self._page.url)
        if found := next((node for node in products if path == path_of(url_of(node.get("url")))), None):
            return found
        heading = self._page.heading
        if heading is None or len({str(name_of(node.get("name"))) for node in products}) < 2:
            return products[0] if products else {}
        words = _words(text_of(heading))
        shared = [len(words & _words(name_of(node.get("name")))) for node in products]
        best = max(range(len(products)), key=lambda place: shared[place])
        return products[best] if shared[best] or not words else {}

    @property
    def product_names(self) -> set[str]:
        """The names of all top-level product nodes."""
        return {
            name for node in of_type(self._nodes, *PRODUCT_TYPES) if (name := clean_text(name_of(node.get("name"))))
        }

    @property
    def lists_products(self) -> bool:
        """Whether the page has a list of several products."""
        return len(self._listed) > 1

    def read(self, field: str) -> Any:
        """The value of ``field`` of a product or listing; None if it has none."""
        reader: Callable[[], Any] | None = getattr(self, f"_{field}", None)
        return reader() if reader is not None else None

    def source(self, field: str) -> str:
        """The name recorded as the source of ``field``."""
        return self._source

    def _name(self) -> Any:
        return self._first("name")

    def _sku(self) -> Any:
        return self._first("sku", clean=clean_sku) or self._first("productID", "productGroupID", clean=clean_sku)

    def _brand(self) -> Any:
        return self._first("brand", "manufacturer", clean=clean_brand)

    def _gtin(self) -> Any:
        return self._first(*GTINS, "productID", clean=clean_gtin)

    def _mpn(self) -> Any:
        return self._first("mpn", clean=clean_mpn)

    @cached_property
    def _offer(self) -> Offer | None:
        return best_offer(self._products, self._page.url)

    def _price(self) -> Any:
        return None if self._offer is None else self._offer.price

    def _currency(self) -> Any:
        return None if self._offer is None else self._offer.currency

    def _availability(self) -> Any:
        return None if self._offer is None else self._offer.stock

    def _images(self) -> list[Any]:
        for product in self._products:
            for node in (product, *nodes_in(product, "hasVariant")):
                if found := image_urls_of(node.get("image")):
                    return found
        return []

    def _breadcrumbs(self) -> list[tuple[Any, Any]]:
        """The longest breadcrumb list, because a product may be in several categories."""
        trails = [
            [(name_of(entry), crumb_url(entry)) for entry in elements_of(crumbs)]
            for crumbs in of_type(self._nodes, "BreadcrumbList")
        ]
        return max(trails, key=len, default=[])

    def _additional_properties(self) -> Iterator[tuple[Any, Any]]:
        """Pairs from ``additionalProperty`` and from the properties in `DETAILS`."""
        for product in self._products:
            for entry in nodes_in(product, "additionalProperty"):
                yield text_in(entry.get("name")), text_in(entry.get("value"))
            for name in DETAILS:
                yield name, name_of(product.get(name))

    @cached_property
    def _listed(self) -> list[Any]:
        """URLs of the entries of the first list that has products."""
        for collection in of_type(self._nodes, *LIST_TYPES):
            entries = [entry for entry in elements_of(collection) if not isinstance(entry, dict) or _is_entry(entry)]
            if found := [url for entry in entries if (url := url_of(entry))]:
                return found
        return []

    def _items(self) -> list[Any]:
        """URLs of a list's entries, else of the product nodes."""
        if self._listed:
            return self._listed
        urls = [url_of(product) for product in of_type(self._nodes, *PRODUCT_TYPES)]
        # A single product with the listing's own URL is the category itself, marked up for its rating.
        return [] if len(urls) == 1 and path_of(urls[0]) == path_of(self._page.url) else urls

    def _first(self, *names: str, clean: Callable[[Any], Any] = bool) -> Any:
        """The first value of ``names`` that ``clean`` accepts, in the product's nodes and in a single offer."""
        for product in self._products:
            offers = nodes_in(product, "offers")
            for node in (product, *(offers if len(offers) == 1 else ())):
                for name in names:
                    for value in values_of(node.get(name)):
                        if (found := name_of(value)) and clean(found):
                            return found
        return None


def _words(text: Any) -> set[str]:
    return {word for word in WORD.findall(str(text).lower()) if len(word) > 1}


def _is_entry(entry: Node) -> bool:
    """Whether a list's entry is a product or refers to one."""
    item = entry.get("item")
    said = item if isinstance(item, dict) and "@type" in item else entry
    return is_a(said, *ENTRY_TYPES) or not entry.get("@type")
