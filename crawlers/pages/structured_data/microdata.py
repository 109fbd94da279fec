"""Parsers of microdata and OpenGraph into the same nodes as JSON-LD."""

from lxml import etree

from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, text_of
from crawlers.pages.structured_data.nodes import MAX_DEPTH, Node, unescaped
from crawlers.pages.text.values import MAX_VALUES

_PARTS = etree.XPath("//*[@itemscope or @itemprop]")
MAX_NODES = 2000  # nodes of a page
VALUE_IN = {  # attribute -> elements whose value it holds
    "href": ("a", "area", "link"),
    "src": ("img", "source", "video", "audio", "embed", "iframe", "track"),
    "data": ("object",),
    "datetime": ("time",),
    "value": ("data", "meter"),
}
PRICES = ("product:sale_price:amount", "product:price:amount", "og:price:amount", "og:price", "product:price")
CURRENCIES = ("product:sale_price:currency", "product:price:currency", "og:price:currency")


def microdata(page: Document) -> list[Node]:
    """All microdata items of a page; ``itemref`` is not supported.

    Runs in one pass over the page: https://html.spec.whatwg.org/multipage/microdata.html
    """
    if page.root is None or not page.source_contains(b"itemprop"):
        return []
    top: list[Node] = []
    scopes: list[tuple[Element, Node]] = []  # items around the current element
    for element in _PARTS(page.root):
        around = next((node for node in element.iterancestors() if node.get("itemscope") is not None), None)
        while scopes and scopes[-1][0] is not around:
            scopes.pop()
        opens = element.get("itemscope") is not None
        item: Node = {"@type": element.get("itemtype", "").split(), "@id": element.get("itemid")} if opens else {}
        names = element.get("itemprop", "").split()[:MAX_DEPTH]
        if names and scopes and len(scopes) < MAX_DEPTH:
            value = item if opens else _value(element, page)
            for name in names:
                values = scopes[-1][1].setdefault(name, [])
                if isinstance(values, list) and len(values) < MAX_VALUES:
                    values.append(value)
        elif opens and len(top) < MAX_NODES:
            top.append(item)
        if opens:
            scopes.append((element, item))
    return top


def open_graph(page: Document) -> list[Node]:
    """The page's OpenGraph properties as one Product node.

    A title that contains the page's heading is left out: it adds nothing but, often, the name of the shop.
    """
    metas = [
        (meta.get("property", "") or meta.get("name", ""), meta.get("content", "")) for meta in page.tagged("meta")
    ]
    pairs = [(name.lower(), value) for name, value in metas if name.lower().startswith(("og:", "product:"))]
    if not pairs:
        return []
    first = dict(reversed(pairs))
    title, heading = first.get("og:title", ""), page.heading
    named = heading is not None and " ".join(unescaped(title).split()) != (shown := text_of(heading)) and shown in title
    offer = {
        "price": next((first[name] for name in PRICES if first.get(name)), None),
        "priceCurrency": next((first[name] for name in CURRENCIES if first.get(name)), None),
        "availability": first.get("product:availability") or first.get("og:availability"),
    }
    return [
        {
            "@type": "Product",
            "name": None if named else title,
            "sku": first.get("product:retailer_item_id"),
            "brand": first.get("product:brand") or first.get("og:brand"),
            "gtin": [first.get(f"product:{name}") for name in ("ean", "upc", "isbn", "gtin")],
            "mpn": first.get("product:mfr_part_no"),
            "image": [value for name, value in pairs if name in ("og:image", "og:image:url", "og:image:secure_url")],
            "offers": offer,
        }
    ]


def _value(element: Element, page: Document) -> str | None:
    """The value of a microdata property; ``content`` is accepted on any element, as search engines do."""
    if element.get("content") is not None:
        return element.get("content")
    for name in ("href", "src", "data", "datetime", "value"):
        if element.tag in VALUE_IN[name]:
            value = element.get(name)
            return page.urljoin(value) if value is not None and name in ("href", "src", "data") else value
    return text_of(element)
