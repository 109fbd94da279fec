"""Parsing of sitemaps, including untrusted and malformed ones."""

import gzip
import time

import pytest

from crawlers.sources import sitemaps
from crawlers.sources.sitemaps import Sitemap, is_named_sitemap, read_sitemap, url_pattern
from tests.support.sitemaps import index, urlset

BASE = "https://a.test/sitemaps/index.xml"


def test_urls_are_absolute_and_distinct() -> None:
    body = urlset(
        " https://a.test/p/1 ", "/p/2", "https://a.test/p/1#x", "ftp://a.test/p/3", "", "https://a.test/?a&amp;b"
    )
    assert read_sitemap(BASE, body) == Sitemap(["https://a.test/p/1", "https://a.test/p/2", "https://a.test/?a&b"], [])
    for form in (b"\xef\xbb\xbf" + body, gzip.compress(body)):
        assert read_sitemap(BASE, form) == read_sitemap(BASE, body)


def test_index_prefers_sitemaps_of_products() -> None:
    assert read_sitemap(BASE, index("a.xml", "b.xml.gz")) == Sitemap(
        [], ["https://a.test/sitemaps/a.xml", "https://a.test/sitemaps/b.xml.gz"]
    )
    assert read_sitemap(BASE, index("/pages.xml", "/sitemap_products_1.xml?from=1")) == Sitemap(
        [], ["https://a.test/sitemap_products_1.xml?from=1"]
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>urlset</body></html>",
        b"\x1f\x8b no gzip",
        b"<urlset",
        b"<html><urlset ></urlset></html>",
        b"\x00" * 5000 + urlset("/p/1"),
    ],
)
def test_other_content_is_not_a_sitemap(body: bytes) -> None:
    assert read_sitemap(BASE, body) is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/p?a=1&b=2", "/p?a=1&b=2"),
        ("/p?a=1&copy=2&amp=3", "/p?a=1&copy=2&amp=3"),
        ("/p?a=1&amp;b=2", "/p?a=1&b=2"),
        ("/p?a=&#38;&#x26;&nbsp;", "/p?a=&&&nbsp;"),
        ("<![CDATA[/p?a=1&b=2&amp;c]]>", "/p?a=1&b=2&amp;c"),
        ("/p%26?x=%2C", "/p%26?x=%2C"),
    ],
)
def test_unescaped_ampersand_stands_for_itself(written: str, meant: str) -> None:
    body = urlset("/p/1", written, "/p/2")
    found = [f"https://a.test{path}" for path in ("/p/1", meant, "/p/2")]
    assert read_sitemap(BASE, body) == Sitemap(found, [])


@pytest.mark.parametrize("cut", [1, 5, 20, 25, 40])
def test_truncated_sitemap_is_read_and_marked_incomplete(cut: int) -> None:
    urls = [f"https://a.test/p/{number}00" for number in range(3)]
    found = read_sitemap(BASE, urlset(*urls)[:-cut])
    assert found is not None
    assert not found.complete
    assert found.urls == urls[: len(found.urls)]
    assert len(found.urls) >= 2


def test_ignores_trailing_data() -> None:
    found = Sitemap(["https://a.test/p/1"], [])
    assert read_sitemap(BASE, b"\n \n" + urlset("/p/1") + b"<b>Warning: & so on") == found
    assert read_sitemap(BASE, urlset("/p/1").replace(b"<loc>", b"<loc>\x0b")) == found


def test_gzip_may_have_several_members_but_not_be_truncated() -> None:
    body = urlset(*(f"/p/{number}" for number in range(9)))
    packed = gzip.compress(body[:150]) + gzip.compress(body[150:])
    assert read_sitemap(BASE, packed) == read_sitemap(BASE, body)
    for cut in (packed[:-30], gzip.compress(body)[:-9]):
        found = read_sitemap(BASE, cut)
        assert found is not None
        assert not found.complete


def test_does_not_unpack_a_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_sitemap(BASE, gzip.compress(urlset("/p/1") + b" " * sitemaps.MAX_BYTES)) is None


def test_does_not_resolve_entities() -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = (
        f'<?xml version="1.0"?><!DOCTYPE urlset [<!ENTITY e0 "aaaaaaaaaa">{levels}<!ENTITY file SYSTEM "/etc/passwd">]>'
    )
    body = bomb.encode() + urlset("http://a.test/&e11;", "http://a.test/&file;", "http://a.test/p").partition(b"?>")[2]
    started = time.process_time()
    found = read_sitemap(BASE, body)
    assert time.process_time() - started < 5  # seconds
    assert found is None or all(len(url) < 100 and "root:" not in url for url in found.urls)


def test_limits_the_number_of_urls_to_that_of_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemaps, "MAX_URLS", 3)
    found = read_sitemap(BASE, urlset(*(f"/p/{number}" for number in range(9))))
    assert found is not None
    assert len(found.urls) == 3
    assert not found.complete


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://a.test/sitemap.xml", True),
        ("http://a.test/S.XML.GZ?x=1", True),
        ("http://a.test/xml", False),
        ("http://a.test/?sitemap.xml", False),
    ],
)
def test_recognises_sitemaps_by_name(url: str, named: bool) -> None:
    assert is_named_sitemap(url) is named


def test_product_urls_of_a_shop_share_a_pattern() -> None:
    assert (
        url_pattern("https://a.test/p/12/red-shirt.html")
        == url_pattern("https://a.test/p/7/blue.html?x=1")
        == ("/p/0", "html")
    )
    assert url_pattern("https://a.test/p/12/red") != url_pattern("https://a.test/about/red")
    assert url_pattern("https://a.test/red") == ("", "")
