"""What a page says to machines: schema.org as JSON-LD or microdata, and OpenGraph. Knows no shop and no CSS class.

All three become the same nodes, so that one reader reads them all; `SchemaOrg.source` says which.
"""

import html
import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from lxml import etree

from crawlers.pages.document import Document, Element, text_of
from crawlers.pages.values import MAX_VALUES

PRODUCT_TYPES = ("Product", "ProductGroup", "IndividualProduct", "ProductModel")
LIST_TYPES = ("ItemList", "OfferCatalog", "ProductCollection")
ENTRY_TYPES = ("ListItem", "Offer", *PRODUCT_TYPES)  # in such a list; articles and links of menus are none
DETAILS = ("brand", "color", "material", "pattern", "size", "gender", "category")  # of a schema.org Product
STRUCK = ("ListPrice", "StrikethroughPrice", "MSRP", "SRP", "RegularPrice")  # types of prices that nobody pays
MAX_DEPTH = 8  # of nested data that is looked through
MAX_SCRIPTS = 50  # of a page
MAX_NODES = 2000  # of a script, and of a page's microdata
AROUND = re.compile(r"<!--|-->|<!\[CDATA\[|\]\]>|^[ \t]*//.*$", re.MULTILINE)
TRAILING_COMMA = re.compile(r",\s{0,50}([}\]])")
VALUE_IN = {  # attribute -> elements whose value it is
    "href": ("a", "area", "link"),
    "src": ("img", "source", "video", "audio", "embed", "iframe", "track"),
    "data": ("object",),
    "datetime": ("time",),
    "value": ("data", "meter"),
}

Node = dict[str, Any]


class SchemaOrg:
    """One syntax of a page. A field that it does not know is None.

    Args:
        source: the syntax's name.
        page: the page.
        load: its nodes; called when the first field is asked for.
    """

    def __init__(self, source: str, page: Document, load: Callable[[Document], list[Node]]) -> None:
        self._source, self._page, self._load = source, page, load

    @cached_property
    def _nodes(self) -> list[Node]:
        return self._load(self._page)

    @cached_property
    def _products(self) -> list[Node]:
        """The page's product, and other nodes about it: apps add some that hold nothing but ratings."""
        products = list(_of_type(self._nodes, *PRODUCT_TYPES))
        path = _path(self._page.url)
        main = next(
            (node for node in products if path == _path(_url_of(node.get("url")))), products[0] if products else {}
        )
        return [main, *(node for node in products if node is not main and node.get("name") in (None, main.get("name")))]

    def read(self, field: str) -> Any:
        """What this syntax says about ``field`` of a product or of a listing."""
        reader: Callable[[], Any] | None = getattr(self, f"_{field}", None)
        return reader() if reader is not None else None

    def source(self, field: str) -> str:
        """What is noted as the source of ``field``."""
        return self._source

    def _name(self) -> Any:
        return self._first("name")

    def _sku(self) -> Any:
        return self._first("sku", "productID", "productGroupID", "mpn")

    def _price(self) -> Any:
        return self._of_offer("price", "lowPrice")

    def _currency(self) -> Any:
        return self._of_offer("priceCurrency")

    def _images(self) -> list[Any]:
        for product in self._products:
            for node in (product, *_nodes_in(product, "hasVariant")):
                if found := [_url_of(image) for image in _values(node.get("image"))]:
                    return found
        return []

    def _breadcrumbs(self) -> list[tuple[Any, Any]]:
        """The longest trail: a product may stand in several categories."""
        trails = [
            [(_name_of(entry), _page_of(entry)) for entry in _elements(crumbs)]
            for crumbs in _of_type(self._nodes, "BreadcrumbList")
        ]
        return max(trails, key=len, default=[])

    def _additional_properties(self) -> Iterator[tuple[Any, Any]]:
        """``additionalProperty``, and the usual properties of clothes."""
        for product in self._products:
            for entry in _nodes_in(product, "additionalProperty"):
                yield _text(entry.get("name")), _text(entry.get("value"))
            for name in DETAILS:
                yield name, _name_of(product.get(name))

    def _items(self) -> list[Any]:
        """URLs of an ItemList's entries, else of the products on the page."""
        for collection in _of_type(self._nodes, *LIST_TYPES):
            entries = [entry for entry in _elements(collection) if not isinstance(entry, dict) or _is_entry(entry)]
            if found := [url for entry in entries if (url := _url_of(entry))]:
                return found
        urls = [_url_of(product) for product in _of_type(self._nodes, *PRODUCT_TYPES)]
        # One alone at the listing's own address is the category, called a product for the sake of its stars.
        return [] if len(urls) == 1 and _path(urls[0]) == _path(self._page.url) else urls

    def _first(self, *names: str) -> Any:
        for product in self._products:
            for name in names:
                if value := _name_of(product.get(name)):
                    return value
        return None

    def _of_offer(self, *names: str) -> Any:
        for product in self._products:
            for offer in _offers(product):
                for name in names:
                    if value := _text(offer.get(name)):
                        return value
        return None


def json_ld(page: Document) -> list[Node]:
    """All JSON-LD objects of a page, ``@graph`` and ``mainEntity`` unfolded; a faulty script is left out."""
    nodes: list[Node] = []
    scripts = [script for script in page.tagged("script") if script.get("type") == "application/ld+json"]
    for script in scripts[:MAX_SCRIPTS]:
        nodes += islice(_unfold(_parsed(script.text or "")), MAX_NODES)
    return nodes


def microdata(page: Document) -> list[Node]:
    """All microdata items of a page, in the form of JSON-LD; ``itemref`` is left out.

    One pass over the page, however its items are nested: https://html.spec.whatwg.org/multipage/microdata.html
    """
    if page.root is None or not page.mentions(b"itemprop"):
        return []
    top: list[Node] = []
    scopes: list[Node] = []  # those that the current element is in
    for event, element in etree.iterwalk(page.root, events=("start", "end")):
        opens = element.get("itemscope") is not None
        if event == "end":
            del scopes[len(scopes) - opens :]
            continue
        item: Node = {"@type": element.get("itemtype", "").split(), "@id": element.get("itemid")} if opens else {}
        names = element.get("itemprop", "").split()[:MAX_DEPTH]
        if names and scopes and len(scopes) < MAX_DEPTH:
            value = item if opens else _value(element, page)
            for name in names:
                values = scopes[-1].setdefault(name, [])
                if isinstance(values, list) and len(values) < MAX_VALUES:
                    values.append(value)
        elif opens and len(top) < MAX_NODES:
            top.append(item)
        if opens:
            scopes.append(item)
    return top


def open_graph(page: Document) -> list[Node]:
    """The page's OpenGraph properties, in the form of a JSON-LD product.

    A title that holds the page's heading says no more than that, but often the shop's name as well: left out.
    """
    metas = [(meta.get("property", ""), meta.get("content", "")) for meta in page.tagged("meta")]
    pairs = [(name, value) for name, value in metas if name.startswith(("og:", "product:"))]
    if not pairs:
        return []
    first = dict(reversed(pairs))
    title, heading = first.get("og:title", ""), page.heading
    named = (
        heading is not None and " ".join(html.unescape(title).split()) != (shown := text_of(heading)) and shown in title
    )
    offer = {
        "price": first.get("product:sale_price:amount")
        or first.get("product:price:amount")
        or first.get("og:price:amount"),
        "priceCurrency": first.get("product:price:currency") or first.get("og:price:currency"),
    }
    return [
        {
            "@type": "Product",
            "name": None if named else title,
            "sku": first.get("product:retailer_item_id"),
            "brand": first.get("product:brand"),
            "image": [value for name, value in pairs if name in ("og:image", "og:image:url")],
            "offers": offer,
        }
    ]


def _unfold(values: Any, depth: int = 0) -> Iterator[Node]:
    for value in _values(values):
        if isinstance(value, dict) and depth < MAX_DEPTH:
            yield value
            yield from _unfold(value.get("@graph"), depth + 1)
            yield from _unfold(value.get("mainEntity"), depth + 1)


def _parsed(text: str) -> Any:
    """JSON, also with what editors of shops put around and into it: comments of HTML, CDATA, commas too many."""
    for attempt in (text, TRAILING_COMMA.sub(r"\1", AROUND.sub("", text))):
        try:
            return json.loads(attempt, strict=False)
        except (ValueError, RecursionError):
            continue
    return None


def _value(element: Element, page: Document) -> str | None:
    """The value of a microdata property; ``content`` counts everywhere, as search engines take it."""
    if element.get("content") is not None:
        return element.get("content")
    for name in ("href", "src", "data", "datetime", "value"):
        if element.tag in VALUE_IN[name]:
            value = element.get(name)
            return page.urljoin(value) if value is not None and name in ("href", "src", "data") else value
    return text_of(element)


def _of_type(nodes: list[Node], *types: str) -> Iterator[Node]:
    return (node for node in nodes if _is_a(node, *types))


def _is_a(node: Node, *types: str) -> bool:
    names = [str(name).rstrip("/").rpartition("/")[2] for name in _values(node.get("@type"))]
    return any(name in types for name in names)


def _is_entry(entry: Node) -> bool:
    """Whether an entry of a list is, or points to, a product."""
    item = entry.get("item")
    of_item = isinstance(item, dict) and "@type" in item
    return _is_a(item if of_item else entry, *ENTRY_TYPES) or not entry.get("@type")


def _values(value: Any) -> list[Any]:
    """``value`` as a list without empty entries: a property may hold one value or several."""
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if entry not in (None, "", [], {})]


def _nodes_in(node: Node, name: str) -> list[Node]:
    return [entry for entry in _values(node.get(name)) if isinstance(entry, dict)]


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
    for name in ("contentUrl", "url", "item", "@id"):
        for value in _values(entry.get(name))[:1]:
            return _url_of(value)
    return None


def _page_of(crumb: Any) -> Any:
    """The URL that an entry of a trail links to; its own ``@id`` is a name, not an address."""
    return _url_of(crumb.get("item") or crumb.get("url")) if isinstance(crumb, dict) else None


def _path(url: Any) -> str | None:
    try:
        return urlsplit(url).path.rstrip("/") if isinstance(url, str) else None
    except ValueError:
        return None


def _elements(collection: Node) -> list[Any]:
    """The entries of an ItemList or BreadcrumbList, by position where all have one."""
    entries = _values(collection.get("itemListElement"))
    try:
        return sorted(entries, key=lambda entry: float(entry["position"]))
    except (TypeError, KeyError, ValueError, OverflowError):
        return entries


def _offers(product: Node) -> Iterator[Node]:
    """The product's offers, those of its variants, and what hangs below them."""
    waiting = [product]
    for node in waiting:
        if len(waiting) > MAX_DEPTH:
            return
        for name in ("offers", "priceSpecification", "hasVariant"):
            offers = (entry for entry in _nodes_in(node, name) if not _is_struck(entry))
            found = [entry for _, entry in zip(range(2), offers, strict=False)]
            yield from found
            waiting += found


def _is_struck(offer: Node) -> bool:
    return str(_text(offer.get("priceType"))).rstrip("/").rpartition("/")[2] in STRUCK
