"""Reads product pages with extruct, as a second reader of the same mark-up for comparison.

extruct (https://github.com/scrapinghub/extruct) returns JSON-LD, microdata and OpenGraph unchanged. The product is
selected in the simplest way: the first product that has the field, in this order of syntaxes.
"""

from collections.abc import Iterator
from typing import Any

import extruct

SYNTAXES = ("json-ld", "microdata", "opengraph")
OPEN_GRAPH = {
    "price": ("product:price:amount", "og:price:amount"),
    "sku": ("product:retailer_item_id",),
    "availability": ("product:availability", "og:availability"),
    "brand": ("product:brand", "og:brand"),
    "gtin": ("product:ean", "product:upc", "product:isbn"),
    "mpn": ("product:mfr_part_no",),
}
NAMES = {"gtin": ("gtin", "gtin13", "gtin12", "gtin14", "gtin8")}
OF_OFFERS = {"price": ("price", "lowPrice"), "availability": ("availability",)}
STOCK = {"instock": "InStock", "outofstock": "OutOfStock", "preorder": "PreOrder", "soldout": "OutOfStock"}
MAX_DEPTH = 6


def extruct_answers(url: str, body: bytes) -> dict[str, Any] | None:
    """The fields of a page; None if extruct raises, for example because a script is not valid JSON."""
    try:
        said = extruct.extract(body.decode("utf-8", "replace"), base_url=url, syntaxes=list(SYNTAXES))
    except Exception:  # its parsers raise what they like
        return None
    products = [
        *(node for node in _nodes(said["json-ld"]) if _is_product(node.get("@type"))),
        *(_flat(node) for node in _nodes(said["microdata"]) if _is_product(node.get("type"))),
    ]
    pairs = [(name, value) for page in said["opengraph"] for name, value in page["properties"]]
    answers = {}
    for field, names in OPEN_GRAPH.items():
        found = [value for product in products if (value := _value(product, field))]
        found += [value for name, value in pairs if name in names and value]
        answers[field] = _clean(field, found[0]) if found else None
    return answers


def _nodes(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """All objects in ``value``."""
    if depth > MAX_DEPTH:
        return
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, dict):
            yield entry
            for inner in entry.values():
                if isinstance(inner, dict | list):
                    yield from _nodes(inner, depth + 1)


def _flat(node: dict[str, Any]) -> dict[str, Any]:
    """A microdata item in the form of JSON-LD."""
    properties = node.get("properties", {})
    return {name: _flat(value) if isinstance(value, dict) else value for name, value in properties.items()}


def _is_product(kind: Any) -> bool:
    kinds = kind if isinstance(kind, list) else [kind]
    return any(str(one).rstrip("/").rpartition("/")[2] in ("Product", "ProductGroup", "Book") for one in kinds)


def _value(product: dict[str, Any], field: str) -> Any:
    if field not in OF_OFFERS:
        return next((_text(product.get(name)) for name in NAMES.get(field, (field,)) if _text(product.get(name))), None)
    offers = product.get("offers")
    for offer in offers if isinstance(offers, list) else [offers]:
        offer = offer.get("properties", offer) if isinstance(offer, dict) else {}
        for name in OF_OFFERS[field]:
            if value := _text(offer.get(name)):
                return value
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        return next((text for one in value if (text := _text(one))), None)
    if isinstance(value, dict):
        return _text(value.get("properties", value).get("name"))
    return None if value is None or isinstance(value, bool) else str(value).strip() or None


def _clean(field: str, value: str) -> str | None:
    if field != "availability":
        return value
    letters = "".join(filter(str.isalpha, value.rstrip("/").rpartition("/")[2])).lower()
    return STOCK.get(letters)
