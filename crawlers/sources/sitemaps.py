"""Reading sitemaps (https://www.sitemaps.org/protocol.html).

A sitemap comes from a stranger: it may unpack to gigabytes or hold entities that grow. What is unpacked is bounded
and entities stay unresolved; whoever follows an index counts the steps. It may also break off, or hold a bare "&" as
many do: a parser that recovers by itself would make other URLs of that. So an "&" that is no entity of XML's stands for
itself, and where the rest is not well-formed, what comes before is read and the list is not `complete`.

Knows nothing of HTTP but how gzip is undone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import urlsplit

from lxml import etree

from crawlers.http.content import GZIP, decoded_as_far
from crawlers.http.urls import joined
from crawlers.pages.text.values import http_urls

MAX_BYTES = 50 * 1024 * 1024  # of a sitemap, also unpacked: the protocol's own limit, as the next
MAX_URLS = 50_000

HEAD = 4096  # bytes in which the root has to come
ROOT = re.compile(rb"<(\w+:)?(urlset|sitemapindex)[\s>]")
START = re.compile(rb"<[?!A-Za-z_]")  # of XML; blank lines before it are no part of it
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
BARE = re.compile(rb"<!\[CDATA\[.*?\]\]>|&(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});)", re.DOTALL)
CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # of no use in XML
NAME = re.compile(r"\.xml(\.gz)?$", re.IGNORECASE)
OF_PRODUCTS = re.compile(r"product|produit|produkt|prodotto", re.IGNORECASE)
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Sitemap:
    """What one file says."""

    urls: list[str]  # of pages, absolute, each once
    sitemaps: list[str]  # of further sitemaps; only those named after products, if there are such
    complete: bool = True  # False: it breaks off, or has more than the protocol allows


@dataclass(frozen=True)
class Base:
    """The URL that links are relative to."""

    url: str

    def urljoin(self, url: str) -> str:
        """``url`` made absolute."""
        return joined(self.url, url)


def is_named_sitemap(url: str) -> bool:
    """Whether ``url`` ends as those of sitemaps do."""
    return bool(NAME.search(urlsplit(url).path))


def read_sitemap(url: str, body: bytes) -> Sitemap | None:
    """What the sitemap in ``body`` (packed or not), which came from ``url``, says; None if it is none or too large."""
    content, fault = decoded_as_far(body, ["gzip"], MAX_BYTES) if body.startswith(GZIP) else (body, None)
    root = ROOT.search(content[:HEAD])
    if root is None or fault not in (None, "truncated", "bad_encoding"):
        return None
    entries = _Entries(content)
    found = http_urls(entries, Base(url))
    complete = entries.complete and fault is None
    if entries.root == "urlset":
        return Sitemap(found, [], complete)
    if entries.root == "sitemapindex":
        wanted = [sitemap for sitemap in found if OF_PRODUCTS.search(urlsplit(sitemap).path)] or found
        return Sitemap([], wanted, complete)
    return None


def shape(url: str) -> tuple[str, str]:
    """What the product URLs of a shop share: the folder, whatever numbers stand in it, and the ending."""
    folder, _, name = urlsplit(url).path.rpartition("/")
    _, point, ending = name.rpartition(".")
    return DIGITS.sub("0", folder), ending if point else ""


class _Entries:
    """The texts of ``loc`` in the XML ``content``, as far as they are whole; iterate once, then look at the rest."""

    def __init__(self, content: bytes) -> None:
        if not content.startswith(UTF_16):
            start = START.search(content[:HEAD])
            content = CONTROLS.sub(b" ", BARE.sub(_escaped, content[start.start() if start else 0 :]))
        self._content = content
        self.root = ""  # its name
        self.complete = False

    def __iter__(self) -> Iterator[str]:
        depth = count = 0
        reading = etree.iterparse(
            BytesIO(self._content),
            events=("start", "end"),
            resolve_entities=False,
            no_network=True,
            remove_comments=True,
            remove_pis=True,
        )
        try:
            for event, element in reading:
                depth += 1 if event == "start" else -1
                self.root = self.root or _name(element)
                if event == "end" and depth == 0:
                    self.complete = True
                elif event == "end" and depth == 1:
                    if _name(element) in ("url", "sitemap"):
                        if count == MAX_URLS:
                            return
                        yield from _locations(element)[-1:]
                        count += 1
                    _forget(element)
        except etree.XMLSyntaxError:
            return  # it breaks off here, or the root has ended and nobody cares for what follows


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"&amp;" if found[0] == b"&" else found[0]


def _locations(entry: etree._Element) -> list[str]:
    return [child.text or "" for child in entry.iterchildren("*") if _name(child) == "loc" and len(child) == 0]


def _name(element: etree._Element) -> str:
    """Without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _forget(element: etree._Element) -> None:
    """Let go of ``element`` and of what came before it."""
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]
