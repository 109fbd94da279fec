"""Parser of sitemaps (https://www.sitemaps.org/protocol.html).

A sitemap is untrusted: the unpacked size is bounded, and entities are not resolved. The caller bounds the depth of
sitemap indexes. Many sitemaps contain an unescaped "&", which a recovering XML parser would turn into wrong URLs; here
such an "&" stands for itself. If the rest is not well-formed, the entries before the error are read and the result is
not `complete`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import urlsplit

from lxml import etree

from crawlers.http.content import GZIP, decode_partially
from crawlers.http.urls import join_url
from crawlers.pages.text.values import http_urls

MAX_BYTES = 50 * 1024 * 1024  # unpacked; this limit and the next are those of the protocol
MAX_URLS = 50_000

HEAD = 4096  # first bytes that must contain the root element
ROOT = re.compile(rb"<(\w+:)?(urlset|sitemapindex)[\s>]")
START = re.compile(rb"<[?!A-Za-z_]")  # start of the XML, which blank lines may precede
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
BARE = re.compile(rb"<!\[CDATA\[.*?\]\]>|&(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});)", re.DOTALL)
CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # characters that XML forbids
NAME = re.compile(r"\.xml(\.gz)?$", re.IGNORECASE)
OF_PRODUCTS = re.compile(r"product|produit|produkt|prodotto", re.IGNORECASE)
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Sitemap:
    """Content of one sitemap or sitemap index."""

    urls: list[str]  # absolute page URLs without duplicates
    sitemaps: list[str]  # URLs of further sitemaps; only those named after products, if there are any
    complete: bool = True  # False: truncated, malformed, or larger than the protocol allows


@dataclass(frozen=True)
class Base:
    """The URL that links are relative to."""

    url: str

    def urljoin(self, url: str) -> str:
        """``url`` made absolute."""
        return join_url(self.url, url)


def is_named_sitemap(url: str) -> bool:
    """Whether ``url`` ends in .xml or .xml.gz."""
    return bool(NAME.search(urlsplit(url).path))


def read_sitemap(url: str, body: bytes) -> Sitemap | None:
    """Parse the sitemap in ``body`` (may be gzipped), fetched from ``url``; None if it is not one or too large."""
    content, fault = decode_partially(body, ["gzip"], MAX_BYTES) if body.startswith(GZIP) else (body, None)
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


def url_pattern(url: str) -> tuple[str, str]:
    """Pattern that a shop's product URLs share: the folder with numbers replaced by 0, and the suffix."""
    folder, _, name = urlsplit(url).path.rpartition("/")
    _, point, ending = name.rpartition(".")
    return DIGITS.sub("0", folder), ending if point else ""


class _Entries:
    """Iterates over the ``loc`` texts of the XML ``content``; ``root`` and ``complete`` are valid afterwards."""

    def __init__(self, content: bytes) -> None:
        if not content.startswith(UTF_16):
            start = START.search(content[:HEAD])
            content = CONTROLS.sub(b" ", BARE.sub(_escaped, content[start.start() if start else 0 :]))
        self._content = content
        self.root = ""  # name of the root element
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
            return  # malformed or truncated here, or trailing data after the root, which is ignored


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"&amp;" if found[0] == b"&" else found[0]


def _locations(entry: etree._Element) -> list[str]:
    return [child.text or "" for child in entry.iterchildren("*") if _name(child) == "loc" and len(child) == 0]


def _name(element: etree._Element) -> str:
    """The tag without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _forget(element: etree._Element) -> None:
    """Free the memory of ``element`` and of its preceding siblings."""
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]
