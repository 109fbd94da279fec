"""Application of a profile's selectors and URL rewrites to one page."""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import jmespath
from lxml import etree, html
from parsel.csstranslator import HTMLTranslator

from crawlers.pages.fields.images import images_of
from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, HtmlParser, text_of
from crawlers.pages.listings.pager import with_number
from crawlers.pages.profile import DetailsSelector, PageUrl, Rewrite, Selector, ShopProfile

PROFILE_KEYS = {  # field of an item -> key of a profile, where the names differ
    "name": "title",
    "breadcrumbs": "breadcrumb",
    "additional_properties": "details",
}


class ProfileReader:
    """Reads the fields of ``page`` with the selectors of ``profile``; None for a field without selectors."""

    def __init__(self, profile: ShopProfile, page: Document) -> None:
        self.profile, self._page = profile, page

    def read(self, field: str) -> Any:
        """The values that the selectors of ``field`` find."""
        selectors = self._selectors(field)
        if field == "additional_properties":
            return [pair for selector in selectors for pair in _details(selector, self._page)]
        if field == "items" and not selectors and self.profile.product_url:
            return self._page.elements("//a/@href")  # the caller filters them with product_url
        for selector in selectors:
            if values := _as_values(field, [value for value in _select(selector, self._page) if value is not None]):
                return values
        return None

    def source(self, field: str) -> str:
        """The name recorded as the source of ``field``."""
        return "url" if any(isinstance(one, Selector) and one.url for one in self._selectors(field)) else "profile"

    def counted_next_page(self) -> str | None:
        """The URL of the next page, by incrementing the page number as ``listing.page_url`` says."""
        where = self.profile.listing.page_url
        return None if where is None else _count_up(where, self._page)

    def _selectors(self, field: str) -> tuple[Any, ...]:
        """The selectors of ``field``; the currency falls back to those of the price, whose text may include it."""
        section = self.profile.listing if field in ("items", "next_page") else self.profile.product
        selectors: tuple[Any, ...] = getattr(section, PROFILE_KEYS.get(field, field))
        return self.profile.product.price if field == "currency" and not selectors else selectors


def matches_platform(css: str, page: Document) -> bool:
    """Whether ``css``, a platform's ``detect`` selector, matches an element in the page's head or body."""
    return page.root is not None and bool(_xpath(css, "/html/")(page.root))


def apply_rewrites(url: str, rules: Iterable[Rewrite]) -> str:
    """``url`` after all ``rules`` in order."""
    for rule in rules:
        url = re.sub(rule.find, rule.replace, url)
    return url


@cache
def _xpath(css: str, prefix: str = "descendant-or-self::") -> etree.XPath:
    return etree.XPath(HTMLTranslator().css_to_xpath(css, prefix))


def _select(selector: Selector, page: Document) -> list[Any]:
    """The elements, texts and JSON values that ``selector`` finds, in page order."""
    if selector.value:
        return [selector.value]
    if selector.url:
        return _apply_regex(selector.url, [page.url])
    if page.data is not None:
        found = _search_jmespath(selector.jmespath, page.data) if selector.jmespath else []
        if selector.css:
            pieces = [piece for text in found if _is_text(text) for piece in _fragments(text)]
            found = [value for piece in pieces for value in _xpath(selector.css)(piece)]
        return _apply_regex(selector.regex, found)
    if page.root is None or not selector.css:
        return []
    found = _apply_regex(selector.regex, _xpath(selector.css)(page.root))
    if not selector.jmespath:
        return found
    return [value for text in found for value in _search_jmespath(selector.jmespath, _parsed(text))]


def _fragments(text: str) -> list[Element]:
    """Parse ``text``, HTML inside JSON, into one element; an empty list if it cannot be parsed."""
    try:
        # The stubs accept fewer parsers than lxml does.
        return [html.fragment_fromstring(text, create_parent=True, parser=HtmlParser())]  # type: ignore[arg-type]
    except (etree.LxmlError, ValueError, AssertionError):  # control characters, or no element in the text
        return []


def _apply_regex(regex: str | None, found: list[Any]) -> list[Any]:
    if not regex:
        return found
    matched = (re.search(regex, _plain(value)) for value in found)
    return [match[1] if match.re.groups else match[0] for match in matched if match]


def _plain(value: Any) -> str:
    """The text of an element (including a script) or of a JSON value."""
    if not isinstance(value, Element):
        return str(value)
    return value.text or "" if value.tag == "script" else text_of(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _parsed(value: Any) -> Any:
    try:
        return json.loads(_plain(value))
    except (ValueError, RecursionError):
        return None


def _search_jmespath(expression: str, data: Any) -> list[Any]:
    try:
        found = jmespath.search(expression, data)
    except jmespath.exceptions.JMESPathError:  # a function was applied to a value of another type
        return []
    return found if isinstance(found, list) else [found]


def _as_values(field: str, found: list[Any]) -> Any:
    """Convert the matches to what ``field`` expects: links, image URLs, pairs of text and link, or one text."""
    if field == "images":
        return [url for value in found for url in _image_urls(value)]
    if field in ("items", "next_page"):
        links = [link for value in found if (link := _link(value))]
        return links if field == "items" else next(iter(links), None)
    if field == "breadcrumbs":
        return [(_plain(value), _link(value) if isinstance(value, Element) else None) for value in found]
    return next((text for value in found if (text := _plain(value).strip())), None)


def _image_urls(value: Any) -> list[Any]:
    return [url for _, url in images_of(value)] if isinstance(value, Element) else [value]


def _link(value: Any) -> Any:
    if not isinstance(value, Element):
        return str(value)
    link = value if value.get("href") else next(value.iter("a"), None)
    return None if link is None else link.get("href")


def _details(selector: DetailsSelector, page: Document) -> Iterator[tuple[str, str]]:
    if page.root is None:
        return
    if selector.lines:
        for line in _xpath(selector.lines)(page.root):
            name, _, value = _plain(line).partition(":")
            yield name, value
    elif selector.rows and selector.name and selector.value:
        for row in _xpath(selector.rows)(page.root):
            names, values = _xpath(selector.name)(row), _xpath(selector.value)(row)
            yield from ((_plain(name), _plain(value)) for name, value in zip(names, values, strict=False))


def _count_up(where: PageUrl, page: Document) -> str | None:
    """The template's URL with the page number after the one in the page's own URL."""
    before, after = where.template.split("{page}")
    named = re.fullmatch(r"\?([^=&?]+)=", before)
    number = (
        rf"{re.escape(before.lstrip('?'))}(\d{{1,6}}){re.escape(after)}$"
        if not named
        else rf"[?&]{re.escape(named[1])}=(\d{{1,6}})(?:&|$)"
    )
    current = re.search(number, page.url)
    page_number = int(current[1]) + where.step if current else where.first
    if named and not after:
        return with_number(page.url, named[1], page_number)
    if current and not named:  # replaced in place, because a relative template is relative to the first page
        return f"{page.url[: current.start(1)]}{page_number}{page.url[current.end(1) :]}"
    return page.urljoin(where.template.replace("{page}", str(page_number)))
