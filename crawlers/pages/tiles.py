"""A listing without any mark-up for machines: the products are the tiles that repeat.

A tile holds a link, a picture and mostly a price. Menus, filters and pagers repeat as well, but have neither.
Knows no shop.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from crawlers.pages.document import Document, Element, above, is_small, names_of, text_of
from crawlers.pages.values import MAX_URL, MONEY, http_url

NOT_A_PRODUCT = re.compile(  # what a link of a tile may do instead of showing the product
    r"[?&](add-to-cart|add_to_cart|remove|action|compare|sort|order|dir|filter|q|search)=|"
    r"/(cart|basket|wishlist|compare|login|account|checkout|search)(/|$)",
    re.IGNORECASE,
)
MAX_LINKS = 2000  # of a page, that are looked at
MAX_PARTS = 200  # elements of a tile
MAX_HEIGHT = 8  # elements between a link and its tile
MAX_TILE_TEXT = 1500  # characters; what says more is no tile


@dataclass
class _Group:
    """Elements of one kind below parents of one kind."""

    urls: list[str] = field(default_factory=list)
    score: int = 0


def product_links(page: Document) -> list[str]:
    """The URL of each tile, in the page's order; empty where nothing looks like a tile."""
    links: dict[Element, str] = dict(_links(page))
    inside: dict[Element, list[Element]] = {}  # element -> the links in it
    for link in links:
        for parent in (link, *above(link, MAX_HEIGHT)):
            inside.setdefault(parent, []).append(link)
    groups: dict[tuple[str, ...], _Group] = {}
    for tile, own in inside.items():
        parent = tile.getparent()
        if parent is None or tile.tag in ("body", "main", "html"):
            continue
        pictures, money = _shows(tile)
        if not pictures:
            continue
        group = groups.setdefault((parent.tag, parent.get("class", ""), tile.tag), _Group())
        url = _main_url(own, links)
        if url not in group.urls:
            group.urls.append(url)
            group.score += 1 + 3 * money
    best = max(groups.values(), key=lambda group: group.score, default=_Group())
    return best.urls


def links_below(page: Document) -> list[str]:
    """The URLs below this page's own in the same site's tree: mostly the narrower categories."""
    path = urlsplit(page.url).path.rstrip("/") + "/"
    below = {url: None for _, url in _links(page) if len(path) > 1 and urlsplit(url).path.startswith(path)}
    return [url for url in below if not urlsplit(url).query]


def _links(page: Document) -> Iterator[tuple[Element, str]]:
    """The links to other pages of the same site that do not stand beside the content."""
    site = (urlsplit(page.url).hostname or "").removeprefix("www.")
    here = page.url.partition("#")[0]
    for link in page.tagged("a")[:MAX_LINKS]:
        target = link.get("href", "#").strip()
        if target.startswith("#") or len(target) > MAX_URL or NOT_A_PRODUCT.search(target):
            continue
        url = http_url(target, page)
        if url and url != here and _is_below(url, site) and not page.is_aside(link):
            yield link, url


def _is_below(url: str, site: str) -> bool:
    parts = urlsplit(url)
    return f".{parts.hostname}".endswith(f".{site}") and parts.path not in ("", "/")


def _shows(tile: Element) -> tuple[bool, bool]:
    """Whether a picture is in ``tile``, and whether a price is."""
    if not is_small(tile, MAX_PARTS) or next(tile.iter("img", "picture"), None) is None:
        return False, False
    text = text_of(tile)
    if len(text) > MAX_TILE_TEXT:
        return False, False
    priced = MONEY.search(text) is not None or any(
        "price" in names_of(part).lower() for part in tile.iterdescendants("*")
    )
    return True, priced


def _main_url(own: list[Element], links: dict[Element, str]) -> str:
    """Which of a tile's links shows the product: the one most of them name, above all from picture and title."""
    votes: Counter[str] = Counter()
    for link in own:
        has_picture = next(link.iter("img", "picture"), None) is not None
        in_title = any(parent.tag in ("h2", "h3", "h4", "h5") for parent in (link, *above(link, MAX_HEIGHT)))
        votes[links[link]] += 1 + 2 * has_picture + in_title
    return max(votes, key=lambda url: votes[url])
