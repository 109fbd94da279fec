"""Which group of tiles on a page is the category's listing, by several signals together.

A short listing may stand beside many promotion boxes whose tiles look the same, so the number of tiles is one signal
among others: nearness to the page's heading and to its pager, the number of products that the page says it shows,
prices and images, link patterns that the tiles share with each other and with the page's own URL, and what the
parts of the page around the group are called. The weights are ours, set by hand; the tests say what they must tell
apart. Knows no shop and not how tiles are found.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from lxml import etree

from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, above, is_hidden, is_small, names_of, text_of
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
MAX_GROUPS = 60  # that are held against each other
MAX_ANCHORS = 12  # pagers and the like
MAX_PAGER = 120  # elements of a pager
MAX_COUNT_TEXT = 200  # characters
MAX_SIBLINGS = 12  # before a group, among which its heading may be
MIN_SECTIONS = 3  # with headings of their own, before they count as one listing
MIN_SCORE = 4.0

# Points of the signals.
PER_DOUBLING, MOST_DOUBLINGS = 1.0, 4.0  # of the number of products
PRICED, IMAGED, TITLED = 2.5, 2.0, 1.0
ALIKE_URLS, LIKE_THE_PAGE = 1.0, 2.0
NEAR_HEADING, NEAR_PAGER = 2.5, 2.0
LEAVING, STEP = 1.0, 0.75  # what it costs to leave the part that holds heading and tiles, and each element farther away
AFTER_HEADING = 1.0
COUNTED = 3.0
CALLED_LISTING, CALLED_BOX, AT_A_SIDE, HEADED_AS_BOX, IS_HIDDEN = 1.5, 3.0, 2.0, 3.0, 2.0
_COUNTS = etree.XPath("//body//text()[string-length(.) < 80][translate(., '0123456789', '') != .]")


@dataclass(eq=False)
class Group:
    """Tiles that are children of one element, or of its rows, and look alike."""

    parent: Element  # around all of them
    tiles: list[Element]
    urls: list[str]  # of their products, each once
    priced: float  # share of those looked at
    imaged: float
    titled: float  # that say anything in letters
    score: float = 0.0
    is_box: bool = False  # called a promotion by its heading
    is_near_pager: bool = False
    apart: int = 0  # elements that lead up from the page's heading to one around the group


def listing_of(page: Document, groups: Sequence[Group]) -> Group | None:
    """The one of ``groups`` that is the category's own; None where none looks like it."""
    usable = [group for group in groups if group.urls and _is_fit(group)]
    usable.sort(key=lambda group: -len(group.urls) * (1 + group.priced))
    usable = usable[:MAX_GROUPS]
    if not usable:
        return None
    scores = Scores(page, usable)
    for group in usable:
        group.score = scores.of(group)
    best = max(usable, key=lambda group: group.score)
    if best.score < MIN_SCORE or (best.is_box and (scores.nothing_found or not best.is_near_pager)):
        return None
    return _with_sections(best, usable)


class Scores:
    """The signals of one page.

    Args:
        page: the page.
        groups: of which some are nearer to its heading or pager than others.
    """

    def __init__(self, page: Document, groups: Sequence[Group]) -> None:
        self._page = page
        heading = page.anchor
        if heading is not None and page.is_in_margin(heading):
            heading = None  # the shop's name
        self._heading = heading
        self._heading_text = "" if heading is None else text_of(heading).lower()
        self._from_heading = {} if heading is None else distances(heading)
        self._anchors, self._counts = self._toolbars()
        self._nearest = min((self._apart(group, self._from_heading) for group in groups), default=0)
        chains = [distances(anchor) for anchor in self._anchors]
        self._near_anchor = [(chain, min(self._apart(group, chain) for group in groups)) for chain in chains]
        self._pairs = _pairs(page.url)
        self._has_prices = any(group.priced > 0 for group in groups)
        self._path = urlsplit(page.url).path.rstrip("/")

    @property
    def nothing_found(self) -> bool:
        """Whether the page says that there are no products."""
        return any(NOTHING_FOUND.search(text) for _, text in self._page.texts if len(text) < MAX_COUNT_TEXT)

    def of(self, group: Group) -> float:
        """The points of ``group``; notes some of what they are for."""
        count = len(group.urls)
        score = PER_DOUBLING * min(math.log2(1 + count), MOST_DOUBLINGS)
        score += PRICED * group.priced + IMAGED * group.imaged + TITLED * group.titled
        score += self._by_urls(group) + self._by_heading(group) + self._by_pager(group)
        return score + self._by_names(group)

    def _by_urls(self, group: Group) -> float:
        shapes = Counter(_shape(url) for url in group.urls)
        score = ALIKE_URLS * shapes.most_common(1)[0][1] / len(group.urls) if len(group.urls) > 1 else 0.0
        may_be_below = group.priced > 0 or not self._has_prices  # among priced products, narrower categories are below
        like = [bool(self._pairs & _pairs(url)) or (may_be_below and self._is_below(url)) for url in group.urls]
        return score + LIKE_THE_PAGE * sum(like) / len(like)

    def _is_below(self, url: str) -> bool:
        return len(self._path) > 1 and urlsplit(url).path.startswith(f"{self._path}/")

    def _by_heading(self, group: Group) -> float:
        if self._heading is None:
            return 0.0
        apart = group.apart = self._apart(group, self._from_heading)
        farther = apart - self._nearest
        score = NEAR_HEADING if not farther else max(NEAR_HEADING - LEAVING - STEP * farther, -STEP)
        return score + (AFTER_HEADING if _is_before(self._heading, group.tiles[0]) else -AFTER_HEADING)

    def _by_pager(self, group: Group) -> float:
        """The nearest of several pagers counts; those of boxes are near to their boxes alone."""
        score = 0.0
        for chain, nearest in self._near_anchor:
            apart = self._apart(group, chain) - nearest
            group.is_near_pager |= apart == 0
            score = max(score, NEAR_PAGER - STEP * apart)
        return score + (COUNTED if len(group.urls) in self._counts else 0.0)

    def _by_names(self, group: Group) -> float:
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

    def _around(self, group: Group) -> Iterator[Element]:
        """The elements around the group that are not around the heading as well."""
        for node in (group.parent, *above(group.parent)):
            if node in self._from_heading or node.tag in ("body", "html"):
                return
            yield node

    def _heading_before(self, group: Group) -> str:
        """What the part of the page that holds the group and not the page's heading is headed."""
        own = {*group.tiles, *(node for tile in group.tiles for node in above(tile, MAX_SIBLINGS))}
        inside = next((child for child in group.parent if child in own), None)
        for node in (inside, group.parent, *above(group.parent)):
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
    def _apart(group: Group, chain: dict[Element, int]) -> int:
        return steps_up(chain, group.parent)

    def _toolbars(self) -> tuple[list[Element], set[int]]:
        """Pagers, choices of an order, and texts that count the products; and what they count."""
        anchors: list[Element] = []
        counts: set[int] = set()
        root = self._page.root
        for text in [] if root is None else _COUNTS(root)[: MAX_GROUPS * 5]:
            holder = text.getparent()
            if holder is None or not (count := _count_in(" ".join(text.split()))) or self._page.is_aside(holder):
                continue
            anchors.append(holder)
            counts |= count
        for element in self._page.called(PAGER):
            text = text_of(element) if is_small(element, MAX_PAGER) else ""
            if DIGITS.search(text) and not self._page.is_aside(element):
                anchors.append(element)
                counts |= _count_in(text[:MAX_COUNT_TEXT])
        for element in self._page.tagged("select"):
            if SORT_NAMES.search(f"{names_of(element)} {element.get('name', '')}") and not self._page.is_aside(element):
                anchors.append(element)
        return anchors[:MAX_ANCHORS], counts


def _is_fit(group: Group) -> bool:
    """Whether it may be a listing at all: banners say nothing, and a single image without a price is one."""
    if len(group.urls) == 1:
        return group.priced > 0 and group.titled > 0
    return group.priced > 0 or group.titled >= 0.5


def _with_sections(best: Group, groups: Sequence[Group]) -> Group:
    """``best`` and the groups that are its siblings, where a listing is made of sections with headings."""
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
    return Group(holder, tiles, list(order), best.priced, best.imaged, best.titled, best.score)


def _place(element: Element) -> list[int]:
    """Where ``element`` stands in its document."""
    nodes = ((node, node.getparent()) for node in (element, *above(element)))
    return [parent.index(node) for node, parent in nodes if parent is not None][::-1]


def steps_up(chain: dict[Element, int], element: Element) -> int:
    """How many elements lead up from where ``chain`` starts to the first that is around ``element``, too."""
    return next((chain[node] for node in (element, *above(element)) if node in chain), len(chain))


def distances(element: Element) -> dict[Element, int]:
    """The elements around ``element`` and how far up they are, itself included."""
    return {node: apart for apart, node in enumerate((element, *above(element)))}


def _is_before(one: Element, other: Element) -> bool:
    return _place(one) < _place(other)


def _before(node: Element) -> Iterator[Element]:
    for count, sibling in enumerate(node.itersiblings("*", preceding=True)):
        if count >= MAX_SIBLINGS:
            return
        yield sibling


def heading_text(element: Element) -> str:
    """The text of ``element`` where it is a heading, or of the last small heading in it."""
    if not is_small(element, MAX_SIBLINGS):
        return ""
    if element.tag in HEADINGS or CALLED_HEADING.search(names_of(element)):
        return text_of(element)[:MAX_COUNT_TEXT]
    inside = list(element.iter(*HEADINGS))
    return text_of(inside[-1])[:MAX_COUNT_TEXT] if inside else ""


def _count_in(text: str) -> set[int]:
    """How many products the page shows, as a text such as "Showing 1 to 12 of 40 (4 pages)" says."""
    if found := COUNT_RANGE.search(text):
        first, last, of = (int(number) for number in found.groups())
        return {last - first + 1} if 0 < first <= last <= of else set()
    if found := COUNT_OF.fullmatch(text.strip()):
        return {int(found[1])}
    return set()


def _pairs(url: str) -> set[tuple[str, str]]:
    """The parts of a query that name something by a number, such as ``cat=12``."""
    try:
        return {(name, value) for name, value in parse_qsl(urlsplit(url).query) if DIGITS.search(value)}
    except ValueError:
        return set()


def _shape(url: str) -> tuple[str, ...]:
    """What URLs of the same kind of page share: the folders, the parameters' names, the ending."""
    parts = urlsplit(url)
    folder, _, name = parts.path.rpartition("/")
    _, point, ending = name.rpartition(".")
    fixed = [value for key, value in parse_qsl(parts.query) if not DIGITS.search(value)]
    return (DIGITS.sub("0", folder), ending if point else "", *sorted(key for key, _ in parse_qsl(parts.query)), *fixed)
