"""The next page of a listing: what says so in the mark-up, in words, or by its number. Knows no shop."""

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from crawlers.pages.document import Document, Element, above, is_small, names_of, text_of
from crawlers.pages.values import http_url
from crawlers.pages.words import NEXT, PAGE_PARAMETERS

ARROWS = {"›", "»", "→", "⟩", "❯", "▶", "►", ">", ">>", "⇒", "⟶", "&rarr;"}  # only where a pager shows them
EDGES = " \t\n.…›»→⟩❯▶►><«‹←⟶⇒|:"  # around the words of a link
PREVIOUS = re.compile(r"(?<![a-z])(prev(ious)?|back|newer|older-newer)(?![a-z])", re.IGNORECASE)
PAGER = re.compile(r"pag(er|ination|inator|ing|es)|toolbar|load-?more|page-?(list|numbers?|nav)", re.IGNORECASE)
DISABLED = re.compile(r"(?<![a-z])(disabled|inactive)(?![a-z])", re.IGNORECASE)
IN_PATH = re.compile(r"/(?:page|seite|pagina|strona)[/_-]?(\d{1,6})(?=/|\.html?$|$)", re.IGNORECASE)
CURRENT = (
    '//*[@aria-current or contains(@class, "current") or contains(@class, "active") or contains(@class, "selected")]'
)
MAX_PARTS = 12  # elements in such a link
MAX_HEIGHT = 4  # elements between a link and its pager


def next_pages(page: Document) -> Iterator[tuple[str, str]]:
    """URLs that may be the next page's and how each was found, the surest first."""
    small = [link for link in page.tagged("link", "a") if link.get("href") and is_small(link, MAX_PARTS)]
    links = [link for link in small if not _is_disabled(link)]
    for how, found in (
        ("rel=next", _by_rel(links)),
        ("next link", _by_words(links)),
        ("numbers", _by_number(page, links)),
    ):
        for link in found:
            url = http_url(link.get("href"), page)
            if url and not link.get("href").strip().startswith(("#", "javascript:")):
                yield url, how


def with_number(url: str, name: str, number: int) -> str:
    """``url`` with the query parameter ``name`` set to ``number``."""
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key != name]
    return urlunsplit(parts._replace(query=urlencode([*query, (name, number)])))


def _by_rel(links: list[Element]) -> Iterator[Element]:
    return (link for link in links if "next" in link.get("rel", "").lower().split())


def _by_words(links: list[Element]) -> Iterator[Element]:
    """By what a link says; by an arrow or its class only in a pager, and only where it says nothing else."""
    silent = []
    for link in links:
        said = [text_of(link), link.get("aria-label", ""), link.get("title", "")] if link.tag == "a" else []
        words = {text.strip(EDGES).lower() for text in said}
        if words & NEXT:
            yield link
        elif words == {""} and _in_pager(link) and not PREVIOUS.search(names_of(link).replace("_", "-")):
            silent.append((link, said[0]))
    yield from (link for link, text in silent if text in ARROWS or (not text and _is_called_next(link)))


def _by_number(page: Document, links: list[Element]) -> Iterator[Element]:
    """The page whose number follows this page's, in its URL or in the pager."""
    base, current = _split(page.url)
    shown = next(
        (
            text
            for node in page.elements(CURRENT)
            if len(text := text_of(node)) < 7 and text.isdecimal() and _in_pager(node)
        ),
        "",
    )
    following = str(int(shown) + 1) if shown else None
    for link in links:
        url = http_url(link.get("href"), page) if link.tag == "a" else None
        if url and (_split(url) == (base, (current or 1) + 1) or (text_of(link) == following and _in_pager(link))):
            yield link


def _split(url: str) -> tuple[tuple[str, ...], int | None]:
    """What all pages of a listing have in common, and the number of this one."""
    parts = urlsplit(url)
    number: int | None = None
    rest = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name.lower() in PAGE_PARAMETERS and value.isascii() and value.isdigit() and len(value) < 7:
            number = int(value)
        else:
            rest.append(f"{name}={value}")
    in_path = IN_PATH.search(parts.path)
    if number is None and in_path:
        number = int(in_path[1])
    path = IN_PATH.sub("", parts.path).rstrip("/")
    return (parts.netloc, path, *sorted(rest)), number


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
