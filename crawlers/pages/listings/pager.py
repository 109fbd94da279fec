"""The next page of a listing: what says so in the mark-up, in words, or by its number. Knows no shop."""

import re
from collections.abc import Collection, Iterator
from functools import cached_property
from urllib.parse import parse_qsl, quote, unquote_plus, urlsplit

from lxml import etree

from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, above, is_small, names_of, text_of
from crawlers.pages.text.words import NEXT, PAGE_PARAMETERS, SIZE_PARAMETERS

ARROWS = {"›", "»", "→", "⟩", "❯", "▶", "►", ">", ">>", "⇒", "⟶", "&rarr;"}  # only where a pager shows them
EDGES = " \t\n.…›»→⟩❯▶►><«‹←⟶⇒|:"  # around the words of a link
BETWEEN = re.compile(r"[\d\s.,…›»→⟩❯▶►><«‹←⟶⇒|:/\[\]()-]+")  # numbers of a pager
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
IN_SCRIPT = re.compile(  # a URL in a call, or in an assignment to the page's location
    r"""['"]((?:https?://|/|\?|[\w./-]+\.(?:html?|php|aspx?|jsp)\b)[^'"\s<>]*)['"]"""
)
STEM = re.compile(r"(?:[-_/]?\d{1,6})?(?:\.\w{2,5})?/*$")  # what the paths of a listing's pages end in
MAX_PARTS = 12  # elements in such a link
MAX_HEIGHT = 4  # elements between a link and its pager
MAX_SCRIPT = 2000  # characters of a script in a link
MAX_WORDS = 40  # letters of a pager, besides its numbers
MAX_NUMBER = 7  # digits
MAX_PAGER = 150  # elements of a pager
_STRING = etree.XPath("string()", smart_strings=False)


def next_pages(page: Document, without: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """URLs that may be the next page's and how each was found, the surest first; never one of ``without``."""
    pager = _Pager(page)
    for how, found in (
        ("rel=next", pager.by_rel()),
        ("next link", pager.by_words(without)),
        ("numbers", pager.by_number()),
    ):
        yield from ((url, how) for url in found if url not in without)


def with_number(url: str, name: str, number: int) -> str:
    """``url`` with the query parameter ``name`` set to ``number``."""
    path, _, query = url.partition("#")[0].partition("?")
    kept = [pair for pair in query.split("&") if pair and unquote_plus(pair.partition("=")[0]) != name]
    return path + "?" + "&".join([*kept, f"{quote(name)}={number}"])


class _Pager:
    """What leads on from one page."""

    def __init__(self, page: Document) -> None:
        self._page = page
        self._base, self._own_number = _split(page.url)

    @cached_property
    def _links(self) -> list[Element]:
        links = self._page.tagged("link", "a")
        if any(self._page.mentions(name.encode()) for name in DATA_URLS):
            links = [*links, *self._page.elements(OTHERS)]
        return links

    @cached_property
    def _texts(self) -> list[tuple[Element, str]]:
        """The links that are no bigger than those of pagers, and what they say."""
        texts = [(link, " ".join(_STRING(link)[:100].split())) for link in self._links if link.tag != "link"]
        return [(link, text) for link, text in texts if len(text) <= MAX_WORDS]

    def _url(self, link: Element) -> str | None:
        target = _target(link)
        return None if target is None or _is_disabled(link) else self._page.http_url(target)

    def by_rel(self) -> Iterator[str]:
        """Of links that are said to be the next."""
        for link in self._links:
            if "next" in link.get("rel", "").lower().split() and is_small(link, MAX_PARTS) and (url := self._url(link)):
                yield url

    def by_words(self, without: Collection[str]) -> Iterator[str]:
        """By what a link says; by an arrow or its class only in a pager, and only where it says nothing else.

        "Next" is said by switchers between products and categories as well: a link outside the pager counts where its
        URL goes on from the page's own; one of the products never does.
        """
        sure: list[str] = []
        others: list[str] = []
        silent: list[str] = []
        for link, text in self._texts:
            words = {said.strip(EDGES).lower() for said in (text, link.get("aria-label", ""), link.get("title", ""))}
            is_next = bool(words & NEXT)
            if not (is_next or words == {""}) or not is_small(link, MAX_PARTS):
                continue
            if not is_next and (not _in_pager(link) or PREVIOUS.search(names_of(link).replace("_", "-"))):
                continue
            if not (url := self._url(link)) or url in without:
                continue
            if not is_next:
                silent += [url] if text in ARROWS or (not text and _is_called_next(link)) else []
            elif _in_pager(link) or self._goes_on(url):
                sure.append(url)
            elif not self._numbers and self._may_go_on(url):
                others.append(url)
        yield from (*sure, *others, *silent)

    def by_number(self) -> Iterator[str]:
        """The page whose number follows this page's, in its URL or in the pager."""
        following = self._current + 1
        own = (self._base, (self._own_number or 1) + 1)
        numbered = (link for link, _ in self._texts if NUMBERED.search(link.get("href", "")))
        yield from (url for link in numbered if (url := self._url(link)) and _split(url) == own)
        for link, number in self._numbers:
            if number == following and (url := self._url(link)):
                yield url
        if any(number == following for _, number in self._unlinked):  # a script goes there, mostly by this parameter
            yield with_number(self._page.url, self._parameter or "page", following)

    @cached_property
    def _parameter(self) -> str | None:
        """The name of the page's number in its own URL."""
        names = (name for name, _ in parse_qsl(urlsplit(self._page.url).query, keep_blank_values=True))
        return next((name for name in names if name.lower() in PAGE_PARAMETERS), None)

    @cached_property
    def _numbers(self) -> list[tuple[Element, int]]:
        """Links of pagers that are numbers."""
        numbers = [(link, int(text)) for link, text in self._texts if _is_number(text)]
        return [(link, number) for link, number in numbers if self._pager_of(link) is not None and _target(link)]

    @cached_property
    def _unlinked(self) -> list[tuple[Element, int]]:
        """Such links that lead nowhere but through a script."""
        numbers = [(link, int(text)) for link, text in self._texts if _is_number(text) and _is_scripted(link)]
        return [(link, number) for link, number in numbers if _in_pager(link)]

    def _pager_of(self, link: Element) -> Element | None:
        """The pager around ``link``: called so, or nothing but numbers of which one is no link."""
        for node in above(link, MAX_HEIGHT):
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
        """The number of this page: marked, or the only one of the pager that is no link, or as the URL says."""
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
        """Whether ``url`` is this page's but for what counts pages: a query, or the end of its path."""
        own, other = urlsplit(self._page.url), urlsplit(url)
        if other.netloc != own.netloc:
            return False
        stem = STEM.sub("", IN_PATH.sub("", own.path))
        return other.path == own.path or (len(stem) > 1 and other.path.startswith(stem))

    def _may_go_on(self, url: str) -> bool:
        """Whether it may be without that: a page of another name and without a number is another category."""
        own, other = urlsplit(self._page.url), urlsplit(url)
        return other.netloc != own.netloc or any(map(str.isdigit, other.path + other.query))


def _target(link: Element) -> str | None:
    """Where ``link`` leads, by its address, its data, or the script that it calls; None where nothing says."""
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
    """Whether a script follows ``link`` to a page that it does not name."""
    href = link.get("href", "").strip().lower()
    return link.tag == "a" and (href == "#" or href.startswith("javascript:")) and _target(link) is None


def _split(url: str) -> tuple[tuple[str, ...], int | None]:
    """What all pages of a listing have in common, and the number of this one."""
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
    """Whether it shows little but numbers that follow each other, and one of them is no link."""
    if not is_small(element, MAX_PAGER):
        return False
    text = text_of(element)
    if len(BETWEEN.sub("", text)) > MAX_WORDS:
        return False
    links = {int(text) for link in element.iter("a") if _is_number(text := " ".join(_STRING(link)[:100].split()))}
    return any({number - 1, number + 1} & links for number in _plain_numbers(element) if number not in links)


def _plain_numbers(pager: Element) -> list[int]:
    """The numbers in ``pager`` that lead nowhere."""
    found = []
    for node in pager.iter("*"):
        tail = (node.tail or "").strip(EDGES) if node is not pager else ""
        if _is_number(tail):
            found.append(int(tail))
        text = (node.text or "").strip(EDGES)
        if _is_number(text) and not any(_target(one) for one in (node, *above(node, MAX_HEIGHT)) if one.tag == "a"):
            found.append(int(text))
    return found


def _is_called_next(link: Element) -> bool:
    parent = link.getparent()
    around = (link,) if parent is None else (link, parent)
    return any(re.search(r"(?<![a-z])next(?![a-z])", names_of(node), re.IGNORECASE) for node in around)


def _in_pager(link: Element) -> bool:
    return any(PAGER.search(names_of(node)) for node in above(link, MAX_HEIGHT))


def _is_disabled(link: Element) -> bool:
    parent = link.getparent()
    holders = (link,) if parent is None or parent.tag != "li" else (link, parent)
    return any(node.get("aria-disabled") == "true" or DISABLED.search(node.get("class", "")) for node in holders)
