"""A fetched page that is parsed once, lazily, and shared by all readers of its fields.

Independent of shops and fields: it holds URL resolution, the heading, the main content and lookup of elements.
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

from crawlers.http.urls import join_url
from crawlers.pages.html.elements import (
    MAX_NAMES,
    UNREAD,
    Element,
    HtmlParser,
    ancestors,
    is_hidden,
    is_margin,
    is_small,
    names_of,
    text_of,
)
from crawlers.pages.html.texts import MAX_SHORT, distinct_texts_in, texts_in
from crawlers.pages.html.xhtml import expand_empty_tags
from crawlers.pages.text.values import http_url

BOM = b"\xef\xbb\xbf"

MAX_MATCHES = 100
MAX_HEADINGS = 20
MIN_SHARED = 25  # first characters of a heading that the page's title must contain
MIN_TITLE, MIN_WORD = 5, 3  # least characters of a matching start of the title; likewise if a separator follows
MAX_MAIN = 4000  # elements of the main part
MAX_BOX = 100  # elements of a product tile
MAX_BOX_HEIGHT = 6  # ancestors within a product tile
NAMING = re.compile(r"^(route|rt|main_page|controller|_a|p|(products?|item|article|goods|p)?_?id)$", re.IGNORECASE)
IMAGE = re.compile(r"\.(jpe?g|png|webp|gif|avif)$", re.IGNORECASE)
CANONICAL = '/html/head/link[contains(concat(" ", @rel, " "), " canonical ")]/@href'


class Document:
    """The HTML or JSON of one response, given as the page object ``page``."""

    def __init__(self, page: WebPage[Any]) -> None:
        self._page = page
        self.url = str(page.response.url)
        self._urls: dict[str, str | None] = {}  # target of a link -> absolute URL
        self._boxes: dict[Element, bool] = {}  # element -> whether it is a product tile
        self._margins: dict[Element, bool] = {}  # element -> whether it is in a margin

    @cached_property
    def _base_url(self) -> str:
        """The URL that links are relative to: that of the first ``base`` element, else the page's own."""
        stated = next((href for base in self.tagged("base") if (href := base.get("href"))), "")
        try:
            found = join_url(self.url, stated)
        except ValueError:
            found = ""
        return found if found.startswith(("http:", "https:")) else self.url

    def urljoin(self, url: str) -> str:
        """``url`` made absolute; empty if it is invalid."""
        encoding = "utf-8" if url.isascii() else self._page.response.encoding or "utf-8"
        try:
            return join_url(self._base_url, url, encoding)
        except ValueError:
            return ""

    def http_url(self, target: Any) -> str | None:
        """Result of `values.http_url`, cached because many links of a page have the same target."""
        if not isinstance(target, str):
            return None
        if target not in self._urls:
            self._urls[target] = http_url(target, self)
        return self._urls[target]

    def is_of_site(self, url: str) -> bool:
        """Whether an absolute URL has this page's host (ignoring "www.") or a subdomain of it."""
        return f".{urlsplit(url).hostname}".endswith(self._site)

    @cached_property
    def _site(self) -> str:
        return "." + (urlsplit(self.url).hostname or "").removeprefix("www.")

    @cached_property
    def canonical_url(self) -> str | None:
        """The target of the page's canonical link, unchanged."""
        return next((str(url) for url in self.elements(CANONICAL)), None)

    @cached_property
    def data(self) -> Any:
        """The parsed body of a JSON response; None for other responses."""
        if self._page.response.body.removeprefix(BOM).lstrip()[:1] not in (b"{", b"["):
            return None
        try:
            return json.loads(self._page.response.body)
        except (ValueError, RecursionError):
            return None

    @cached_property
    def root(self) -> Element | None:
        """Root element of the HTML; None for a JSON response and for an empty one.

        Uses lxml's plain element classes. Those of `lxml.html`, which parsel uses, call Python code for each element,
        which costs a third of the time on a large page.
        """
        if self.data is not None:
            return None
        # The parser is explicit: text with an XML declaration would be parsed as XML, with namespaced element names.
        response = self._page.response
        text = expand_empty_tags(response.text, str(response.headers.get("Content-Type", "")))
        root = create_root_node(text, HtmlParser, base_url=self.url)
        return root if isinstance(root, Element) else None

    @cached_property
    def selector(self) -> Selector:
        """Parsel selector for shop-specific page objects."""
        return Selector(text="", type="html") if self.root is None else Selector(root=self.root, type="html")

    def source_contains(self, text: bytes) -> bool:
        """Whether the source contains ``text``: a cheap test before searching for elements."""
        body: bytes = self._page.response.body
        return text in body

    def source_matches(self, pattern: bytes) -> bool:
        """Whether the source matches ``pattern``, a regular expression."""
        return re.search(pattern, self._page.response.body) is not None

    def find_in_source(self, pattern: re.Pattern[bytes]) -> list[bytes]:
        """The first `MAX_MATCHES` matches in the source of ``pattern``, which has one group."""
        return [match[1] for match in islice(pattern.finditer(self._page.response.body), MAX_MATCHES)]

    @cached_property
    def heading(self) -> Element | None:
        """The ``h1`` that names the page: preferably outside margins, part of the title, visible; else the first."""
        headings = [heading for heading in self.tagged("h1") if text_of(heading).strip()][:MAX_HEADINGS]
        if len(headings) < 2:
            return headings[0] if headings else None
        title = self._title.lower()
        ranks = [
            (
                any(is_margin(parent) for parent in ancestors(heading)),
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
    def heading_or_title(self) -> Element | None:
        """The heading; on a page without one, the element whose text is the longest start of the page's title."""
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
        """The elements that match ``xpath``."""
        return [] if self.root is None else list(_compiled(xpath)(self.root))

    def tagged(self, *tags: str) -> list[Element]:
        """The elements with one of ``tags``; faster than XPath."""
        return [] if self.root is None else list(self.root.iter(*tags))

    @cached_property
    def _elements(self) -> list[Element]:
        """The elements of the body, in order."""
        return [] if self._body is None else list(self._body.iterdescendants("*"))

    @cached_property
    def _named(self) -> dict[str, list[int]]:
        """Names of elements (`names_of`) -> their positions in the body; most names occur many times."""
        has_more = self.source_contains(b"itemprop") or self.source_contains(b"aria-label")
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

    def elements_named(self, pattern: re.Pattern[str]) -> list[Element]:
        """The elements whose class, id or label matches ``pattern``."""
        return self._called(pattern, 0, sys.maxsize)

    def _called(self, pattern: re.Pattern[str], first: int, last: int) -> list[Element]:
        """The same, limited to positions from ``first`` to before ``last``."""
        found = [place for name, places in self._named.items() if pattern.search(name) for place in places]
        inside = (self._elements[place] for place in sorted(found) if first <= place < last)
        return [element for element in inside if element.tag not in UNREAD]

    @cached_property
    def main(self) -> Element | None:
        """The largest ancestor of the heading with at most `MAX_MAIN` elements: the main part of the page."""
        if self.root is None:
            return None
        best = self.heading_or_title
        for node in self._above_heading_in_order:
            if _COUNT(node) > MAX_MAIN:
                break
            best = node
        return self.root if best is None else best

    @cached_property
    def texts(self) -> list[tuple[Element, str]]:
        """The short texts of the main part, in order, each with the element that contains it."""
        return [] if self.main is None else texts_in(self.main)

    @cached_property
    def plain_texts(self) -> set[str]:
        """The distinct short texts of the main part, including scripts; faster than `texts`."""
        return set() if self.main is None else distinct_texts_in(self.main)

    def elements_named_in_main(self, pattern: re.Pattern[str]) -> list[Element]:
        """The elements of the main part whose class, id or label matches ``pattern``."""
        return self._called(pattern, *self._main_places)

    @cached_property
    def _main_places(self) -> tuple[int, int]:
        """Range of the main part's positions among the elements of the body."""
        if self.main is None:
            return 0, 0
        if self.main.tag in ("html", "body"):
            return 0, sys.maxsize
        before = int(_BEFORE(self.main))
        return before, before + int(_COUNT(self.main)) + 1

    def elements_with_test_id(self, pattern: re.Pattern[str]) -> list[Element]:
        """The elements of the main part with a ``data-qa`` or ``data-test`` attribute that matches ``pattern``."""
        if self.main is None or not (self.source_contains(b"data-qa") or self.source_contains(b"data-test")):
            return []
        return [
            element
            for element in _TESTED(self.main)
            if any(pattern.search(value[:MAX_NAMES]) for name, value in element.items() if name.startswith(TESTED_BY))
        ]

    def is_aside(self, element: Element) -> bool:
        """Whether ``element`` is outside the page's content: in a menu, a footer, or a list of related products."""
        for node in (element, *ancestors(element)):
            if node in self._above_heading or node.tag == "body":
                return False
            if node not in self._margins:
                self._margins[node] = is_margin(node)
            if self._margins[node]:
                return True
        return False

    def is_in_margin(self, element: Element) -> bool:
        """Whether ``element`` is in the page's header, footer or menus, even if the heading is there too."""
        return any(is_margin(node) for node in ancestors(element) if node.tag not in ("body", "html"))

    def in_product_box(self, element: Element) -> bool:
        """Whether ``element`` is part of another product's tile: a small element with an image that links elsewhere."""
        for node in (element, *ancestors(element, MAX_BOX_HEIGHT)):
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
        """The parameters of the page's URL that identify the page."""
        return _naming(self.url.partition("#")[0].partition("?")[2])

    def near_heading(self, found: list[Element]) -> list[Element]:
        """Those of ``found`` inside the heading's nearest ancestor that contains any of them."""
        around = [set(ancestors(element)) for element in found]
        for node in self._above_heading_in_order:
            if inside := [element for element, nodes in zip(found, around, strict=True) if node in nodes]:
                return inside
        return found

    @cached_property
    def _above_heading_in_order(self) -> list[Element]:
        return [] if self.heading_or_title is None else list(ancestors(self.heading_or_title))

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
    """Whether ``title`` begins with ``text``, which is long enough or is followed by a separator."""
    if not title.startswith(text):
        return False
    return len(text) >= MIN_TITLE or (len(text) >= MIN_WORD and title[len(text) :].strip()[:1] in "|-–—:·»/,(")


def _naming(query: str) -> dict[str, str]:
    return {name.lower(): value for name, value in parse_qsl(query[:MAX_NAMES]) if NAMING.search(name)}
