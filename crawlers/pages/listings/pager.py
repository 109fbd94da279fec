"""Finds a listing's next page: by ``rel=next``, by the text of a link, or by its page number."""

import re
from collections.abc import Collection, Iterator
from functools import cached_property
from urllib.parse import parse_qsl, quote, unquote_plus, urlsplit

from lxml import etree

from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, ancestors, is_small, names_of, text_of
from crawlers.pages.text.words import NEXT, PAGE_PARAMETERS, SIZE_PARAMETERS

ARROWS = {"›", "»", "→", "⟩", "❯", "▶", "►", ">", ">>", "⇒", "⟶", "&rarr;"}  # only where a pager shows them
EDGES = " \t\n.…›»→⟩❯▶►><«‹←⟶⇒|:"  # stripped from the text of a link
BETWEEN = re.compile(r"[\d\s.,…›»→⟩❯▶►><«‹←⟶⇒|:/\[\]()-]+")  # numbers of a pager and their separators
PREVIOUS = re.compile(r"(?<![a-z])(prev(ious)?|back|newer|older-newer)(?![a-z])", re.IGNORECASE)
PAGER = re.compile(r"pag(er|ination|inator|ing|es)|toolbar|load-?more|page-?(list|numbers?|nav)", re.IGNORECASE)
DISABLED = re.compile(r"(?<![a-z])(disabled|inactive)(?![a-z])", re.IGNORECASE)
IN_PATH = re.compile(r"/(?:page|seite|pagina|strona)[/_-]?(\d{1,6})(?=/|\.html?$|$)", re.IGNORECASE)
NUMBERED = re.compile(
    rf"[?&;](?:{'|'.join(map(re.escape, sorted(PAGE_PARAMETERS)))})=\d|/(?:page|seite|pagina|strona)[/_-]?\d",
    re.IGNORECASE,
)
CURRENT = (
    '//*[@aria-current or contains(@class, "current") or contains(@class, "active") or contains(@class, "selected")]'
)
DATA_URLS = ("data-href", "data-url", "data-link", "data-next-url", "data-next-page", "data-page-url", "data-next")
OTHERS = "//body//*[not(self::a)][" + " or ".join(f"@{name}" for name in DATA_URLS) + "]"
URL = re.compile(r"^(?:https?:)?/|^\?|^[\w./-]+(?:\?|\.(?:html?|php|aspx?|jsp)\b)")
IN_SCRIPT = re.compile(  # a URL in a function call or in an assignment to location
    r"""['"]((?:https?://|/|\?|[\w./-]+\.(?:html?|php|aspx?|jsp)\b)[^'"\s<>]*)['"]"""
)
STEM = re.compile(r"(?:[-_/]?\d{1,6})?(?:\.\w{2,5})?/*$")  # end of the path that differs between a listing's pages
MAX_PARTS = 12  # elements in a pager's link
MAX_HEIGHT = 4  # ancestors between a link and its pager
MAX_SCRIPT = 2000  # characters of a link's script
MAX_WORDS = 40  # letters of a pager besides its numbers
MAX_NUMBER = 7  # digits
MAX_PAGER = 150  # elements of a pager
_STRING = etree.XPath("string()", smart_strings=False)


def next_pages(page: Document, exclude: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Candidate URLs of the next page and how each was found, most reliable first, without those in ``exclude``."""
    pager = _Pager(page)
    for how, found in (
        ("rel=next", pager.by_rel()),
        ("next link", pager.by_words(exclude)),
        ("numbers", pager.by_number()),
    ):
        yield from ((url, how) for url in found if url not in exclude)


def with_number(url: str, name: str, number: int) -> str:
    """``url`` with the query parameter ``name`` set to ``number``."""
    path, _, query = url.partition("#")[0].partition("?")
    kept = [pair for pair in query.split("&") if pair and unquote_plus(pair.partition("=")[0]) != name]
    return path + "?" + "&".join([*kept, f"{quote(name)}={number}"])


class _Pager:
    """Links to further pages of one listing."""

    def __init__(self, page: Document) -> None:
        self._page = page
        self._base, self._own_number = _split(page.url)

    @cached_property
    def _links(self) -> list[Element]:
        links = self._page.tagged("link", "a")
        if any(self._page.source_contains(name.encode()) for name in DATA_URLS):
            links = [*links, *self._page.elements(OTHERS)]
        return links

    @cached_property
    def _texts(self) -> list[tuple[Element, str]]:
        """The links with short texts, and their texts."""
        texts = [(link, " ".join(_STRING(link)[:100].split())) for link in self._links if link.tag != "link"]
        return [(link, text) for link, text in texts if len(text) <= MAX_WORDS]

    def _url(self, link: Element) -> str | None:
        target = _target(link)
        return None if target is None or _is_disabled(link) else self._page.http_url(target)

    def by_rel(self) -> Iterator[str]:
        """URLs of links with ``rel=next``."""
        for link in self._links:
            if "next" in link.get("rel", "").lower().split() and is_small(link, MAX_PARTS) and (url := self._url(link)):
                yield url

    def by_words(self, exclude: Collection[str]) -> Iterator[str]:
        """URLs of links whose text says next; in a pager also of links with an arrow or a class but no text.

        Links to the next product or category say "next" as well. So a link outside a pager is reliable only if its URL
        continues the page's own, and a link to one of the products is never used.
        """
        sure: list[str] = []
        others: list[str] = []
        silent: list[str] = []
        for link, text in self._texts:
            labels = {label.strip(EDGES).lower() for label in (text, link.get("aria-label", ""), link.get("title", ""))}
            is_next = bool(labels & NEXT)
            if not (is_next or labels == {""}) or not is_small(link, MAX_PARTS):
                continue
            if not is_next and (not _in_pager(link) or PREVIOUS.search(names_of(link).replace("_", "-"))):
                continue
            if not (url := self._url(link)) or url in exclude:
                continue
            if not is_next:
                silent += [url] if text in ARROWS or (not text and _is_called_next(link)) else []
            elif _in_pager(link) or self._goes_on(url):
                sure.append(url)
            elif not self._numbers and self._may_go_on(url):
                others.append(url)
        yield from (*sure, *others, *silent)

    def by_number(self) -> Iterator[str]:
        """The URL with the next page number, in the URL itself or in the pager."""
        following = self._current + 1
        own = (self._base, (self._own_number or 1) + 1)
        numbered = (link for link, _ in self._texts if NUMBERED.search(link.get("href", "")))
        yield from (url for link in numbered if (url := self._url(link)) and _split(url) == own)
        for link, number in self._numbers:
            if number == following and (url := self._url(link)):
                yield url
        if any(
            number == following for _, number in self._unlinked
        ):  # a script loads the page, mostly by this parameter
            yield with_number(self._page.url, self._parameter or "page", following)

    @cached_property
    def _parameter(self) -> str | None:
        """The name of the parameter with the page number in the page's own URL."""
        names = (name for name, _ in parse_qsl(urlsplit(self._page.url).query, keep_blank_values=True))
        return next((name for name in names if name.lower() in PAGE_PARAMETERS), None)

    @cached_property
    def _numbers(self) -> list[tuple[Element, int]]:
        """Numbered links of pagers."""
        numbers = [(link, int(text)) for link, text in self._texts if _is_number(text)]
        return [(link, number) for link, number in numbers if self._pager_of(link) is not None and _target(link)]

    @cached_property
    def _unlinked(self) -> list[tuple[Element, int]]:
        """Numbered links of pagers without a URL, which a script handles."""
        numbers = [(link, int(text)) for link, text in self._texts if _is_number(text) and _is_scripted(link)]
        return [(link, number) for link, number in numbers if _in_pager(link)]

    def _pager_of(self, link: Element) -> Element | None:
        """The pager around ``link``: an ancestor named so, or one with only numbers of which one is not a link."""
        for node in ancestors(link, MAX_HEIGHT):
            if node.tag in ("body", "html", "main"):
                return None
            if PAGER.search(names_of(node)):
                return node
            if node not in self._like_pagers:
                self._like_pagers[node] = _is_like_pager(node)
            if self._like_pagers[node]:
                return node
        return None

    @cached_property
    def _like_pagers(self) -> dict[Element, bool]:
        return {}

    @cached_property
    def _current(self) -> int:
        """The number of this page: marked as current, else the only unlinked number of the pager, else in the URL."""
        for node in self._page.elements(CURRENT):
            text = " ".join(_STRING(node)[:100].split())
            if _is_number(text) and _in_pager(node):
                return int(text)
        linked = {number for _, number in self._numbers}
        for pager in dict.fromkeys(self._pager_of(link) for link, _ in self._numbers):
            own = [] if pager is None else [number for number in _plain_numbers(pager) if number not in linked]
            if len(own) == 1 and linked & {own[0] - 1, own[0] + 1}:
                return own[0]
        return self._own_number or 1

    def _goes_on(self, url: str) -> bool:
        """Whether ``url`` differs from this page's only in the query or at the end of the path."""
        own, other = urlsplit(self._page.url), urlsplit(url)
        if other.netloc != own.netloc:
            return False
        stem = STEM.sub("", IN_PATH.sub("", own.path))
        return other.path == own.path or (len(stem) > 1 and other.path.startswith(stem))

    def _may_go_on(self, url: str) -> bool:
        """Whether ``url`` may be the next page although its path differs: it has another host or a number in it."""
        own, other = urlsplit(self._page.url), urlsplit(url)
        return other.netloc != own.netloc or any(map(str.isdigit, other.path + other.query))


def _target(link: Element) -> str | None:
    """The target of ``link``: its URL, else a URL in a data attribute or in its script; None if there is none."""
    href = link.get("href", "").strip()
    if href and not href.startswith("#") and not href[:11].lower().startswith("javascript:"):
        return href
    for name in DATA_URLS:
        if (value := link.get(name, "").strip()) and URL.search(value):
            return value
    for script in (href, link.get("onclick", "")):
        if found := IN_SCRIPT.search(script[:MAX_SCRIPT]):
            return found[1]
    return None


def _is_scripted(link: Element) -> bool:
    """Whether ``link`` is handled by a script and has no target."""
    href = link.get("href", "").strip().lower()
    return link.tag == "a" and (href == "#" or href.startswith("javascript:")) and _target(link) is None


def _split(url: str) -> tuple[tuple[str, ...], int | None]:
    """The parts of ``url`` that all pages of a listing share, and its page number (None: the first page)."""
    parts = urlsplit(url)
    number: int | None = None
    rest = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name.lower() in PAGE_PARAMETERS and value.isascii() and value.isdigit() and len(value) < MAX_NUMBER:
            number = int(value)
        elif name.lower() not in SIZE_PARAMETERS:
            rest.append(f"{name}={value}")
    in_path = IN_PATH.search(parts.path)
    if number is None and in_path:
        number = int(in_path[1])
    path = IN_PATH.sub("", parts.path).rstrip("/")
    return (parts.netloc, path, *sorted(rest)), number


def _is_number(text: str) -> bool:
    return len(text) < MAX_NUMBER and text.isascii() and text.isdecimal()


def _is_like_pager(element: Element) -> bool:
    """Whether ``element`` has almost only consecutive numbers, one of which is not a link."""
    if not is_small(element, MAX_PAGER):
        return False
    text = text_of(element)
    if len(BETWEEN.sub("", text)) > MAX_WORDS:
        return False
    links = {int(text) for link in element.iter("a") if _is_number(text := " ".join(_STRING(link)[:100].split()))}
    return any({number - 1, number + 1} & links for number in _plain_numbers(element) if number not in links)


def _plain_numbers(pager: Element) -> list[int]:
    """The numbers in ``pager`` that are not links."""
    found = []
    for node in pager.iter("*"):
        tail = (node.tail or "").strip(EDGES) if node is not pager else ""
        if _is_number(tail):
            found.append(int(tail))
        text = (node.text or "").strip(EDGES)
        if _is_number(text) and not any(_target(one) for one in (node, *ancestors(node, MAX_HEIGHT)) if one.tag == "a"):
            found.append(int(text))
    return found


def _is_called_next(link: Element) -> bool:
    parent = link.getparent()
    around = (link,) if parent is None else (link, parent)
    return any(re.search(r"(?<![a-z])next(?![a-z])", names_of(node), re.IGNORECASE) for node in around)


def _in_pager(link: Element) -> bool:
    return any(PAGER.search(names_of(node)) for node in ancestors(link, MAX_HEIGHT))


def _is_disabled(link: Element) -> bool:
    parent = link.getparent()
    holders = (link,) if parent is None or parent.tag != "li" else (link, parent)
    return any(node.get("aria-disabled") == "true" or DISABLED.search(node.get("class", "")) for node in holders)
