"""Finds groups of product tiles in the HTML of a listing without structured data.

A tile is an element that shows one product: a link, an image, mostly a price. Similar tiles that are children of one
element or of its rows form a group. `crawlers.pages.listings.groups` decides which group is the listing. Menus, filters
and pagers are repeated elements too, but have neither images nor prices.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple
from urllib.parse import urlsplit

from crawlers.pages.fields.images import LAZY, is_decoration
from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, ancestors, is_small, names_of, text_of
from crawlers.pages.listings.groups import TileGroup, find_listing, heading_text
from crawlers.pages.listings.pager import PAGER
from crawlers.pages.text.values import MAX_URL, MONEY, is_home

NOT_A_PRODUCT = re.compile(  # links of a tile that do something else than show the product
    r"[?&](add-to-cart|add_to_cart|remove|action|compare|sort|order|dir|filter|q|search)=|"
    r"/(cart|basket|wishlist|compare|login|account|checkout|search)(/|$)",
    re.IGNORECASE,
)
LOGO = re.compile(r"(?:^|[\s_-])(?:logo|site-?(?:title|name|logo)|brand-?logo|masthead|navbar-brand)(?:$|[\s_-])", re.I)
WORD = re.compile(r"[a-z]+")
PLACES = {"odd", "even", "first", "last", "alt", "alternate", "left", "right", "middle"}  # positional class names
TITLES = {"h2", "h3", "h4", "h5", "h6"}
MAX_LINKS = 2000  # links of a page that are examined
MAX_IMAGES = 1500
MAX_PARTS = 200  # elements of a tile
MAX_HEIGHT = 8  # ancestors between a link and its tile
MAX_LOGO = 4  # ancestors between a link and a logo
MAX_TILE_TEXT = 1500  # characters; an element with more text is no tile
MAX_HEADINGS = 2  # with more h1 elements, they are titles of tiles
MAX_BETWEEN = 20  # elements between two rows
WHOLE = ("body", "main", "html")
SAMPLE = 12  # tiles of a group that are examined for prices, images and titles
ALIKE = 0.6  # least share of a parent's tiles that have a class in common


class _Row(NamedTuple):
    """Similar tiles of one parent."""

    outermost: Element | None  # largest ancestor with only these tiles; None if the parent has other content too
    parent: Element
    tiles: list[Element]

    @property
    def key(self) -> tuple[object, ...]:
        """A key that rows of the same table or grid share."""
        around = None if self.outermost is None else self.outermost.getparent()
        if self.outermost is None or around is None:
            return (self.parent, self.tiles[0])
        return (around, self.outermost.tag, _classes(self.outermost), self.parent.tag, self.tiles[0].tag)


class Tiles:
    """Groups of product tiles on one page."""

    def __init__(self, page: Document) -> None:
        self._page = page
        self._links: dict[Element, str] = dict(_links(page))
        self._inside: dict[Element, list[Element]] = {}  # element -> the links in it
        for link in self._links:
            for parent in (link, *ancestors(link, MAX_HEIGHT)):
                self._inside.setdefault(parent, []).append(link)
        self._images: Counter[Element] = Counter()  # element -> number of images in it
        for image in page.tagged("img")[:MAX_IMAGES]:
            source = next((image.get(name, "") for name in LAZY if image.get(name)), "")
            if source.startswith("data:") or not is_decoration(source):
                self._images.update((image, *ancestors(image, MAX_HEIGHT + 1)))

    @cached_property
    def _around_heading(self) -> set[Element]:
        """The page's heading and its ancestors, which are no tiles; empty if the headings belong to tiles."""
        heading = self._page.heading
        if heading is None or self._page.is_in_margin(heading) or len(self._page.tagged("h1")) > MAX_HEADINGS:
            return set()
        return {heading, *ancestors(heading)}

    @cached_property
    def listing(self) -> TileGroup | None:
        """The group that is the category's listing, if there is one."""
        return find_listing(self._page, self.groups)

    @property
    def promoted(self) -> set[str]:
        """URLs in promotion boxes (headed "Featured", ...) that are not in the listing."""
        own = set() if self.listing is None else set(self.listing.urls)
        return {url for group in self.groups if group.is_box for url in group.urls} - own

    @cached_property
    def groups(self) -> list[TileGroup]:
        """Groups of tiles with images; if none of them has prices, also groups of tiles with a price only."""
        found = self._grouped(element for element in self._inside if element in self._images)
        if not any(group.priced > ALIKE and len(group.urls) > 1 for group in found):
            found += self._grouped(
                element for element in self._inside if element not in self._images and self._is_priced_alone(element)
            )
        return found

    def _grouped(self, elements: Iterable[Element]) -> list[TileGroup]:
        below: dict[Element, list[Element]] = {}
        for element in elements:
            parent = element.getparent()
            if parent is not None and element.tag not in WHOLE and element not in self._around_heading:
                below.setdefault(parent, []).append(element)
        rows: dict[tuple[object, ...], list[_Row]] = {}
        for parent, children in below.items():
            tiles = [child for child in children if is_small(child, MAX_PARTS) and self._shows_one(child)]
            for alike in _alike(tiles):
                row = _Row(_outermost(parent, alike), parent, alike)
                rows.setdefault(row.key, []).append(row)
        groups = [self._group(part) for members in rows.values() for part in _unheaded(members)]
        several = {tile for group in groups if len(group.urls) > 1 for tile in group.tiles}
        return [  # without single tiles that are part of a tile of a larger group
            group
            for group in groups
            if len(group.urls) > 1
            or not any(node in several for node in (group.parent, *ancestors(group.parent, MAX_HEIGHT)))
        ]

    def _group(self, members: list[_Row]) -> TileGroup:
        tiles = [tile for row in members for tile in row.tiles]
        urls = {tile: _main_url(self._inside[tile], self._links, self._images) for tile in tiles}
        tiles = self._without_categories(tiles, urls)
        urls = {tile: urls[tile] for tile in tiles}
        sample = tiles[:SAMPLE]
        texts = [text_of(tile)[: MAX_TILE_TEXT + 1] for tile in sample]
        fit = [len(text) <= MAX_TILE_TEXT for text in texts]
        return TileGroup(
            parent=members[0].parent if len(members) == 1 else _common([row.parent for row in members]),
            tiles=tiles,
            urls=list(dict.fromkeys(urls.values())) if any(fit) else [],
            priced=_share(_is_priced(tile, text) for tile, text in zip(sample, texts, strict=True)),
            imaged=_share(tile in self._images for tile in sample),
            titled=_share(any(map(str.isalpha, text)) for text in texts),
        )

    def _without_categories(self, tiles: list[Element], urls: dict[Element, str]) -> list[Element]:
        """``tiles`` without those of narrower categories, which have no price while the others have one."""
        below = [tile for tile in tiles if _is_below(urls[tile], self._page.url)]
        if not below or len(below) == len(tiles):
            return tiles
        narrower = {tile for tile in below if not _is_priced(tile, text_of(tile))}
        others = [tile for tile in tiles if tile not in narrower]
        priced = _share(_is_priced(tile, text_of(tile)) for tile in others[:SAMPLE])
        return others if priced >= ALIKE else tiles

    def _shows_one(self, element: Element) -> bool:
        """Whether ``element`` shows a single product, counted by links with an image and a title."""
        links = self._inside[element]
        if len({self._links[link] for link in links}) == 1:
            return True
        imaged = {self._links[link] for link in links if link in self._images}
        named = {self._links[link] for link in links if self._links[link] in imaged and _says(link)}
        if not imaged:
            return self._images[element] < 2 or len(links) < 2
        return len(named or imaged) == 1

    def _is_priced_alone(self, element: Element) -> bool:
        return element.tag != "a" and is_small(element, MAX_PARTS) and _is_priced(element, text_of(element))


def links_below(page: Document) -> list[str]:
    """The URLs whose path continues that of the page: mostly narrower categories."""
    path = urlsplit(page.url).path.rstrip("/")
    if not path:
        return []
    below: dict[str, None] = {}
    for link in page.tagged("a")[:MAX_LINKS]:
        target = link.get("href", "#").strip()
        if (target[:1] == "/" or "://" in target) and path not in target:
            continue  # avoids making most links of a page absolute
        url = _usable(target, page)
        if (
            url
            and url not in below
            and _is_below(url, page.url)
            and not urlsplit(url).query
            and not page.is_aside(link)
        ):
            below[url] = None
    return list(below)


def _links(page: Document) -> Iterator[tuple[Element, str]]:
    """The links in the page's content to other pages of the same site, with their URLs."""
    here = page.url.partition("#")[0]
    logos = set(page.elements_named(LOGO))
    for link in page.tagged("a")[:MAX_LINKS]:
        url = _usable(link.get("href", "#").strip(), page)
        if not url or url == here or page.is_aside(link):
            continue
        if not any(node in logos for node in (link, *ancestors(link, MAX_LOGO))):
            yield link, url


def _usable(target: str, page: Document) -> str | None:
    """``target`` as an absolute URL if it may be a product page of the same site; else None."""
    if not target or target.startswith("#") or len(target) > MAX_URL or NOT_A_PRODUCT.search(target):
        return None
    url = page.http_url(target)
    return url if url is not None and page.is_of_site(url) and not is_home(url) else None


def _is_below(url: str, of: str) -> bool:
    """Whether the path of ``url`` continues that of the URL ``of``."""
    path = urlsplit(of).path.rstrip("/") + "/"
    return len(path) > 1 and urlsplit(url).path.startswith(path)


def _alike(tiles: list[Element]) -> Iterator[list[Element]]:
    """The tiles of one parent, grouped by tag and by the class that most of them share."""
    by_tag: dict[object, list[Element]] = {}
    for tile in tiles:
        by_tag.setdefault(tile.tag, []).append(tile)
    for found in by_tag.values():
        classes = {tile: _classes(tile) for tile in found}
        common = Counter(name for names in classes.values() for name in names).most_common(1)
        if common and common[0][1] >= ALIKE * len(found):
            yield [tile for tile in found if common[0][0] in classes[tile]]
            if rest := [tile for tile in found if common[0][0] not in classes[tile]]:
                yield rest
        else:
            yield found


def _classes(element: Element) -> frozenset[str]:
    """An element's classes without numbers and positional words."""
    words = (WORD.findall(name) for name in element.get("class", "").lower().split()[:20])
    return frozenset("-".join(word for word in name if word not in PLACES) for name in words) - {""}


def _holds_only(parent: Element, tiles: list[Element]) -> bool:
    """Whether ``parent`` has no visible content besides ``tiles``."""
    own = set(tiles)
    texts = [parent.text, *(child.tail for child in parent)]
    if any(text and not text.isspace() for text in texts):
        return False
    return all(child in own or not text_of(child) for child in parent)


def _outermost(parent: Element, tiles: list[Element]) -> Element | None:
    if not _holds_only(parent, tiles) or parent.tag in WHOLE:
        return None
    outermost = parent
    for node in ancestors(parent, 2):
        if len(node) > 1 or node.tag in WHOLE or (node.text or "").strip():
            break
        outermost = node
    return outermost


def _unheaded(rows: list[_Row]) -> Iterator[list[_Row]]:
    """``rows`` split where a heading or a toolbar separates two of them."""
    part: list[_Row] = []
    for row in rows:
        if part and _is_headed(row.outermost, part[-1].outermost):
            yield part
            part = []
        part.append(row)
    yield part


def _is_headed(element: Element | None, after: Element | None) -> bool:
    """Whether a heading or a toolbar is between the element ``after`` and ``element``, which follows it."""
    for sibling in islice(() if element is None else element.itersiblings("*", preceding=True), MAX_BETWEEN):
        if sibling is after:
            return False
        if heading_text(sibling) or PAGER.search(names_of(sibling)) or next(sibling.iter("select"), None) is not None:
            return True
    return False


def _common(elements: list[Element]) -> Element:
    """The nearest common ancestor of ``elements``."""
    around = [elements[0], *ancestors(elements[0])]
    for element in elements[1:]:
        own = {element, *ancestors(element)}
        around = [node for node in around if node in own]
    return around[0] if around else elements[0].getroottree().getroot()


def _is_priced(tile: Element, text: str) -> bool:
    if MONEY.search(text[:MAX_TILE_TEXT]):
        return True
    return any("price" in names_of(part).lower() for part in tile.iterdescendants("*"))


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _says(link: Element) -> bool:
    return any(map(str.isalpha, text_of(link)))


def _main_url(own: list[Element], links: dict[Element, str], images: Counter[Element]) -> str:
    """The product URL of a tile: the most frequent target of its links; those with image or title weigh more."""
    votes: Counter[str] = Counter()
    for link in own:
        in_title = any(parent.tag in TITLES for parent in (link, *ancestors(link, MAX_HEIGHT)))
        votes[links[link]] += 1 + 2 * (link in images) + in_title
    return max(votes, key=lambda url: votes[url])
