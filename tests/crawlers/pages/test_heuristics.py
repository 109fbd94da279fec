"""Heuristic readers on small pages without structured data."""

from urllib.parse import urljoin

import pytest
from web_poet import HttpResponse

from crawlers.pages.saved import Kind, read_page
from crawlers.pages.shops import GENERIC

URL = "https://shop.example/shirts/linen-1"


def read(body: str, kind: Kind = "product", url: str = URL) -> dict:
    html = f"<html><head></head><body>{body}</body></html>".encode()
    return read_page(kind, GENERIC, HttpResponse(url, body=html, headers={"Content-Type": "text/html; charset=utf-8"}))


@pytest.mark.parametrize(
    ("html", "price", "currency"),
    [
        ('<span class="price">12,50 €</span>', "12.50", "EUR"),
        ('<p class="price"><del>20 €</del> <ins>15 €</ins></p>', "15.00", "EUR"),
        ('<p class="price">15 € <s>20 €</s></p>', "15.00", "EUR"),
        ('<span class="oldPrice">20 €</span><span class="newPrice">15 €</span>', "15.00", "EUR"),
        ('<div class="price-was">£20</div><div class="price-now">£15</div>', "15.00", "GBP"),
        ('<b class="regular-price">20 €</b><b class="special-price">15 €</b>', "15.00", "EUR"),
        ('<span class="regular-price">20 €</span>', "20.00", "EUR"),
        ('<p class="prices"><i class="mrp-price">₹1,999</i><b class="price">₹1,29,999</b></p>', "129999.00", "INR"),
        ('<span class="price">Rs.\u00a01,299.00</span>', "1299.00", "INR"),
        ('<span class="price">CHF 1’299.–</span>', "1299.00", "CHF"),
        ('<span class="price">ab 1\u202f299,90 €</span>', "1299.90", "EUR"),
        ('<span class="price">10 € – 20 €</span>', "10.00", "EUR"),
        ('<span class="price"><span>€</span><span>1.299</span><sup>,00</sup></span>', "1299.00", "EUR"),
        ('<div><span class="cur">€</span><span class="price" content="12.5">12,50</span></div>', "12.50", "EUR"),
        ('<span class="price-per-unit">3 €/kg</span><span class="price">12 €</span>', "12.00", "EUR"),
        ('<span class="you-save price">5 €</span><span class="price">12 €</span>', "12.00", "EUR"),
        ('<div class="price">on request</div>', None, None),
        ("<del><span class='price'>20 €</span></del>", None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_price(html: str, price: str | None, currency: str | None) -> None:
    basket = '<div class="mini-cart"><span class="price">0,00 $</span></div>'
    related = '<div class="related"><a href="/x"><img src="/x.jpg"></a><span class="price">1 $</span></div>'
    item = read(f"<header>{basket}</header><main><h1>Shirt</h1>{html}{related}</main>")
    assert (item["price"], item["currency"]) == (price, currency)


@pytest.mark.parametrize(
    "html",
    [
        '<ul class="breadcrumb"><li><a href="/">Home</a></li><li><a href="/m">Men</a></li><li>Linen shirt</li></ul>',
        '<ul class="crumbs"><li><a href="/index.php">Startseite</a></li><li><a href="/m">Men</a></li></ul>',
        '<nav aria-label="Breadcrumb"><ol><li><a href="/">Acme</a> ›</li><li><a href="/m">Men</a> ›</li></ol></nav>',
        '<div class="crumbs"><a href="/">Home</a> / <a href="/m">Men</a> / <span>Linen sh…</span></div>',
        f'<div id="Breadcrumbs"><a href="/m">Men</a> &gt; <a href="{URL}">Linen shirt, blue</a></div>',
    ],
)
def test_breadcrumb_excludes_home_and_the_product(html: str) -> None:
    assert read(f"{html}<h1>Linen shirt</h1>")["breadcrumbs"] == ["Men"]


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        ([("/catalogue", "Home"), ("/c/home", "Home"), ("/c/garden", "Garden")], ["Home", "Garden"]),
        ([("/all", "Furniture"), ("/c/home", "Home"), ("/c/garden", "Garden")], ["Furniture", "Home", "Garden"]),
        ([("/", "Acme"), ("/", "Home"), ("/m", "Men")], ["Men"]),
        ([("/s", "Home"), ("/s", "Start"), ("/m", "Men")], ["Men"]),
        ([("/back", "Back to results"), ("/", "Home"), ("/m", "Men")], ["Men"]),
    ],
)
def test_breadcrumb_keeps_a_category_named_home(entries: list[tuple[str, str]], names: list[str]) -> None:
    links = "".join(f'<li><a href="{url}">{name}</a></li>' for url, name in entries)
    assert read(f'<ol class="breadcrumb">{links}</ol><h1>Shirt</h1>')["breadcrumbs"] == names


def test_breadcrumb_excludes_a_title_that_ends_with_a_separator() -> None:
    trail = '<ol class="breadcrumb"><li><a href="/m">Men</a></li><li>Shirt &lt;limited&gt;</li></ol>'
    assert read(f"{trail}<h1>Shirt &lt;limited&gt;</h1>")["breadcrumbs"] == ["Men"]


@pytest.mark.parametrize(
    ("html", "images"),
    [
        ('<a href="/big.jpg"><img src="/small.jpg"></a>', ["/big.jpg"]),
        ('<img src="/small.jpg" data-zoom-image="/big.jpg">', ["/big.jpg"]),
        ('<a href="#" data-full="/big.webp"><img src="/small.webp"></a>', ["/big.webp"]),
        ('<img src="/s.jpg" srcset="/s.jpg 300w, /m.jpg 600w,/l.jpg 1200w">', ["/l.jpg"]),
        ('<img src="/s.jpg" srcset="/s.jpg, /l.jpg 2x">', ["/l.jpg"]),
        ('<picture><source srcset="/l.webp 1000w"><img src="/s.jpg"></picture>', ["/l.webp"]),
        ('<img src="data:image/gif;base64,AA" data-src="/lazy.jpg">', ["/lazy.jpg"]),
        ('<img data-src="" src="/plain.jpg">', ["/plain.jpg"]),
        ('<img src="/a.jpg"><img src="/a.jpg"><img src="/b.jpg">', ["/a.jpg", "/b.jpg"]),
        ('<img src="/i.php?id=1"><img src="/i.php?id=2">', ["/i.php?id=1", "/i.php?id=2"]),
        ('<img src="/i?u=a&w=90"><img srcset="/i?u=a&w=90 1x, /i?u=a&w=800 2x">', ["/i?u=a&w=800"]),
        ('<img src="/a-600x800.jpg"><a href="/a.jpg"><img src="/a-100x100.jpg"></a>', ["/a.jpg"]),
        ('<img src="/a-600x800.jpg"><img src="/a-100x100.jpg" data-zoom-image="/a-full.jpg">', ["/a-full.jpg"]),
        ('<img src="/a.jpg"><img src="/no-image.png"><img src="/placeholder-300x300.png">', ["/a.jpg"]),
        ('<img src="/a.png.0x155_q85.jpg"><img src="/a.png.65x55_q85_crop-center.jpg">', ["/a.png"]),
        ('<img src="/a.jpg"><img src="/image_not_found.jpg.440x400_q85.jpg">', ["/a.jpg"]),
        ('<img src="/a.jpg"><img src="/img/icon.png"><img src="/logo.svg"><img src="/i.gif" width="16">', ["/a.jpg"]),
        ('<img src="/logo-tee.jpg">', ["/logo-tee.jpg"]),
        ('<img src="/a.jpg"><a href="/other-product"><img src="/other.jpg"></a>', ["/a.jpg"]),
        ('<img src="http://[broken" srcset=", ,  w"><img src="/a.jpg">', ["/a.jpg"]),
    ],
)
def test_images_are_the_largest_versions_in_the_gallery(html: str, images: list[str]) -> None:
    item = read(
        '<header><a href="/"><img src="/header.jpg"></a></header><main><h1>Shirt</h1>'
        f'<div class="product-gallery">{html}</div><p><img src="/in-the-text.jpg"></p></main>'
        '<div class="you-may-also-like"><div class="carousel"><img src="/also.jpg"></div></div>'
    )
    assert item["images"] == [f"https://shop.example{path}" for path in images]


def test_images_near_the_heading_are_used_without_a_gallery() -> None:
    item = read('<img src="/top.jpg"><div><section><h1>Shirt</h1><img src="/a.jpg"></section><img src="/c.jpg"></div>')
    assert item["images"] == ["https://shop.example/a.jpg"]


@pytest.mark.parametrize(
    ("html", "title"),
    [
        ("<header><h1>The shop</h1></header><h1>Linen <b>shirt</b></h1>", "Linen shirt"),
        ("<header><h1>Linen shirt</h1></header>", "Linen shirt"),
        ('<h2 class="product-title">Linen<br>shirt</h2>', "Linen shirt"),
        ("<h1>Linen<!-- x --> shirt<script>var x</script><style>p{}</style></h1>", "Linen shirt"),
        ('<meta property="og:title" content="Linen shirt | The shop"><h1>Linen shirt</h1>', "Linen shirt"),
        ('<meta property="og:title" content="Linen shirt">', "Linen shirt"),
        ("<title>404</title><p>nothing</p>", None),
    ],
)
def test_title(html: str, title: str | None) -> None:
    assert read(html)["name"] == title


@pytest.mark.parametrize(
    ("html", "sku"),
    [
        ('<span class="sku">SKU: A-1</span>', "A-1"),
        ('<meta itemprop="sku" content="A-1">', "A-1"),
        ("<table><tr><th>Art.-Nr.:</th><td>A-1</td></tr></table>", "A-1"),
        ("<dl><dt>Référence</dt><dd>A-1</dd></dl>", "A-1"),
        ('<span class="sku">N/A</span>', None),
        ('<div class="skunk">no number</div>', None),
    ],
)
def test_sku(html: str, sku: str | None) -> None:
    assert read(f"<h1>Shirt</h1>{html}")["sku"] == sku


def test_reads_details_from_tables_definition_lists_and_lines() -> None:
    item = read(
        "<h1>Shirt</h1><table><tr><th>Material</th><td>Linen</td></tr><tr><td>S</td><td>M</td><td>L</td></tr></table>"
        '<dl><dt>Care:</dt><dd>Cold</dd></dl><ul class="specs"><li>Fit: Slim</li><li>Made with love</li></ul>'
        "<ul><li>Not: this</li></ul><footer><table><tr><td>Phone</td><td>1</td></tr></table></footer>"
    )
    assert item["additional_properties"] == {"Material": "Linen", "Care": "Cold", "Fit": "Slim"}


TILE = '<div class="tile"><a href="/shirts/{0}"><img src="/{0}.jpg"></a><a href="/shirts/{0}">{0}</a><b>{1} €</b></div>'


def listing(body: str, url: str = "https://shop.example/shirts") -> dict:
    return read(body, "listing", url)


def test_items_are_repeated_tiles() -> None:
    tiles = "".join(TILE.format(name, price) for name, price in (("a", 1), ("b", 2), ("c", 3)))
    item = listing(
        '<nav><a href="/men"><img src="/men.jpg">Men</a></nav><div class="filters"><a href="/shirts?colour=red">Red</a>'
        f'</div><div class="row">{tiles}</div><div class="row">{TILE.format("d", 4)}</div>'
        '<div class="teaser"><a href="/magazine"><img src="/m.jpg"></a></div><footer><a href="/imprint">I</a></footer>'
    )
    assert item["items"] == [f"https://shop.example/shirts/{name}" for name in "abcd"]
    assert item["field_sources"]["items"] == "heuristic"


def test_tile_url_is_the_link_of_its_image() -> None:
    tile = '<li><a href="/b/acme">Acme</a><a href="/p/{0}"><img src="/{0}.jpg"></a><a href="/b/acme">more</a> 5 €</li>'
    item = listing(f"<ul>{tile.format(1)}{tile.format(2)}</ul>")
    assert item["items"] == ["https://shop.example/p/1", "https://shop.example/p/2"]


def test_page_without_tiles_has_no_items() -> None:
    assert listing('<a href="/a">A</a><a href="/b">B</a><p>12 €</p><img src="/a.jpg">')["items"] == []


@pytest.mark.parametrize(
    ("url", "html", "next_page", "how"),
    [
        ("", '<link rel="next" href="?page=2"><a href="?page=9">Next</a>', "?page=2", "rel=next"),
        ("", '<a rel="nofollow NEXT" href="?p=2">2</a>', "?p=2", "rel=next"),
        ("", '<a href="/shirts/2">Nächste Seite ›</a>', "/shirts/2", "next link"),
        ("", '<a href="?p=2">次へ</a>', "?p=2", "next link"),
        ("", '<a href="?p=2" aria-label="Next page"><svg></svg></a>', "?p=2", "next link"),
        ("", '<div class="pager"><a href="?p=1">«</a><a href="?p=2">»</a></div>', "?p=2", "next link"),
        ("", '<i class="pages"><a class="next" href="?p=6">…</a><a class="next" href="?p=2"></a></i>', "?p=2", ""),
        ("", '<a href="#2">Next</a><a href="javascript:x()">Next</a>', None, None),
        ("", '<a href="https://other.example/">Next</a>', "https://other.example/", "next link"),
        ("?p=2", '<a class="disabled" href="?p=3">Next</a>', None, None),
        ("?p=2", '<li class="disabled"><a href="?p=3">Next</a></li>', None, None),
        ("?p=2", '<a href="?p=1">1</a><a href="?p=3">3</a><a href="?p=4">4</a>', "?p=3", "numbers"),
        ("?p=2", '<a href="?p=3&sort=price">3</a><a href="/other?p=3">3</a>', None, None),
        ("/page/2/", '<a href="/shirts/">1</a><a href="/shirts/page/3/">3</a>', "/shirts/page/3/", "numbers"),
        ("", '<p class="pager"><b class="active">1</b><a href="?from=24">2</a></p>', "?from=24", "numbers"),
        ("", '<a href="/shirts">Next</a>', None, None),
        ("", '<p>→ <a href="/magazine">→</a></p>', None, None),
    ],
)  # fmt: skip
def test_next_page(url: str, html: str, next_page: str | None, how: str | None) -> None:
    item = listing(html, f"https://shop.example/shirts{url}")
    assert item["next_page"] == (next_page and urljoin("https://shop.example/shirts", next_page))
    if how:
        assert item["field_sources"]["next_page"] == how


def test_sub_categories_are_links_below_the_page_path() -> None:
    html = TILE.format("a", 1) + '<a href="/shirts/linen/">Linen</a><a href="/shirts?x=1">X</a><a href="/skirts/">S</a>'
    assert listing(html)["sub_categories"] == ["https://shop.example/shirts/linen/"]


def test_comments_do_not_split_text() -> None:
    item = read(
        "<h1>Shirt</h1><p>SKU: <!-- -->AB-<!-- x -->4711</p><p>Sold<?pi?> out</p><p class='price'>$<!-- -->12.50</p>"
    )
    assert (item["sku"], item["availability"], item["price"]) == ("AB-4711", "OutOfStock", "12.50")
