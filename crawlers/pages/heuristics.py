"""A product page without any mark-up for machines: what the names of its classes and the shape of its HTML tell.

The last resort, and the only one for plain shops. Knows no shop; everything here is a guess that holds for most.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from crawlers.pages.document import Document, Element, above, is_small, names_of, text_of
from crawlers.pages.pictures import is_decoration, is_file, is_placeholder, link_around, pictures_of, same_picture
from crawlers.pages.tiles import product_links
from crawlers.pages.values import parse_amount

# What classes and ids of elements are called that hold ...
TITLES = re.compile(r"product[-_]?(title|name)", re.IGNORECASE)
PRICES = re.compile(r"price|amount|preis|prix|precio|prezzo", re.IGNORECASE)
TRAILS = re.compile(r"bread-?crumb|crumbs|brotkrumen|fil d'ariane", re.IGNORECASE)
GALLERIES = re.compile(
    r"gallery|galerie|carousel|slider|swiper|slick|(product|main)[-_]*(image|img|photo|media|picture)|"
    r"images|photos|fotos|thumb|zoom",
    re.IGNORECASE,
)
NUMBERS = re.compile(r"sku", re.IGNORECASE)
LISTS = re.compile(r"attribut|detail|spec|feature|propert|characteristic|merkmale", re.IGNORECASE)

OLD_PRICE = re.compile(
    r"(?<![a-z])(old|was|mrp|rrp|uvp|msrp|compare\w*|strike\w*|struck|cross\w*|before|previous|original|undiscounted|"
    r"sav(e|es|ed|ing|ings)|off|discount|percent\w*|shipping|unit|per|tax|ecotax|installments?|emi|points)(?![a-z])",
    re.IGNORECASE,
)
USUAL_PRICE = re.compile(r"(?<![a-z])(regular|list|base|normal|standard)(?![a-z])", re.IGNORECASE)
NOW_PRICE = re.compile(
    r"(?<![a-z])(sale|special|current|final|now|offer|selling|discounted|actual|our|promo\w*|reduced|new)(?![a-z])",
    re.IGNORECASE,
)
STRUCK = {"del", "s", "strike"}
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # oldPrice -> old Price
NUMBER_NAME = re.compile(
    r"(sku|upc|ean|art(icle|ikel|\.)?[-. ]*(no|nr|number|nummer|code)?|item[ -]*(no|number|code|id)|"
    r"(product|style|model)[ -]*(code|id|no|number)|r[eé]f([eé]rence|erenz|erencia)?|c[oó]di(go|ce)( prodotto)?|"
    r"bestellnummer|num[eé]ro d'article)[ .:#]*",
    re.IGNORECASE,
)
LABEL = re.compile(r"^[^:]{1,40}:\s*")
MAX_NAME = 60  # characters of a detail's name
MAX_PARTS = 100  # elements in one that shows a price
MAX_FOUND = 400  # elements of one kind that are looked at


class Heuristics:
    """Guesses about one page, field by field."""

    def __init__(self, page: Document) -> None:
        self._page = page

    def read(self, field: str) -> Any:
        """What can be guessed about ``field``; None for a field that nothing is guessed about."""
        reader = getattr(self, f"_{field}", None)
        return reader() if reader is not None and self._page.root is not None else None

    def source(self, field: str) -> str:
        """What is noted as the source of ``field``."""
        return "heuristic"

    def _items(self) -> list[str]:
        return product_links(self._page)

    def _own(self, found: list[Element]) -> list[Element]:
        """Those of ``found`` that are part of the page's own content."""
        return [element for element in found[:MAX_FOUND] if not self._page.is_aside(element)]

    def _called(self, pattern: re.Pattern[str]) -> list[Element]:
        return self._own(self._page.called(pattern))

    def _name(self) -> str | None:
        heading = self._page.heading
        if heading is not None:
            return text_of(heading)
        return next((text for element in self._called(TITLES) if (text := text_of(element))), None)

    @cached_property
    def _price_element(self) -> Element | None:
        """Where the price stands that is asked today: near the heading, not struck out, best on sale."""
        small = [element for element in self._called(PRICES) if is_small(element, MAX_PARTS)]
        with_amount = [element for element in small if parse_amount(_price_text(element)) is not None]
        around = {parent for element in with_amount for parent in above(element)}
        leaves = [element for element in with_amount if element not in around]
        ranks = {element: rank for element in leaves if (rank := _price_rank(element)) is not None}
        near = self._page.near_heading(list(ranks))
        return min(near, key=lambda element: ranks[element], default=None)

    def _price(self) -> str | None:
        return None if self._price_element is None else _price_text(self._price_element)

    def _currency(self) -> str | None:
        """The price with what stands beside it: the symbol may have an element of its own."""
        element = self._price_element
        if element is None:
            return None
        said = self._page.elements('//*[@itemprop="priceCurrency"]/@content | //@data-currency')
        parent = element.getparent()
        return str(said[0]) if said else _price_text(element if parent is None or _has_symbol(element) else parent)

    def _sku(self) -> str | None:
        for element in self._called(NUMBERS):
            text = element.get("content") or element.get("data-sku") or LABEL.sub("", text_of(element))
            if text and len(text) <= MAX_NAME and any(character.isdigit() for character in text):
                return text
        named = (value for name, value in self._additional_properties() if NUMBER_NAME.fullmatch(name.strip()))
        return next(named, None)

    def _breadcrumbs(self) -> list[tuple[str, str | None]]:
        small = (element for element in self._page.called(TRAILS)[:MAX_FOUND] if is_small(element, MAX_FOUND))
        for element in small:
            entries = element.xpath(".//li") or element.xpath(".//a | .//span[not(.//a) and not(ancestor::a)]")
            trail = [(text_of(entry), _first_link(entry)) for entry in entries]
            if any(link for _, link in trail):
                return trail
        return []

    def _images(self) -> list[str]:
        """The gallery's, else those nearest to the heading; what links to another page is another product."""
        candidates = [image for image in self._page.tagged("img")[:MAX_FOUND] if self._is_own(image)]
        galleries = set(self._called(GALLERIES))
        inside = [image for image in candidates if image in galleries or any(up in galleries for up in above(image))]
        chosen: dict[str, tuple[int, str]] = {}  # the picture, whatever its size -> its best version
        for image in inside or self._page.near_heading(candidates):
            for rank, url in pictures_of(image):
                known = chosen.setdefault(same_picture(url), (rank, url))
                if rank < known[0]:
                    chosen[same_picture(url)] = (rank, url)
        return [url for _, url in chosen.values()]

    def _is_own(self, image: Element) -> bool:
        urls = [url for _, url in pictures_of(image)]
        if not urls or any(is_decoration(url) or is_placeholder(url) for url in urls) or self._page.is_aside(image):
            return False
        link = link_around(image)
        target = "" if link is None else link.get("href", "").strip()
        here = not target or target.startswith(("#", "javascript:")) or self._page.urljoin(target) == self._page.url
        return here or is_file(target)

    def _additional_properties(self) -> Iterator[tuple[str, str]]:
        """Tables of two columns, lists of definitions, and lists of lines such as "Material: Linen"."""
        for row in self._own(self._page.tagged("tr")):
            cells = row.xpath("./th | ./td")
            if len(cells) == 2:
                yield from _pair(text_of(cells[0]), text_of(cells[1]))
        for name in self._own(self._page.tagged("dt")):
            value = name.getnext()
            if value is not None and value.tag == "dd":
                yield from _pair(text_of(name), text_of(value))
        blocks = [block for block in self._page.tagged("ul") if LISTS.search(names_of(block))]
        for line in (line for block in self._own(blocks) for line in block.iterchildren("li")):
            name_text, colon, value_text = text_of(line).partition(":")
            if colon:
                yield from _pair(name_text, value_text)


def _pair(name: str, value: str) -> Iterator[tuple[str, str]]:
    if name and value and len(name) <= MAX_NAME:
        yield name, value


def _first_link(entry: Element) -> str | None:
    link = entry if entry.tag == "a" else next(entry.iter("a"), None)
    return None if link is None else link.get("href")


def _price_text(element: Element) -> str:
    """The price in ``element``: of its attributes, else of its text without the parts that are struck out."""
    for name in ("content", "data-price-amount"):
        if element.get(name):
            return element.get(name, "")
    return text_of(element, without={part for part in element.iterdescendants("*") if _is_old(part)})


def _has_symbol(element: Element) -> bool:
    return any(not character.isdigit() and character not in " .,'’-–" for character in text_of(element))


def _is_old(element: Element) -> bool:
    return element.tag in STRUCK or OLD_PRICE.search(_words(element)) is not None


def _words(element: Element) -> str:
    return CAMEL.sub(" ", names_of(element)).replace("_", " ")


def _price_rank(element: Element) -> int | None:
    """0 for what is called a sale's price, 1 for a price, 2 for a usual one; None for one that nobody pays."""
    around = [element]
    for parent in above(element):  # the names of the block that holds the price, not of the whole page
        if "price" not in names_of(parent).lower() and parent.tag not in (*STRUCK, "ins"):
            break
        around.append(parent)
    if any(node.tag in STRUCK for node in around) or any(OLD_PRICE.search(_words(node)) for node in around[:2]):
        return None
    if any(node.tag == "ins" or NOW_PRICE.search(_words(node)) for node in around[:2]):
        return 0
    return 2 if USUAL_PRICE.search(_words(element)) else 1
