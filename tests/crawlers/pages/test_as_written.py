"""XHTML, link resolution, character encodings, and truncated listings."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scrapy.http import Response, TextResponse
from web_poet import HttpResponse

from atlas_model.core.errors import RetryError
from crawlers.crawl.journal import LISTING
from crawlers.http.urls import join_url, redirect_target, request_url
from crawlers.pages.generic import ListingPage
from crawlers.pages.listings.pager import with_number
from crawlers.pages.registry import read_listing, read_product
from crawlers.pages.shops import GENERIC
from crawlers.scrapy_app.page_reader import read
from tests.support.crawling import product, rows, run, source
from tests.support.servers import HOST, RawServer, raw_serving, response

AT = f"http://{HOST}"
TILES = "".join(
    f'<div class="tile"><a href="/p/{n}"><img src="/t/{n}.jpg"/>P{n}</a><span class="price">€ 9</span></div>'
    for n in (1, 2)
)
LIST = f'<body><main><h1>Shirts</h1><div class="grid">{TILES}</div>%s</main></body></html>'
XHTML = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en"><head><title>Red Shirt</title>
<script type="text/javascript">//<![CDATA[
var less = 1 < 2;
//]]></script>{script}<link rel="canonical" href="/p/1" /></head>"""
SHIRT = """<body><main><a name="top"/><h1>Red Shirt</h1><p class="price">€ 12,00</p>
<img src="/1.jpg?a=1&amp;b=2"/></main></body></html>"""


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-15"])
@pytest.mark.parametrize(
    ("content_type", "script"),
    [
        ("text/html", ""),
        ("application/xhtml+xml", ""),
        ("application/xhtml+xml; charset={encoding}", '<script src="x.js"/>'),
        ("text/xml", "<style/><script src='a>b/>'/>"),
    ],
)
def test_reads_xhtml_like_html(content_type: str, script: str, encoding: str) -> None:
    head = XHTML.format(encoding=encoding, script=script)
    headers = {"Content-Type": content_type.format(encoding=encoding)}
    page = HttpResponse(f"{AT}/p/1?x", body=(head + SHIRT).encode(encoding), headers=headers)
    shirt = asyncio.run(read_product(GENERIC, page))
    assert (shirt.name, str(shirt.price), shirt.currency) == ("Red Shirt", "12.00", "EUR")
    assert shirt.images == [f"{AT}/1.jpg?a=1&b=2"]
    assert shirt.canonical_url == f"{AT}/p/1"
    page = HttpResponse(f"{AT}/c", body=(head + LIST).encode(encoding), headers=headers)
    assert asyncio.run(read_listing(GENERIC, page)).items == [f"{AT}/p/1", f"{AT}/p/2"]


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        ("\\img\\1.jpg", f"{AT}/img/1.jpg"),
        ("?", f"{AT}/c/d?"),
        ("e?#f", f"{AT}/c/e?#f"),
        ("///cdn.test/x", "http://cdn.test/x"),
        ("https:\\\\cdn.test\\x?a\\b", "https://cdn.test/x?a\\b"),
        (" x\n\t/y ", f"{AT}/c/x/y"),
        ("http%3A%2F%2Fx", f"{AT}/c/http%3A%2F%2Fx"),
        ("data:a\\b", "data:a\\b"),
    ],
)
def test_resolves_links_like_browsers(written: str, whole: str) -> None:
    assert join_url(f"{AT}/c/d?x", written) == whole


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://a.test/",
        "http://",
        "http:///x",
        "http://a..test/",
        "http://a:0/",
        "http://a b/",
        "http://\xaf.",
        "http://a\0b/",
    ],
)
def test_rejects_urls_that_cannot_be_requested(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected|label|Port|port"):
        request_url(url)


def test_normalised_url_is_stable_and_ascii() -> None:
    for url in (
        f"{AT}/%zz%2f?a=%2B b'",
        "http://münchen.test:80/ü#x",
        "https://u:p@A.test/..//x/./%2E%2e/",
        f"{AT}?\ud83d\ude00\ud800",
    ):
        assert request_url(request_url(url)) == request_url(url)
        assert request_url(url).isascii()
    assert request_url("https://u:p@A.test:443/..//x/./%2E%2e/y") == "https://a.test//y"
    assert request_url(f"{AT}?\ud83d\ude00\ud800") == f"{AT}/?%F0%9F%98%80%EF%BF%BD"


@pytest.mark.parametrize("header", [b"", b" ", b"mailto:a@b.test", b"http://[", b"//"])
def test_invalid_redirect_target_is_an_error(header: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected|Invalid"):
        redirect_target(f"{AT}/x", header)


def page(body: str, encoding: str = "utf-8") -> ListingPage:
    kind = {"Content-Type": f"text/html; charset={encoding}"}
    return ListingPage(HttpResponse(f"{AT}/c/d", body=body.encode(encoding), headers=kind))


def test_query_uses_the_encoding_of_the_page() -> None:
    assert page("<p>é").urljoin("ü?q=é€&r=%2C") == f"{AT}/c/ü?q=é€&r=%2C"
    assert page("<p>é", "iso-8859-1").urljoin("ü?q=é€ł") == f"{AT}/c/ü?q=%E9%80%26%23322%3B"


def test_first_base_element_sets_the_base_url() -> None:
    late = f"<html><head>{'<meta name=x content=y>' * 500}<base href='/a%2Cb/'><base href='/no/'></head></html>"
    assert page(late).urljoin("x") == f"{AT}/a%2Cb/x"
    assert page("<base href='data:x'>").urljoin("x") == f"{AT}/c/x"


def test_next_page_url_changes_only_the_page_number() -> None:
    assert with_number(f"{AT}/c?q=a%2Cb+c&page=2&x=a%20b&y", "page", 3) == f"{AT}/c?q=a%2Cb+c&x=a%20b&y&page=3"


def said(response: Response) -> tuple[str | None, str | None]:
    found = asyncio.run(read(LISTING, GENERIC, "reader", response.url, response))
    return found.item, found.dropped


def answer(body: str, kind: str = "text/html", **more: Any) -> TextResponse:
    return TextResponse(f"{AT}/c", body=body.encode(), headers={"Content-Type": kind, "X-Odd": b"men\xfc"}, **more)


def test_invalid_json_is_not_an_empty_listing() -> None:
    whole = '{"products": [{"url": "/p/1"}]}'
    assert said(answer(whole, "application/json; charset=utf-8"))[1] is None
    assert said(answer(whole[:-5], "application/json"))[1] == "cut_off"


@pytest.mark.slow
def test_crawl_marks_a_truncated_listing_incomplete(tmp_path: Path) -> None:
    html = "Content-Type: text/html; charset=utf-8"
    entries = "".join(f"<url><loc>{AT}/p/{number}</loc></url>" for number in (11, 12, 131))
    sitemap = f'<?xml version="1.0"?><urlset>{entries}</urlset>'.encode()
    next_page = '<a rel="next" href="/list?page=2">Next</a>'
    answers: dict[str, Any] = {
        "/cut.xml": response(sitemap[: sitemap.index(b"1</loc></url></urlset>")], "Content-Type: text/xml"),
        "/list": response((LIST % next_page).encode(), html),
        "/list?page=2": response(LIST[: LIST.index("%s")].replace("/p/1", "/p/3").encode(), html, length=-1),
    }
    answers |= {
        f"/p/{number}": response(str(product(f"P{number}", str(number), f"/{number}.jpg").body).encode(), html)
        for number in (1, 2, 3, 11, 12, 13)
    }
    with raw_serving(RawServer(answers)) as server:
        shop: Any = SimpleNamespace(connect_map={HOST: ("127.0.0.1", server.port)})
        sources = [source("/cut.xml"), source("/list", "B", "C")]
        with pytest.raises(RetryError, match=r"(?s)1 category pages could not be read.*/list\?page=2: truncated"):
            run(shop, sources, tmp_path)
        server.answers["/list?page=2"] = response((LIST % "").replace("/p/1", "/p/3").encode(), html, length=-1)
        result = run(shop, sources, tmp_path)
    assert result.category_faults == {"cut_off": 1}
    assert result.walk_ends == {"cut_off": 1, "last_page": 1}
    assert {row["title"] for row in rows(tmp_path)} == {"P1", "P2", "P3", "P11", "P12"}, "/p/13 is another product"
