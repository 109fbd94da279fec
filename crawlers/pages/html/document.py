"""A page as its readers see it: fetched by somebody else, parsed once, each part when it is first asked for.

Knows neither shops nor fields; what it says of an element is what every shop's pages have in common.
"""

import json
import re
import sys
from collections import defaultdict
from functools import cache, cached_property
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from lxml import etree
from parsel import Selector
from parsel.selector import create_root_node
from web_poet import WebPage

from crawlers.http.urls import joined
from crawlers.pages.html.elements import (
    MAX_NAMES,
    UNREAD,
    Element,
    HtmlParser,
    above,
    is_hidden,
    is_margin,
    is_small,
    names_of,
    text_of,
)
from crawlers.pages.html.texts import MAX_SHORT, distinct_texts_in, texts_in
from crawlers.pages.html.xhtml import opened
from crawlers.pages.text.values import http_url

BOM = b"\xef\xbb\xbf"

MAX_MATCHES = 100
MAX_HEADINGS = 20
MIN_SHARED = 25  # characters of a heading that stand in the page's title
MIN_TITLE, MIN_WORD = 5, 3  # characters of a title's beginning; of one that a separator ends
MAX_MAIN = 4000  # elements of a page's main part
MAX_BOX = 100  # elements of a tile
MAX_BOX_HEIGHT = 6  # elements around a part of a tile
NAMING = re.compile(r"^(route|rt|main_page|controller|_a|p|(products?|item|article|goods|p)?_?id)$", re.IGNORECASE)
IMAGE = re.compile(r"\.(jpe?g|png|webp|gif|avif)$", re.IGNORECASE)
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
        """What its links are relative to: its own URL, or as the first ``base`` says."""
        stated = next((href for base in self.tagged("base") if (href := base.get("href"))), "")
        try:
            found = joined(self.url, stated)
        except ValueError:
            found = ""
        return found if found.startswith(("http:", "https:")) else self.url

    def urljoin(self, url: str) -> str:
        """``url`` made absolute; empty if it is none."""
        encoding = "utf-8" if url.isascii() else self._page.response.encoding or "utf-8"
        try:
            return joined(self._base_url, url, encoding)
        except ValueError:
            return ""

    def http_url(self, target: Any) -> str | None:
        """``target`` as `values.http_url` makes it; many links of a page say the same."""
        if not isinstance(target, str):
            return None
        if target not in self._urls:
            self._urls[target] = http_url(target, self)
        return self._urls[target]

    def is_of_site(self, url: str) -> bool:
        """Whether an absolute URL is of this page's host, with or without "www.", or of one below it."""
        return f".{urlsplit(url).hostname}".endswith(self._site)

    @cached_property
    def _site(self) -> str:
        return "." + (urlsplit(self.url).hostname or "").removeprefix("www.")

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

        Parsed by lxml's own classes: those of `lxml.html`, which parsel takes, ask Python about each element that is
        looked at, which takes a third of the time of a large page.
        """
        if self.data is not None:
            return None
        # By name: what begins with an XML declaration would be XML, whose elements no reader asks for by their names.
        response = self._page.response
        text = opened(response.text, str(response.headers.get("Content-Type", "")))
        root = create_root_node(text, HtmlParser, base_url=self.url)
        return root if isinstance(root, Element) else None

    @cached_property
    def selector(self) -> Selector:
        """What page objects of shops with code look with."""
        return Selector(text="", type="html") if self.root is None else Selector(root=self.root, type="html")

    def mentions(self, text: bytes) -> bool:
        """Whether ``text`` stands anywhere in the source: cheaper than looking for an element."""
        body: bytes = self._page.response.body
        return text in body

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
                any(is_margin(parent) for parent in above(heading)),
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
    def anchor(self) -> Element | None:
        """The heading; on a page without any, the text that its title begins with."""
        title = self._title
        if self.heading is not None or len(title) < MIN_WORD:
            return self.heading
        best: tuple[int, Element] | None = None
        for element in () if self.root is None else _BEGINS(self.root, title=title, least=MIN_WORD):
            text = " ".join((element.text or "")[:MAX_SHORT].split())
            if not _begins(title, text) or (best and len(text) <= best[0]):
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
    def _elements(self) -> list[Element]:
        """Those of the body, in order."""
        return [] if self._body is None else list(self._body.iterdescendants("*"))

    @cached_property
    def _named(self) -> dict[str, list[int]]:
        """What elements are called -> their places in the body: few names are many elements'."""
        has_more = self.mentions(b"itemprop") or self.mentions(b"aria-label")
        calls: defaultdict[tuple[str | None, ...], list[int]] = defaultdict(list)
        for place, element in enumerate(self._elements):
            get = element.get
            more = (get("itemprop"), get("aria-label")) if has_more else ()
            calls[get("class"), get("id"), *more].append(place)
        calls.pop((None,) * (4 if has_more else 2), None)
        named: defaultdict[str, list[int]] = defaultdict(list)
        for places in calls.values():
            named[names_of(self._elements[places[0]])] += places
        return named

    @cached_property
    def _body(self) -> Element | None:
        return next((node for node in self.root if node.tag == "body"), None) if self.root is not None else None

    def called(self, pattern: re.Pattern[str]) -> list[Element]:
        """The elements whose class, id or label holds ``pattern``."""
        return self._called(pattern, 0, sys.maxsize)

    def _called(self, pattern: re.Pattern[str], first: int, last: int) -> list[Element]:
        """Those from place ``first`` to ``last``."""
        found = [place for name, places in self._named.items() if pattern.search(name) for place in places]
        inside = (self._elements[place] for place in sorted(found) if first <= place < last)
        return [element for element in inside if element.tag not in UNREAD]

    @cached_property
    def main(self) -> Element | None:
        """The largest part of the page around its heading that is no larger than a product: a large page has more."""
        if self.root is None:
            return None
        best = self.anchor
        for node in self._above_heading_in_order:
            if _COUNT(node) > MAX_MAIN:
                break
            best = node
        return self.root if best is None else best

    @cached_property
    def texts(self) -> list[tuple[Element, str]]:
        """The short texts of the main part, in order, each with the element that it stands in."""
        return [] if self.main is None else texts_in(self.main)

    @cached_property
    def plain_texts(self) -> set[str]:
        """The distinct short texts of the main part; with those of scripts, but without a walk over its elements."""
        return set() if self.main is None else distinct_texts_in(self.main)

    def called_in_main(self, pattern: re.Pattern[str]) -> list[Element]:
        """The elements of the main part whose class, id or label holds ``pattern``."""
        return self._called(pattern, *self._main_places)

    @cached_property
    def _main_places(self) -> tuple[int, int]:
        """The places, among the elements of the body, of those in the main part."""
        if self.main is None:
            return 0, 0
        if self.main.tag in ("html", "body"):
            return 0, sys.maxsize
        before = int(_BEFORE(self.main))
        return before, before + int(_COUNT(self.main)) + 1

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
                self._margins[node] = is_margin(node)
            if self._margins[node]:
                return True
        return False

    def is_in_margin(self, element: Element) -> bool:
        """Whether ``element`` stands in the page's header, footer, or menus, whatever else is in there."""
        return any(is_margin(node) for node in above(element) if node.tag not in ("body", "html"))

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
        return [] if self.anchor is None else list(above(self.anchor))

    @cached_property
    def _above_heading(self) -> set[Element]:
        return set(self._above_heading_in_order)


_COUNT = etree.XPath("count(descendant::*)")
_BEFORE = etree.XPath("count((preceding::*|ancestor::*)[ancestor::body])")
_BEGINS = etree.XPath("//*[text()[1][string-length(.) >= $least and starts-with($title, normalize-space(.))]]")


TESTED_BY = ("data-qa", "data-test")
_TESTED = etree.XPath("descendant-or-self::*[@*[starts-with(name(), 'data-qa') or starts-with(name(), 'data-test')]]")


@cache
def _compiled(xpath: str) -> etree.XPath:
    return etree.XPath(xpath)


def _begins(title: str, text: str) -> bool:
    """Whether ``title`` begins with ``text``: with much of it, or with all in front of a separator."""
    if not title.startswith(text):
        return False
    return len(text) >= MIN_TITLE or (len(text) >= MIN_WORD and title[len(text) :].strip()[:1] in "|-–—:·»/,(")


def _naming(query: str) -> dict[str, str]:
    return {name.lower(): value for name, value in parse_qsl(query[:MAX_NAMES]) if NAMING.search(name)}
