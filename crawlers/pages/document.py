"""A page as its readers see it: fetched by somebody else, parsed once, each part when it is first asked for.

Knows neither shops nor fields; what it says of an element is what every shop's pages have in common.
"""

import json
import re
from collections.abc import Container, Iterator
from functools import cache, cached_property
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urljoin

from lxml import etree
from web_poet import WebPage

from crawlers.pages.values import http_url

Element = etree._Element

BOM = b"\xef\xbb\xbf"

UNREAD = {"script", "style", "noscript", "template", "svg"}  # elements whose text nobody reads
UNSHOWN = {"option", "title"}  # and whose text is not part of what a product's page says
NAMES = {"class", "id", "itemprop", "aria-label"}  # attributes that say what an element is called
BLOCKS = {"br", "dd", "div", "dt", "h1", "h2", "h3", "h4", "li", "ol", "p", "section", "table", "td", "th", "tr", "ul"}
MAX_STEPS = 1000  # in and out of elements, on the way through a text
MAX_DEPTH = 100  # elements around an element that are looked at
MAX_NAMES = 500  # characters of a class, id or label that are looked at
MAX_MATCHES = 100
MAX_HEADINGS = 20
MIN_SHARED = 25  # characters of a heading that stand in the page's title
MIN_TITLE = 5  # characters
MAX_MAIN = 4000  # elements of a page's main part
MAX_BOX = 100  # elements of a tile
MAX_BOX_HEIGHT = 6  # elements around a part of a tile
NAMING = re.compile(r"^(route|rt|main_page|controller|_a|p|(products?|item|article|goods|p)?_?id)$", re.IGNORECASE)
IMAGE = re.compile(r"\.(jpe?g|png|webp|gif|avif)$", re.IGNORECASE)
MAX_TEXTS = 4000  # in it
MAX_ASKED = 12  # names that are asked for one by one
MAX_SHORT = 300  # characters
MAX_ANCHORS = 10_000  # elements that may be a page's heading
MARGINS = {"nav", "footer", "aside", "dialog"}
PARTS = {"main", "article"}  # that may have a header of their own
OTHER = re.compile(  # names of what stands beside a page's own content
    r"(?:^|[\s_-])(?:related|up-?sells?|cross-?sells?|recommend\w*|similar|recent\w*|also|viewed|mini-?cart|"
    r"mega-?menu|menu|footer|newsletter|reviews?|comments?|payments?|share|social|cookies?|"
    r"(?<!magnific-)(?<!image-)(?<!gallery-)popup(?![\s_-](?:gallery|images?|photos?))|modal-cart)(?:$|[\s_-])",
    re.IGNORECASE,
)
HIDDEN = re.compile(
    r"(?<![\w-])(hidden|hide|d-none|aok-hidden|is-hidden|display-none|u-hidden)(?![\w-])", re.IGNORECASE
)
NOT_SHOWN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
MAX_HIDERS = 8  # elements around one, that may hide it
CANONICAL = '/html/head/link[contains(concat(" ", @rel, " "), " canonical ")]/@href'


class Document:
    """One response, its HTML or its JSON, as the page object ``page`` has it."""

    def __init__(self, page: WebPage[Any]) -> None:
        self._page = page
        self.url = str(page.response.url)
        self._urls: dict[str, str | None] = {}  # as links say them -> absolute
        self._boxes: dict[Element, bool] = {}  # element -> whether it is one
        self._margins: dict[Element, bool] = {}  # element -> whether it is one

    @cached_property
    def _base_url(self) -> str:
        return str(self._page.base_url)

    def urljoin(self, url: str) -> str:
        """``url`` made absolute; empty if it is none."""
        try:
            return urljoin(self._base_url, url)
        except ValueError:
            return ""

    def http_url(self, target: str) -> str | None:
        """``target`` as `values.http_url` makes it; many links of a page say the same."""
        if target not in self._urls:
            self._urls[target] = http_url(target, self)
        return self._urls[target]

    @cached_property
    def canonical_url(self) -> str | None:
        """The page's own idea of its URL, as it stands there."""
        return next((str(url) for url in self.elements(CANONICAL)), None)

    @cached_property
    def data(self) -> Any:
        """What a JSON response holds; None if it is none."""
        if self._page.response.body.removeprefix(BOM).lstrip()[:1] not in (b"{", b"["):
            return None
        try:
            return json.loads(self._page.response.body)
        except (ValueError, RecursionError):
            return None

    @cached_property
    def root(self) -> Element | None:
        """The HTML's elements and texts; None in a JSON response and in an empty one.

        Comments and processing instructions are taken out, and what stands behind them is kept: any reader may meet
        them anywhere, and none has a use for them.
        """
        root = None if self.data is not None else self._page.selector.root
        return without_comments(root) if isinstance(root, Element) else None

    def mentions(self, text: bytes) -> bool:
        """Whether ``text`` stands anywhere in the source: cheaper than looking for an element."""
        return text in self._page.response.body

    def holds(self, pattern: bytes) -> bool:
        """Whether the source holds ``pattern``, a regular expression."""
        return re.search(pattern, self._page.response.body) is not None

    def found(self, pattern: re.Pattern[bytes]) -> list[bytes]:
        """What ``pattern``, with one group, finds in the source; some of it, where there is much."""
        return [match[1] for match in islice(pattern.finditer(self._page.response.body), MAX_MATCHES)]

    @cached_property
    def heading(self) -> Element | None:
        """The ``h1`` that names the page: not in a margin, in its title if any is, not hidden; else the first."""
        headings = [heading for heading in self.tagged("h1") if text_of(heading).strip()][:MAX_HEADINGS]
        if len(headings) < 2:
            return headings[0] if headings else None
        title = self._title.lower()
        ranks = [
            (
                any(_is_margin(parent) for parent in above(heading)),
                text_of(heading).lower()[:MIN_SHARED] not in title,
                is_hidden(heading),
            )
            for heading in headings
        ]
        return headings[min(range(len(ranks)), key=lambda place: ranks[place])]

    @cached_property
    def _title(self) -> str:
        return " ".join(next((text_of(title) for title in self.tagged("title")), "").split())

    @cached_property
    def _anchor(self) -> Element | None:
        """The heading; on a page without any, the text that its title begins with."""
        title = self._title
        if self.heading is not None or len(title) < MIN_TITLE:
            return self.heading
        best: tuple[int, Element] | None = None
        for element in islice(self.root.iter("*"), MAX_ANCHORS) if self.root is not None else ():
            text = " ".join((element.text or "")[:MAX_SHORT].split())
            if len(text) < MIN_TITLE or not title.startswith(text) or (best and len(text) <= best[0]):
                continue
            if element.tag not in ("title", "a", *UNREAD) and next(element.iterancestors("a"), None) is None:
                best = len(text), element
        return None if best is None else best[1]

    def elements(self, xpath: str) -> list[Element]:
        """The elements at ``xpath``."""
        return [] if self.root is None else list(_compiled(xpath)(self.root))

    def tagged(self, *tags: str) -> list[Element]:
        """The elements named ``tags``: quicker than XPath."""
        return [] if self.root is None else list(self.root.iter(*tags))

    @cached_property
    def _named(self) -> list[tuple[Element, str]]:
        named = (
            (element, names_of(element))
            for element in self.elements("//body//*[@class or @id or @itemprop or @aria-label]")
        )
        return [(element, name) for element, name in named if element.tag not in UNREAD]

    def called(self, pattern: re.Pattern[str]) -> list[Element]:
        """The elements whose class, id or label holds ``pattern``."""
        return [element for element, name in self._named if pattern.search(name)]

    @cached_property
    def main(self) -> Element | None:
        """The largest part of the page around its heading that is no larger than a product: a large page has more."""
        if self.root is None:
            return None
        best = self._anchor
        for node in self._above_heading_in_order:
            if _COUNT(node) > MAX_MAIN:
                break
            best = node
        return self.root if best is None else best

    @cached_property
    def texts(self) -> list[tuple[Element, str]]:
        """The short texts of the main part, in order, each with the element that it stands in."""
        texts: list[tuple[Element, str]] = []
        around: list[Element] = []  # the current element and those that it is in
        for element in () if self.main is None else self.main.iter("*"):
            parent = element.getparent()
            while around and around[-1] is not parent:
                tail = around.pop().tail
                if tail and around:
                    _add_text(texts, around[-1], tail)
            around.append(element)
            if (text := element.text) and element.tag not in UNREAD and element.tag not in UNSHOWN:
                _add_text(texts, element, text)
        while len(around) > 1:
            tail = around.pop().tail
            if tail:
                _add_text(texts, around[-1], tail)
        return texts

    @cached_property
    def plain_texts(self) -> list[str]:
        """The distinct ones of `texts`, in no order, and some that nobody reads: quick to look through."""
        if self.main is None:
            return []
        return [" ".join(text.split()) for text in set(_SHORT_TEXTS(self.main)) if not text.isspace()]

    def called_in_main(self, pattern: re.Pattern[str]) -> list[Element]:
        """The elements of the main part whose class, id or label holds ``pattern``: few names are many elements'."""
        names = [name for name in self._names_in_main if pattern.search(name[:MAX_NAMES])]
        if not names:
            return []
        if len(names) <= MAX_ASKED:
            asked = {f"n{place}": name for place, name in enumerate(names)}
            found = _by_names(len(names))(self.main, **asked)
        else:
            found = [element for element in _NAMED(self.main) if pattern.search(names_of(element))]
        return [element for element in found if element.tag not in UNREAD]

    @cached_property
    def _names_in_main(self) -> set[str]:
        return set() if self.main is None else set(_NAMES(self.main))

    def tested_as(self, pattern: re.Pattern[str]) -> list[Element]:
        """The elements of the main part that their shop's own tests call by names that hold ``pattern``."""
        if self.main is None or not (self.mentions(b"data-qa") or self.mentions(b"data-test")):
            return []
        return [
            element
            for element in _TESTED(self.main)
            if any(pattern.search(value[:MAX_NAMES]) for name, value in element.items() if name.startswith(TESTED_BY))
        ]

    def is_aside(self, element: Element) -> bool:
        """Whether ``element`` stands beside the page's own content: in a menu, a footer, among related products."""
        for node in (element, *above(element)):
            if node in self._above_heading or node.tag == "body":
                return False
            if node not in self._margins:
                self._margins[node] = _is_margin(node)
            if self._margins[node]:
                return True
        return False

    def is_in_margin(self, element: Element) -> bool:
        """Whether ``element`` stands in the page's header, footer, or menus, whatever else is in there."""
        return any(_is_margin(node) for node in above(element) if node.tag not in ("body", "html"))

    def in_box(self, element: Element) -> bool:
        """Whether ``element`` is part of a tile that shows another product: one with an image that links elsewhere."""
        for node in (element, *above(element, MAX_BOX_HEIGHT)):
            if node in self._above_heading or node.tag in ("body", "main"):
                return False
            if node not in self._boxes:
                self._boxes[node] = is_small(node, MAX_BOX) and self._leads_elsewhere(node)
            if self._boxes[node]:
                return True
        return False

    def _leads_elsewhere(self, node: Element) -> bool:
        links = (node, *node.iterancestors("a")) if node.tag == "a" else node.iter("a")
        for link in links:
            target = link.get("href", "").strip()
            if (
                target
                and not target.startswith(("#", "javascript:"))
                and next(link.iter("img", "picture"), None) is not None
            ):
                url = self.urljoin(target).partition("#")[0]
                path, _, query = url.partition("?")
                if IMAGE.search(path):
                    continue
                own, other = self._query, _naming(query) if self._query else {}
                if path != self._path or any(other.get(name, value) != value for name, value in own.items()):
                    return True
        return False

    @cached_property
    def _path(self) -> str:
        return self.url.partition("#")[0].partition("?")[0]

    @cached_property
    def _query(self) -> dict[str, str]:
        """The parameters of the page's URL that tell which page it is."""
        return _naming(self.url.partition("#")[0].partition("?")[2])

    def near_heading(self, found: list[Element]) -> list[Element]:
        """Those of ``found`` in the smallest part of the page that holds the heading and any of them."""
        around = [set(above(element)) for element in found]
        for node in self._above_heading_in_order:
            if inside := [element for element, nodes in zip(found, around, strict=True) if node in nodes]:
                return inside
        return found

    @cached_property
    def _above_heading_in_order(self) -> list[Element]:
        return [] if self._anchor is None else list(above(self._anchor))

    @cached_property
    def _above_heading(self) -> set[Element]:
        return set(self._above_heading_in_order)


_COUNT = etree.XPath("count(descendant::*)")
_SHORT_TEXTS = etree.XPath(f"descendant::text()[string-length(.) < {MAX_SHORT}]", smart_strings=False)
_IS_NAME = " or ".join(f"name() = '{name}'" for name in sorted(NAMES))
_NAMES = etree.XPath(f"descendant-or-self::*/@*[{_IS_NAME}]", smart_strings=False)
_NAMED = etree.XPath("descendant-or-self::*[@class or @id or @itemprop or @aria-label]")


@cache
def _by_names(count: int) -> etree.XPath:
    """Elements that have one of ``count`` names."""
    tests = (f"@{name} = $n{place}" for place in range(count) for name in sorted(NAMES))
    return etree.XPath(f"descendant-or-self::*[{' or '.join(tests)}]")


TESTED_BY = ("data-qa", "data-test")
_TESTED = etree.XPath("descendant-or-self::*[@*[starts-with(name(), 'data-qa') or starts-with(name(), 'data-test')]]")


@cache
def _compiled(xpath: str) -> etree.XPath:
    return etree.XPath(xpath)


def _naming(query: str) -> dict[str, str]:
    return {name.lower(): value for name, value in parse_qsl(query[:MAX_NAMES]) if NAMING.search(name)}


def without_comments(root: Element) -> Element:
    """``root`` without comments, processing instructions and entities below it."""
    etree.strip_tags(root, etree.Comment, etree.ProcessingInstruction, etree.Entity)
    return root


def is_small(element: Element, parts: int) -> bool:
    """Whether ``element`` has less than ``parts`` elements, itself included."""
    return len(list(islice(element.iter("*"), parts))) < parts


def is_hidden(element: Element) -> bool:
    """Whether an element, or one around it, is not shown, as far as its own attributes say."""
    return any(
        node.get("hidden") is not None
        or HIDDEN.search(node.get("class", ""))
        or NOT_SHOWN.search(node.get("style", ""))
        or node.get("aria-hidden") == "true"
        for node in (element, *above(element, MAX_HIDERS))
    )


def above(element: Element, height: int = MAX_DEPTH) -> Iterator[Element]:
    """The elements around ``element``, the nearest first, as far as ``height``."""
    return islice(element.iterancestors(), height)


def names_of(element: Element) -> str:
    """What an element is called: its class, id and label."""
    get = element.get
    name = f"{get('class', '')[:MAX_NAMES]} {get('id', '')[:MAX_NAMES]} {get('itemprop', '')[:MAX_NAMES]} "
    return name + get("aria-label", "")[:MAX_NAMES]


def _add_text(texts: list[tuple[Element, str]], holder: Element, text: str) -> None:
    if len(text) < MAX_SHORT and not text.isspace() and len(texts) < MAX_TEXTS:
        texts.append((holder, " ".join(text.split())))


def text_of(element: Element, without: Container[Element] = ()) -> str:
    """The text that a reader of the page sees, as far as that can be known without its style sheets.

    Args:
        element: whose text.
        without: parts of it that are left out.
    """
    parts: list[str] = []
    walk = etree.iterwalk(element, events=("start", "end", "comment", "pi"))
    for event, node in islice(walk, MAX_STEPS):
        block = node.tag in BLOCKS
        if event == "start":
            if node.tag in UNREAD or node in without:
                walk.skip_subtree()
            else:
                parts += [" " if block else "", node.text or ""]
        elif node is not element:
            parts += [" " if block else "", node.tail or ""]
    return " ".join("".join(parts).split())


def _is_margin(element: Element) -> bool:
    if element.tag == "header":  # of the page, which leads elsewhere, not of a part of it
        around = element.getparent()
        if around is None or around.tag == "body":
            return around is not None
        return not any(node.tag in PARTS for node in above(element)) and next(element.iter("a"), None) is not None
    return element.tag in MARGINS or OTHER.search(names_of(element)) is not None
