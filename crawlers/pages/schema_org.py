"""Any shop whose pages carry schema.org data: JSON-LD first, then microdata, then OpenGraph, field by field.

The pages of shops without a file of their own. Knows no shop.
"""

import html
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from extruct.jsonld import JsonLdExtractor
from extruct.opengraph import OpenGraphExtractor
from extruct.w3cmicrodata import MicrodataExtractor
from parsel import Selector
from web_poet import field

from crawlers.pages.base import ListingPage, ProductPage

PRODUCT_TYPES = ("Product", "ProductGroup")
DETAILS = ("brand", "color", "material", "pattern", "size", "gender", "category")  # of a schema.org Product
MAX_DEPTH = 8  # of nested data that is looked through

Node = dict[str, Any]


def json_ld(selector: Selector) -> list[Node]:
    """All JSON-LD objects of a page, ``@graph`` and ``mainEntity`` unfolded; a faulty script is left out."""
    nodes: list[Node] = []
    for script in selector.xpath('//script[@type="application/ld+json"]'):
        try:
            nodes += _unfold(JsonLdExtractor().extract_items(script.root))
        except (ValueError, RecursionError):
            continue
    return nodes


def microdata(selector: Selector, base_url: str) -> list[Node]:
    """All microdata items of a page, in the form of JSON-LD."""
    if selector.root is None:
        return []
    return [_plain(item) for item in MicrodataExtractor().extract_items(selector.root, base_url)]


def open_graph(selector: Selector) -> list[Node]:
    """The page's OpenGraph properties, in the form of a JSON-LD product."""
    if selector.root is None:
        return []
    graphs = list(OpenGraphExtractor().extract_items(selector.root))
    pairs = [pair for graph in graphs for pair in graph["properties"]]
    first = dict(reversed(pairs))
    offer = {
        "price": first.get("product:price:amount") or first.get("og:price:amount"),
        "priceCurrency": first.get("product:price:currency") or first.get("og:price:currency"),
    }
    images = [value for name, value in pairs if name in ("og:image", "og:image:url")]
    node = {"@type": "Product", "name": first.get("og:title"), "image": images, "offers": offer}
    return [node | {"sku": first.get("product:retailer_item_id")}] if pairs else []


class _Structured:
    """What looks a page's data up in one syntax after the other, each read when it is first needed."""

    selector: Selector
    base_url: str

    @cached_property
    def json_ld(self) -> list[Node]:
        return json_ld(self.selector)

    @cached_property
    def microdata(self) -> list[Node]:
        return microdata(self.selector, self.base_url)

    @cached_property
    def open_graph(self) -> list[Node]:
        return open_graph(self.selector)

    def syntaxes(self) -> Iterator[list[Node]]:
        """The page's data in each syntax, the best first."""
        yield self.json_ld
        yield self.microdata
        yield self.open_graph


class SchemaOrgListingPage(_Structured, ListingPage):
    """An ItemList of URLs or of Products."""

    @field
    def items(self) -> list[Any]:
        """Of the first syntax that has any."""
        for nodes in self.syntaxes():
            found = [_url_of(entry) for entry in _listed(nodes)]
            if any(found):
                return found
        return []


class SchemaOrgProductPage(_Structured, ProductPage):
    """A Product with Offers, and a BreadcrumbList."""

    def _first(self, *names: str) -> Any:
        """The first of the properties ``names`` of the product that any syntax knows."""
        for nodes in self.syntaxes():
            product = next(_of_type(nodes, *PRODUCT_TYPES), {})
            for name in names:
                if value := _name_of(product.get(name)):
                    return value
        return None

    @field
    def name(self) -> Any:
        """``name``."""
        return self._first("name")

    @field
    def sku(self) -> Any:
        """``sku``, or what stands for it."""
        return self._first("sku", "productID", "productGroupID", "mpn")

    @field
    def price(self) -> Any:
        """Of the first offer."""
        return self._of_offer("price", "lowPrice")

    @field
    def currency(self) -> Any:
        """Of the first offer."""
        return self._of_offer("priceCurrency")

    @field
    def images(self) -> list[Any]:
        """Of the first syntax that has any."""
        for nodes in self.syntaxes():
            for product in _of_type(nodes, *PRODUCT_TYPES):
                if found := [_url_of(image) for image in _values(product.get("image"))]:
                    return found
        return []

    @field
    def breadcrumbs(self) -> list[Any]:
        """Of the first BreadcrumbList."""
        for nodes in self.syntaxes():
            for crumbs in _of_type(nodes, "BreadcrumbList"):
                return [_name_of(entry) for entry in _elements(crumbs)]
        return []

    @field
    def additional_properties(self) -> Iterator[tuple[Any, Any]]:
        """``additionalProperty``, and the usual properties of clothes."""
        for nodes in self.syntaxes():
            for product in _of_type(nodes, *PRODUCT_TYPES):
                for entry in _values(product.get("additionalProperty")):
                    if isinstance(entry, dict):
                        yield _text(entry.get("name")), _text(entry.get("value"))
                for name in DETAILS:
                    yield name, _name_of(product.get(name))

    def _of_offer(self, *names: str) -> Any:
        for nodes in self.syntaxes():
            for product in _of_type(nodes, *PRODUCT_TYPES):
                for offer in _offers(product):
                    for name in names:
                        if value := _text(offer.get(name)):
                            return value
        return None


def _unfold(values: Any, depth: int = 0) -> Iterator[Node]:
    for value in _values(values):
        if isinstance(value, dict) and depth < MAX_DEPTH:
            yield value
            yield from _unfold(value.get("@graph"), depth + 1)
            yield from _unfold(value.get("mainEntity"), depth + 1)


def _plain(item: Any) -> Any:
    """A microdata item as JSON-LD has it."""
    if isinstance(item, list):
        return [_plain(entry) for entry in item]
    if not isinstance(item, dict):
        return item
    properties = {name: _plain(value) for name, value in item.get("properties", {}).items()}
    return {"@type": item.get("type"), "@id": item.get("id")} | properties


def _of_type(nodes: list[Node], *types: str) -> Iterator[Node]:
    for node in nodes:
        names = [str(name).rstrip("/").rpartition("/")[2] for name in _values(node.get("@type"))]
        if any(name in types for name in names):
            yield node


def _values(value: Any) -> list[Any]:
    """``value`` as a list without empty entries: a property may hold one value or several."""
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if entry not in (None, "", [], {})]


def _text(value: Any) -> Any:
    """The first text or number of ``value``, entities resolved: many shops escape in JSON as if it were HTML."""
    for entry in _values(value):
        if isinstance(entry, str):
            return html.unescape(entry)
        if isinstance(entry, int | float):
            return entry
    return None


def _name_of(value: Any) -> Any:
    """The name of a brand, a list's element, ...: itself, its ``name``, or that of its ``item``."""
    for entry in _values(value)[:1]:
        if isinstance(entry, dict):
            return _text(entry.get("name")) or _name_of(entry.get("item"))
        return _text(entry)
    return None


def _url_of(entry: Any) -> Any:
    """The URL of a picture or of a list's element."""
    if not isinstance(entry, dict):
        return _text(entry)
    for name in ("url", "contentUrl", "item", "@id"):
        for value in _values(entry.get(name))[:1]:
            return _url_of(value)
    return None


def _elements(collection: Node) -> list[Any]:
    """The entries of an ItemList or BreadcrumbList, by position where all have one."""
    entries = _values(collection.get("itemListElement"))
    try:
        return sorted(entries, key=lambda entry: float(entry["position"]))
    except (TypeError, KeyError, ValueError):
        return entries


def _listed(nodes: list[Node]) -> Iterator[Any]:
    for collection in _of_type(nodes, "ItemList"):
        yield from _elements(collection)
    yield from _of_type(nodes, *PRODUCT_TYPES)


def _offers(product: Node) -> Iterator[Node]:
    """The product's offers, those of its variants, and what hangs below them."""
    waiting = [product]
    for node in waiting:
        if len(waiting) > MAX_DEPTH:
            return
        for name in ("offers", "priceSpecification", "hasVariant"):
            found = [entry for entry in _values(node.get(name))[:2] if isinstance(entry, dict)]
            yield from found
            waiting += found
