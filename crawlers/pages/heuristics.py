"""Heuristics for pages without structured data, by class names and by the structure of the HTML.

These readers are tried last. They hold for most shops, not for all.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import chain, islice
from typing import Any

from crawlers.pages.fields.images import (
    image_key,
    images_of,
    is_decoration,
    is_file,
    is_placeholder,
    link_around,
    width_of,
)
from crawlers.pages.fields.labelled import LabelledValues
from crawlers.pages.fields.prices import Prices
from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, ancestors, is_small, names_of, text_of
from crawlers.pages.listings.tiles import Tiles
from crawlers.pages.text.numbers import clean_brand, clean_gtin, clean_mpn, clean_sku

# Patterns for class names and ids of elements that hold titles, breadcrumbs, galleries, product numbers, details.
TITLES = re.compile(r"product[-_]?(title|name)", re.IGNORECASE)
TRAILS = re.compile(r"bread-?crumb|crumbs|brotkrumen|fil d'ariane", re.IGNORECASE)
GALLERIES = re.compile(
    r"gallery|galerie|carousel|slider|swiper|slick|(product|main)[-_]*(image|img|photo|media|picture)|"
    r"images|photos|fotos|thumb|zoom",
    re.IGNORECASE,
)
NUMBERS = re.compile(
    r"(?<![a-z])sku(?![a-z])|(product|article|artikel|item|cat(alog(ue)?)?)[-_]?(code|number|no|nr|reference|ref|article)"
    r"(?![a-z])",
    re.IGNORECASE,
)
LISTS = re.compile(r"attribut|detail|spec|feature|propert|characteristic|merkmale", re.IGNORECASE)

SWITCHERS = re.compile(
    r"(?<![a-z])(prev(ious)?|next)(?![a-z])|(product|item)[-_]?(nav(igation)?|switcher|pager)", re.IGNORECASE
)

LABEL = re.compile(r"^[^:]{1,40}:\s*")
MAX_NAME = 60  # characters of a detail's name
MAX_NUMBER_PARTS = 8  # elements inside one that shows a product number
MAX_FOUND = 400  # elements of one kind that are examined


class Heuristics:
    """Heuristic readers of one page's fields."""

    def __init__(self, page: Document) -> None:
        self._page = page
        self._galleries: dict[Element, bool] = {}  # element -> whether it or an ancestor is a gallery

    def read(self, field: str) -> Any:
        """The value of ``field``; None for a field without a heuristic."""
        reader = getattr(self, f"_{field}", None)
        return reader() if reader is not None and self._page.root is not None else None

    def source(self, field: str) -> str:
        """The name recorded as the source of ``field``."""
        return "heuristic"

    @cached_property
    def tiles(self) -> Tiles:
        """Groups of repeated product tiles on the page."""
        return Tiles(self._page)

    def _items(self) -> list[str]:
        return [] if self.tiles.listing is None else self.tiles.listing.urls

    def _own(self, found: list[Element]) -> list[Element]:
        """Those of ``found`` that belong to the page's main content."""
        return [element for element in found[:MAX_FOUND] if not self._page.is_aside(element)]

    def _called(self, pattern: re.Pattern[str]) -> list[Element]:
        return self._own(self._page.elements_named(pattern))

    def _name(self) -> str | None:
        heading = self._page.heading
        if heading is not None:
            return text_of(heading)
        return next((text for element in self._called(TITLES) if (text := text_of(element))), None)

    @cached_property
    def prices(self) -> Prices:
        """The prices that the page shows."""
        return Prices(self._page)

    @cached_property
    def labels(self) -> LabelledValues:
        """The values that follow labels."""
        return LabelledValues(self._page)

    def _price(self) -> str | None:
        return None if self.prices.best is None else self.prices.best.text

    def _currency(self) -> str | None:
        """The price's text, with that of its parent if the currency symbol has its own element."""
        if self.prices.best is None:
            return None
        element, text = self.prices.best.element, self.prices.best.text
        is_stated = self._page.source_contains(b"priceCurrency") or self._page.source_contains(b"data-currency")
        stated = self._page.elements('//*[@itemprop="priceCurrency"]/@content | //@data-currency') if is_stated else []
        parent = element.getparent()
        return str(stated[0]) if stated else text if parent is None or _has_symbol(text) else text_of(parent)

    def _availability(self) -> str | None:
        return self.labels.stock

    def _sku(self) -> str | None:
        """The text of an element whose name says product number. Labelled values (`labels`) take precedence."""
        found = chain.from_iterable(
            find(NUMBERS) for find in (self._page.elements_named_in_main, self._page.elements_with_test_id)
        )
        for element in islice(found, MAX_FOUND):
            if self._page.is_aside(element):
                continue
            value = element.get("content") or element.get("data-sku") or ""
            shown = LABEL.sub("", text_of(element)) if is_small(element, MAX_NUMBER_PARTS) else ""
            text = shown if shown and (not value or _is_same(shown, value)) else value
            if text and len(text) <= MAX_NAME and any(map(str.isdigit, text)) and clean_sku(text):
                return text
        return None

    def _brand(self) -> str | None:
        return next((value for value in self.labels.values("brand") if clean_brand(value)), None)

    def _gtin(self) -> str | None:
        return next((value for value in self.labels.values("gtin") if clean_gtin(value)), None)

    def _mpn(self) -> str | None:
        return next((value for value in self.labels.values("mpn") if clean_mpn(value)), None)

    def _breadcrumbs(self) -> list[tuple[str, str | None]]:
        small = (element for element in self._page.elements_named(TRAILS)[:MAX_FOUND] if is_small(element, MAX_FOUND))
        for element in small:
            entries = element.xpath(".//li") or element.xpath(".//a | .//span[not(.//a) and not(ancestor::a)]")
            own = [entry for entry in entries if not _is_switcher(entry, element)]
            trail = [(text_of(entry), _first_link(entry)) for entry in own]
            if any(link for _, link in trail):
                return trail
        return []

    def _images(self) -> list[str]:
        """The gallery's images, else the images nearest to the heading that link to no other page."""
        return self.gallery or self._shown(self._page.near_heading(self._candidates))

    @cached_property
    def gallery(self) -> list[str]:
        """URLs of the images in an element named as a gallery."""
        return self._shown([image for image in self._candidates if self._in_gallery(image)])

    def _in_gallery(self, image: Element) -> bool:
        """Whether ``image`` or one of its ancestors is named as a gallery."""
        found, passed = False, []
        for node in (image, *ancestors(image)):
            known = self._galleries.get(node)
            found = node.tag != "body" and (GALLERIES.search(names_of(node)) is not None if known is None else known)
            passed.append(node)
            if known is not None or found or node.tag == "body":
                break
        self._galleries.update(dict.fromkeys(passed, found))
        return found

    @cached_property
    def _candidates(self) -> list[Element]:
        return [image for image in self._page.tagged("img")[:MAX_FOUND] if self._is_own(image)]

    def _shown(self, images: list[Element]) -> list[str]:
        """The largest version of each image, in the order of ``images``."""
        chosen: dict[str, tuple[float, int, str]] = {}  # key of an image that all sizes share -> its best version
        for image in images:
            for rank, url in images_of(image):
                version = (-width_of(url), rank, url)
                key = image_key(self._page.urljoin(url))
                if key not in chosen or version[:2] < chosen[key][:2]:
                    chosen[key] = version
        return [url for _, _, url in chosen.values()]

    def _is_own(self, image: Element) -> bool:
        urls = [url for _, url in images_of(image)]
        if not urls or any(is_decoration(url) or is_placeholder(url) for url in urls) or self._page.is_aside(image):
            return False
        link = link_around(image)
        target = "" if link is None else link.get("href", "").strip()
        here = not target or target.startswith(("#", "javascript:")) or self._page.urljoin(target) == self._page.url
        return here or is_file(target)

    def _additional_properties(self) -> Iterator[tuple[str, str]]:
        """Pairs from two-column tables, definition lists, and lists with lines such as "Material: Linen"."""
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


def _is_switcher(entry: Element, trail: Element) -> bool:
    """Whether an entry of ``trail``, an element with breadcrumbs, links to the previous or the next product."""
    link = entry if entry.tag == "a" else next(entry.iter("a"), None)
    if link is not None and {"prev", "next"} & set(link.get("rel", "").lower().split()):
        return True
    for node in (entry, *ancestors(entry)):
        if node is trail:
            break
        if SWITCHERS.search(names_of(node)):
            return True
    return False


def _is_same(one: str, other: str) -> bool:
    return "".join(filter(str.isalnum, one)) == "".join(filter(str.isalnum, other))


def _has_symbol(text: str) -> bool:
    return any(not character.isdigit() and character not in " .,'’-–" for character in text)
