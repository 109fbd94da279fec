"""Choice of the group of tiles that is the category's listing, by a weighted score of several signals.

A page with a short listing may have many promotion boxes with the same kind of tiles. Therefore the number of tiles is
only one signal. The others are the distance to the page's heading and pager, the product count that the page states,
prices and images, URL patterns that the tiles share with each other and with the page, and the names of the elements
around the group. The weights are set by hand and checked by tests/crawlers/pages/test_listings.py.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from lxml import etree

from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, ancestors, is_hidden, is_small, names_of, text_of
from crawlers.pages.listings.pager import PAGER
from crawlers.pages.text.listing_words import (
    BOX_HEADINGS,
    BOX_NAMES,
    COUNT_OF,
    COUNT_RANGE,
    LISTING_NAMES,
    NOTHING_FOUND,
    SIDES,
    SORT_NAMES,
)

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6", "legend")
CALLED_HEADING = re.compile(r"(?:^|[\s_-])(?:heading|title|headline|caption)(?:$|[\s_-])", re.IGNORECASE)
DIGITS = re.compile(r"\d+")
MAX_GROUPS = 60  # groups that are compared
MAX_ANCHORS = 12  # pagers and toolbars
MAX_PAGER = 120  # elements of a pager
MAX_COUNT_TEXT = 200  # characters
MAX_SIBLINGS = 12  # siblings before a group that are searched for its heading
MIN_SECTIONS = 3  # least sections with headings that count as one listing
MIN_SCORE = 4.0

# Points of each signal.
PER_DOUBLING, MOST_DOUBLINGS = 1.0, 4.0  # for each doubling of the number of products
PRICED, IMAGED, TITLED = 2.5, 2.0, 1.0
ALIKE_URLS, LIKE_THE_PAGE = 1.0, 2.0
NEAR_HEADING, NEAR_PAGER = 2.5, 2.0
LEAVING, STEP = 1.0, 0.75  # subtracted if another group is nearer to the heading, and for each level of distance
AFTER_HEADING = 1.0
COUNTED = 3.0
CALLED_LISTING, CALLED_BOX, AT_A_SIDE, HEADED_AS_BOX, IS_HIDDEN = 1.5, 3.0, 2.0, 3.0, 2.0
_COUNTS = etree.XPath("//body//text()[string-length(.) < 80][translate(., '0123456789', '') != .]")


@dataclass(eq=False)
class TileGroup:
    """Similar tiles that are children of one element or of its rows."""

    parent: Element  # common ancestor
    tiles: list[Element]
    urls: list[str]  # product URLs without duplicates
    priced: float  # share of sampled tiles with a price
    imaged: float  # share with an image
    titled: float  # share with letters in their text
    score: float = 0.0
    is_box: bool = False  # its heading is that of a promotion box
    is_near_pager: bool = False
    distance: int = 0  # levels from the page's heading up to an ancestor of the group


def find_listing(page: Document, groups: Sequence[TileGroup]) -> TileGroup | None:
    """The group that is the category's listing; None if no group scores high enough."""
    usable = [group for group in groups if group.urls and _is_fit(group)]
    usable.sort(key=lambda group: -len(group.urls) * (1 + group.priced))
    usable = usable[:MAX_GROUPS]
    if not usable:
        return None
    scores = GroupScores(page, usable)
    for group in usable:
        group.score = scores.of(group)
    best = max(usable, key=lambda group: group.score)
    if best.score < MIN_SCORE or (best.is_box and (scores.nothing_found or not best.is_near_pager)):
        return None
    return _with_sections(best, usable)


class GroupScores:
    """Scores of the groups of one page.

    Args:
        page: the page.
        groups: all groups, whose distances to heading and pagers are compared.
    """

    def __init__(self, page: Document, groups: Sequence[TileGroup]) -> None:
        self._page = page
        heading = page.heading_or_title
        if heading is not None and page.is_in_margin(heading):
            heading = None  # it is the shop's name
        self._heading = heading
        self._heading_text = "" if heading is None else text_of(heading).lower()
        self._from_heading = {} if heading is None else distances(heading)
        self._anchors, self._counts = self._toolbars()
        self._nearest = min((self._distance(group, self._from_heading) for group in groups), default=0)
        chains = [distances(anchor) for anchor in self._anchors]
        self._near_anchor = [(chain, min(self._distance(group, chain) for group in groups)) for chain in chains]
        self._pairs = _pairs(page.url)
        self._has_prices = any(group.priced > 0 for group in groups)
        self._path = urlsplit(page.url).path.rstrip("/")

    @property
    def nothing_found(self) -> bool:
        """Whether the page says that the category has no products."""
        return any(NOTHING_FOUND.search(text) for _, text in self._page.texts if len(text) < MAX_COUNT_TEXT)

    def of(self, group: TileGroup) -> float:
        """The score of ``group``; sets its ``is_box``, ``is_near_pager`` and ``distance``."""
        count = len(group.urls)
        score = PER_DOUBLING * min(math.log2(1 + count), MOST_DOUBLINGS)
        score += PRICED * group.priced + IMAGED * group.imaged + TITLED * group.titled
        score += self._by_urls(group) + self._by_heading(group) + self._by_pager(group)
        return score + self._by_names(group)

    def _by_urls(self, group: TileGroup) -> float:
        shapes = Counter(_shape(url) for url in group.urls)
        score = ALIKE_URLS * shapes.most_common(1)[0][1] / len(group.urls) if len(group.urls) > 1 else 0.0
        may_be_below = group.priced > 0 or not self._has_prices  # tiles without price may be narrower categories
        like = [bool(self._pairs & _pairs(url)) or (may_be_below and self._is_below(url)) for url in group.urls]
        return score + LIKE_THE_PAGE * sum(like) / len(like)

    def _is_below(self, url: str) -> bool:
        return len(self._path) > 1 and urlsplit(url).path.startswith(f"{self._path}/")

    def _by_heading(self, group: TileGroup) -> float:
        if self._heading is None:
            return 0.0
        distance = group.distance = self._distance(group, self._from_heading)
        farther = distance - self._nearest
        score = NEAR_HEADING if not farther else max(NEAR_HEADING - LEAVING - STEP * farther, -STEP)
        return score + (AFTER_HEADING if _is_before(self._heading, group.tiles[0]) else -AFTER_HEADING)

    def _by_pager(self, group: TileGroup) -> float:
        """The nearest of several pagers counts, as a box may have its own."""
        score = 0.0
        for chain, nearest in self._near_anchor:
            distance = self._distance(group, chain) - nearest
            group.is_near_pager |= distance == 0
            score = max(score, NEAR_PAGER - STEP * distance)
        return score + (COUNTED if len(group.urls) in self._counts else 0.0)

    def _by_names(self, group: TileGroup) -> float:
        score = 0.0
        around = list(self._around(group))
        names = [names_of(node) for node in around]
        score += CALLED_LISTING * any(LISTING_NAMES.search(name) for name in names)
        score -= CALLED_BOX * any(BOX_NAMES.search(name) for name in names)
        score -= AT_A_SIDE * any(SIDES.search(name) for name in names)
        score -= IS_HIDDEN * is_hidden(group.parent)
        heading = self._heading_before(group)
        if heading and BOX_HEADINGS.search(heading) and heading.lower() not in self._heading_text:
            group.is_box = True
            score -= HEADED_AS_BOX
        return score

    def _around(self, group: TileGroup) -> Iterator[Element]:
        """The group's ancestors that do not contain the page's heading."""
        for node in (group.parent, *ancestors(group.parent)):
            if node in self._from_heading or node.tag in ("body", "html"):
                return
            yield node

    def _heading_before(self, group: TileGroup) -> str:
        """The heading of the section that contains the group but not the page's heading; empty if there is none."""
        own = {*group.tiles, *(node for tile in group.tiles for node in ancestors(tile, MAX_SIBLINGS))}
        inside = next((child for child in group.parent if child in own), None)
        for node in (inside, group.parent, *ancestors(group.parent)):
            if node is None:
                continue
            if node.tag in ("body", "html"):
                break
            for sibling in _before(node):
                if sibling is self._heading or sibling in self._from_heading:
                    return ""
                if text := heading_text(sibling):
                    return text
            if (around := node.getparent()) is not None and around in self._from_heading:
                break
        return ""

    @staticmethod
    def _distance(group: TileGroup, chain: dict[Element, int]) -> int:
        return steps_up(chain, group.parent)

    def _toolbars(self) -> tuple[list[Element], set[int]]:
        """Pagers, sort menus and texts with a product count; and the counts."""
        anchors: list[Element] = []
        counts: set[int] = set()
        root = self._page.root
        for text in [] if root is None else _COUNTS(root)[: MAX_GROUPS * 5]:
            holder = text.getparent()
            if holder is None or not (count := _count_in(" ".join(text.split()))) or self._page.is_aside(holder):
                continue
            anchors.append(holder)
            counts |= count
        for element in self._page.elements_named(PAGER):
            text = text_of(element) if is_small(element, MAX_PAGER) else ""
            if DIGITS.search(text) and not self._page.is_aside(element):
                anchors.append(element)
                counts |= _count_in(text[:MAX_COUNT_TEXT])
        for element in self._page.tagged("select"):
            if SORT_NAMES.search(f"{names_of(element)} {element.get('name', '')}") and not self._page.is_aside(element):
                anchors.append(element)
        return anchors[:MAX_ANCHORS], counts


def _is_fit(group: TileGroup) -> bool:
    """Whether the group can be a listing: banners have no text, and a single tile without a price is a banner."""
    if len(group.urls) == 1:
        return group.priced > 0 and group.titled > 0
    return group.priced > 0 or group.titled >= 0.5


def _with_sections(best: TileGroup, groups: Sequence[TileGroup]) -> TileGroup:
    """``best``, joined with its sibling groups if the listing consists of sections with headings."""
    around = best.parent.getparent()
    holder = None if around is None else around.getparent()
    if around is None or holder is None:
        return best
    names, depth = names_of(around), (best.parent.tag, names_of(best.parent))
    same = [
        group
        for group in groups
        if (section := group.parent.getparent()) is not None
        and section.getparent() is holder
        and section.tag == around.tag
        and names_of(section) == names
        and (group.parent.tag, names_of(group.parent)) == depth
        and not group.is_box
    ]
    sections = {id(group.parent.getparent()) for group in same}
    if len(sections) < MIN_SECTIONS or around.tag in ("body", "html"):
        return best
    tiles = sorted((tile for group in same for tile in group.tiles), key=_place)
    order = {url: None for group in sorted(same, key=lambda group: _place(group.tiles[0])) for url in group.urls}
    return TileGroup(holder, tiles, list(order), best.priced, best.imaged, best.titled, best.score)


def _place(element: Element) -> list[int]:
    """The position of ``element`` in its document, as child indices from the root."""
    nodes = ((node, node.getparent()) for node in (element, *ancestors(element)))
    return [parent.index(node) for node, parent in nodes if parent is not None][::-1]


def steps_up(chain: dict[Element, int], element: Element) -> int:
    """Distance from the start of ``chain`` (see `distances`) to its first element that contains ``element``."""
    return next((chain[node] for node in (element, *ancestors(element)) if node in chain), len(chain))


def distances(element: Element) -> dict[Element, int]:
    """``element`` and its ancestors -> number of levels above ``element``."""
    return {node: distance for distance, node in enumerate((element, *ancestors(element)))}


def _is_before(one: Element, other: Element) -> bool:
    return _place(one) < _place(other)


def _before(node: Element) -> Iterator[Element]:
    for count, sibling in enumerate(node.itersiblings("*", preceding=True)):
        if count >= MAX_SIBLINGS:
            return
        yield sibling


def heading_text(element: Element) -> str:
    """The text of ``element`` if it is a heading, else of the last heading in it; empty if it is large."""
    if not is_small(element, MAX_SIBLINGS):
        return ""
    if element.tag in HEADINGS or CALLED_HEADING.search(names_of(element)):
        return text_of(element)[:MAX_COUNT_TEXT]
    inside = list(element.iter(*HEADINGS))
    return text_of(inside[-1])[:MAX_COUNT_TEXT] if inside else ""


def _count_in(text: str) -> set[int]:
    """The number of products on the page, from a text such as "Showing 1 to 12 of 40 (4 pages)"."""
    if found := COUNT_RANGE.search(text):
        first, last, of = (int(number) for number in found.groups())
        return {last - first + 1} if 0 < first <= last <= of else set()
    if found := COUNT_OF.fullmatch(text.strip()):
        return {int(found[1])}
    return set()


def _pairs(url: str) -> set[tuple[str, str]]:
    """Query parameters with a number, such as ``cat=12``."""
    try:
        return {(name, value) for name, value in parse_qsl(urlsplit(url).query) if DIGITS.search(value)}
    except ValueError:
        return set()


def _shape(url: str) -> tuple[str, ...]:
    """Parts of a URL that pages of the same kind share: folders, parameter names, suffix."""
    parts = urlsplit(url)
    folder, _, name = parts.path.rpartition("/")
    _, point, ending = name.rpartition(".")
    fixed = [value for key, value in parse_qsl(parts.query) if not DIGITS.search(value)]
    return (DIGITS.sub("0", folder), ending if point else "", *sorted(key for key, _ in parse_qsl(parts.query)), *fixed)
