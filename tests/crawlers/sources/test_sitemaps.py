"""Sitemaps: read as the protocol says, whatever a stranger puts into one."""

import gzip
import time

import pytest

from crawlers.sources import sitemaps
from crawlers.sources.sitemaps import Sitemap, is_named_sitemap, read_sitemap, shape
from tests.support.sitemaps import index, urlset

BASE = "https://a.test/sitemaps/index.xml"


def test_urls_are_absolute_clean_and_each_once() -> None:
    body = urlset(
        " https://a.test/p/1 ", "/p/2", "https://a.test/p/1#x", "ftp://a.test/p/3", "", "https://a.test/?a&amp;b"
    )
    assert read_sitemap(BASE, body) == Sitemap(["https://a.test/p/1", "https://a.test/p/2", "https://a.test/?a&b"], [])
    assert read_sitemap(BASE, b"\xef\xbb\xbf" + body) == read_sitemap(BASE, gzip.compress(body)) != None  # noqa: E711


def test_of_an_index_the_sitemaps_of_products_count_if_there_are_any() -> None:
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
def test_what_is_no_sitemap_is_none(body: bytes) -> None:
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
def test_an_ampersand_is_what_it_says(written: str, meant: str) -> None:
    body = urlset("/p/1", written, "/p/2")
    found = [f"https://a.test{path}" for path in ("/p/1", meant, "/p/2")]
    assert read_sitemap(BASE, body) == Sitemap(found, [])


@pytest.mark.parametrize("cut", [1, 5, 20, 25, 40])
def test_a_sitemap_that_breaks_off_is_read_as_far_as_it_goes_and_is_not_complete(cut: int) -> None:
    urls = [f"https://a.test/p/{number}00" for number in range(3)]
    found = read_sitemap(BASE, urlset(*urls)[:-cut])
    assert found is not None
    assert not found.complete
    assert found.urls == urls[: len(found.urls)]
    assert len(found.urls) >= 2


def test_what_follows_a_whole_sitemap_takes_nothing_from_it() -> None:
    found = Sitemap(["https://a.test/p/1"], [])
    assert read_sitemap(BASE, b"\n \n" + urlset("/p/1") + b"<b>Warning: & so on") == found
    assert read_sitemap(BASE, urlset("/p/1").replace(b"<loc>", b"<loc>\x0b")) == found


def test_a_packed_sitemap_may_have_several_members_and_must_be_whole() -> None:
    body = urlset(*(f"/p/{number}" for number in range(9)))
    packed = gzip.compress(body[:150]) + gzip.compress(body[150:])
    assert read_sitemap(BASE, packed) == read_sitemap(BASE, body)
    for cut in (packed[:-30], gzip.compress(body)[:-9]):
        found = read_sitemap(BASE, cut)
        assert found is not None
        assert not found.complete


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_sitemap(BASE, gzip.compress(urlset("/p/1") + b" " * sitemaps.MAX_BYTES)) is None


def test_entities_stay_unresolved() -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = (
        f'<?xml version="1.0"?><!DOCTYPE urlset [<!ENTITY e0 "aaaaaaaaaa">{levels}<!ENTITY file SYSTEM "/etc/passwd">]>'
    )
    body = bomb.encode() + urlset("http://a.test/&e11;", "http://a.test/&file;", "http://a.test/p").partition(b"?>")[2]
    started = time.process_time()
    found = read_sitemap(BASE, body)
    assert time.process_time() - started < 5  # seconds
    assert found is None or all(len(url) < 100 and "root:" not in url for url in found.urls)


def test_a_sitemap_has_at_most_as_many_urls_as_the_protocol_allows(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_names_of_sitemaps(url: str, named: bool) -> None:
    assert is_named_sitemap(url) is named


def test_products_of_a_shop_share_the_shape_of_their_urls() -> None:
    assert shape("https://a.test/p/12/red-shirt.html") == shape("https://a.test/p/7/blue.html?x=1") == ("/p/0", "html")
    assert shape("https://a.test/p/12/red") != shape("https://a.test/about/red")
    assert shape("https://a.test/red") == ("", "")
