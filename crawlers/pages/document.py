"""A page as its readers see it: fetched by somebody else, parsed once, each part when it is first asked for.

Knows neither shops nor fields; what it says of an element is what every shop's pages have in common.
"""

import json
import re
from collections.abc import Container, Iterator
from functools import cache, cached_property
from itertools import islice
from typing import Any
from urllib.parse import urljoin

from lxml import etree
from web_poet import WebPage

Element = etree._Element

BOM = b"\xef\xbb\xbf"

UNREAD = {"script", "style", "noscript", "template", "svg"}  # elements whose text nobody reads
BLOCKS = {"br", "dd", "div", "dt", "h1", "h2", "h3", "h4", "li", "ol", "p", "section", "table", "td", "th", "tr", "ul"}
MAX_STEPS = 1000  # in and out of elements, on the way through a text
MAX_DEPTH = 100  # elements around an element that are looked at
MAX_NAMES = 500  # characters of a class, id or label that are looked at
MARGINS = {"nav", "footer", "aside", "dialog"}
OTHER = re.compile(  # names of what stands beside a page's own content
    r"(?:^|[\s_-])(?:related|up-?sells?|cross-?sells?|recommend\w*|similar|recent\w*|also|viewed|mini-?cart|"
    r"mega-?menu|menu|footer|newsletter|reviews?|comments?|payments?|share|social|cookies?|popup|modal-cart)(?:$|[\s_-])",
    re.IGNORECASE,
)


class Document:
    """One response, its HTML or its JSON, as the page object ``page`` has it."""

    def __init__(self, page: WebPage[Any]) -> None:
        self._page = page
        self.url = str(page.response.url)
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

    @cached_property
    def heading(self) -> Element | None:
        """The ``h1`` that names the page: the first one with a text that is not in a margin, else the first."""
        headings = [heading for heading in self.tagged("h1") if text_of(heading).strip()]
        for heading in headings:
            if not any(_is_margin(parent) for parent in above(heading)):
                return heading
        return headings[0] if headings else None

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

    def near_heading(self, found: list[Element]) -> list[Element]:
        """Those of ``found`` in the smallest part of the page that holds the heading and any of them."""
        around = [set(above(element)) for element in found]
        for node in self._above_heading_in_order:
            if inside := [element for element, nodes in zip(found, around, strict=True) if node in nodes]:
                return inside
        return found

    @cached_property
    def _above_heading_in_order(self) -> list[Element]:
        return [] if self.heading is None else list(above(self.heading))

    @cached_property
    def _above_heading(self) -> set[Element]:
        return set(self._above_heading_in_order)


@cache
def _compiled(xpath: str) -> etree.XPath:
    return etree.XPath(xpath)


def without_comments(root: Element) -> Element:
    """``root`` without comments, processing instructions and entities below it."""
    etree.strip_tags(root, etree.Comment, etree.ProcessingInstruction, etree.Entity)
    return root


def is_small(element: Element, parts: int) -> bool:
    """Whether ``element`` has less than ``parts`` elements, itself included."""
    return len(list(islice(element.iter("*"), parts))) < parts


def above(element: Element, height: int = MAX_DEPTH) -> Iterator[Element]:
    """The elements around ``element``, the nearest first, as far as ``height``."""
    return islice(element.iterancestors(), height)


def names_of(element: Element) -> str:
    """What an element is called: its class, id and label."""
    return " ".join(element.get(name, "")[:MAX_NAMES] for name in ("class", "id", "itemprop", "aria-label"))


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
    if element.tag == "header":
        return element.getparent() is not None and element.getparent().tag == "body"
    return element.tag in MARGINS or OTHER.search(names_of(element)) is not None
