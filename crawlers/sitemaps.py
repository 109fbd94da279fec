"""Reading sitemaps (https://www.sitemaps.org/protocol.html).

A sitemap comes from a stranger: it may unpack to gigabytes or hold entities that grow. What is unpacked is bounded
and entities stay unresolved; whoever follows an index counts the steps. Knows nothing of HTTP.
"""

import re
import zlib
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urljoin, urlsplit

from lxml.etree import LxmlError
from scrapy.utils.sitemap import Sitemap as Reader

from crawlers.pages.values import http_urls

MAX_BYTES = 50 * 1024 * 1024  # of a sitemap, also unpacked: the protocol's own limit, as the next
MAX_URLS = 50_000

GZIP = b"\x1f\x8b"
HEAD = 4096  # bytes in which the root has to come
ROOT = re.compile(rb"<(\w+:)?(urlset|sitemapindex)[\s>]")
NAME = re.compile(r"\.xml(\.gz)?$", re.IGNORECASE)
OF_PRODUCTS = re.compile(r"product|produit|produkt|prodotto", re.IGNORECASE)
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Sitemap:
    """What one file says."""

    urls: list[str]  # of pages, absolute, each once
    sitemaps: list[str]  # of further sitemaps; only those named after products, if there are such


def is_named_sitemap(url: str) -> bool:
    """Whether ``url`` ends as those of sitemaps do."""
    return bool(NAME.search(urlsplit(url).path))


def read_sitemap(url: str, body: bytes) -> Sitemap | None:
    """What the sitemap in ``body`` (packed or not), which came from ``url``, says; None if it is none or too large."""
    content = _unpacked(body) if body.startswith(GZIP) else body
    if not ROOT.search(content[:HEAD]):
        return None
    try:
        reader = Reader(content)
        named = [entry["loc"] for entry in islice(reader, MAX_URLS)]
    except (LxmlError, StopIteration):
        return None
    found = http_urls(named, _Base(url))
    if reader.type == "urlset":
        return Sitemap(found, [])
    if reader.type == "sitemapindex":
        return Sitemap([], [sitemap for sitemap in found if OF_PRODUCTS.search(urlsplit(sitemap).path)] or found)
    return None


def shape(url: str) -> tuple[str, str]:
    """What the product URLs of a shop share: the folder, whatever numbers stand in it, and the ending."""
    folder, _, name = urlsplit(url).path.rpartition("/")
    _, point, ending = name.rpartition(".")
    return DIGITS.sub("0", folder), ending if point else ""


def _unpacked(body: bytes) -> bytes:
    """Empty if it is damaged, or larger than a sitemap may be."""
    unpacking = zlib.decompressobj(wbits=31)
    try:
        content = unpacking.decompress(body, MAX_BYTES)
    except zlib.error:
        return b""
    return content if unpacking.eof else b""


@dataclass(frozen=True)
class _Base:
    url: str

    def urljoin(self, url: str) -> str:
        return urljoin(self.url, url)
