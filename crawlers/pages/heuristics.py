"""A product page without any mark-up for machines: what the names of its classes and the shape of its HTML tell.

The last resort, and the only one for plain shops. Knows no shop; everything here is a guess that holds for most.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import chain, islice
from typing import Any

from crawlers.pages.fields.images import (
    images_of,
    is_decoration,
    is_file,
    is_placeholder,
    link_around,
    pixels_of,
    same_image,
)
from crawlers.pages.fields.labelled import Labelled
from crawlers.pages.fields.prices import Prices
from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, above, is_small, names_of, text_of
from crawlers.pages.listings.tiles import Tiles
from crawlers.pages.text.numbers import clean_brand, clean_gtin, clean_mpn, clean_sku

# What classes and ids of elements are called that hold ...
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
MAX_NUMBER_PARTS = 8  # elements in one that shows a number
MAX_FOUND = 400  # elements of one kind that are looked at


class Heuristics:
    """Guesses about one page, field by field."""

    def __init__(self, page: Document) -> None:
        self._page = page
        self._galleries: dict[Element, bool] = {}  # element -> whether it, or one around it, is one

    def read(self, field: str) -> Any:
        """What can be guessed about ``field``; None for a field that nothing is guessed about."""
        reader = getattr(self, f"_{field}", None)
        return reader() if reader is not None and self._page.root is not None else None

    def source(self, field: str) -> str:
        """What is noted as the source of ``field``."""
        return "heuristic"

    @cached_property
    def tiles(self) -> Tiles:
        """What repeats on the page."""
        return Tiles(self._page)

    def _items(self) -> list[str]:
        return [] if self.tiles.listing is None else self.tiles.listing.urls

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
    def prices(self) -> Prices:
        """What the page shows as prices."""
        return Prices(self._page)

    @cached_property
    def labels(self) -> Labelled:
        """What stands behind labels."""
        return Labelled(self._page)

    def _price(self) -> str | None:
        return None if self.prices.best is None else self.prices.best.text

    def _currency(self) -> str | None:
        """The price with what stands beside it: the symbol may have an element of its own."""
        if self.prices.best is None:
            return None
        element, text = self.prices.best.element, self.prices.best.text
        is_said = self._page.mentions(b"priceCurrency") or self._page.mentions(b"data-currency")
        said = self._page.elements('//*[@itemprop="priceCurrency"]/@content | //@data-currency') if is_said else []
        parent = element.getparent()
        return str(said[0]) if said else text if parent is None or _has_symbol(text) else text_of(parent)

    def _availability(self) -> str | None:
        return self.labels.stock

    def _sku(self) -> str | None:
        """What elements show that are called numbers; what stands behind a label is asked before (`labels`)."""
        found = chain.from_iterable(find(NUMBERS) for find in (self._page.called_in_main, self._page.tested_as))
        for element in islice(found, MAX_FOUND):
            if self._page.is_aside(element):
                continue
            said = element.get("content") or element.get("data-sku") or ""
            shown = LABEL.sub("", text_of(element)) if is_small(element, MAX_NUMBER_PARTS) else ""
            text = shown if shown and (not said or _is_same(shown, said)) else said
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
        small = (element for element in self._page.called(TRAILS)[:MAX_FOUND] if is_small(element, MAX_FOUND))
        for element in small:
            entries = element.xpath(".//li") or element.xpath(".//a | .//span[not(.//a) and not(ancestor::a)]")
            own = [entry for entry in entries if not _is_switcher(entry, element)]
            trail = [(text_of(entry), _first_link(entry)) for entry in own]
            if any(link for _, link in trail):
                return trail
        return []

    def _images(self) -> list[str]:
        """The gallery's, else those nearest to the heading; what links to another page is another product."""
        return self.gallery or self._shown(self._page.near_heading(self._candidates))

    @cached_property
    def gallery(self) -> list[str]:
        """The images in what is called a gallery, near the heading."""
        return self._shown([image for image in self._candidates if self._in_gallery(image)])

    def _in_gallery(self, image: Element) -> bool:
        """Whether ``image``, or an element around it, is called a gallery."""
        found, passed = False, []
        for node in (image, *above(image)):
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
        """The largest version of each image that ``images`` name, in their order."""
        chosen: dict[str, tuple[float, int, str]] = {}  # the image, whatever its size -> its best version
        for image in images:
            for rank, url in images_of(image):
                version = (-pixels_of(url), rank, url)
                key = same_image(self._page.urljoin(url))
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


def _is_switcher(entry: Element, trail: Element) -> bool:
    """Whether an entry of ``trail`` leads to the product before or behind this one."""
    link = entry if entry.tag == "a" else next(entry.iter("a"), None)
    if link is not None and {"prev", "next"} & set(link.get("rel", "").lower().split()):
        return True
    for node in (entry, *above(entry)):
        if node is trail:
            break
        if SWITCHERS.search(names_of(node)):
            return True
    return False


def _is_same(one: str, other: str) -> bool:
    return "".join(filter(str.isalnum, one)) == "".join(filter(str.isalnum, other))


def _has_symbol(text: str) -> bool:
    return any(not character.isdigit() and character not in " .,'’-–" for character in text)
