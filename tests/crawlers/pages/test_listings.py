"""Selection of a listing's tiles, on small hand-written pages."""

from collections.abc import Iterable

import pytest
from web_poet import HttpResponse

from crawlers.pages.registry import kind_of
from crawlers.pages.saved import read_page
from crawlers.pages.shops import GENERIC

SHOP = "https://shop.example"


def listing(body: str, url: str = f"{SHOP}/index.php?route=list&cat=1", title: str = "Mice") -> dict:
    html = f"<html><head><title>{title}</title></head><body>{body}</body></html>".encode()
    headers = {"Content-Type": "text/html; charset=utf-8"}
    return read_page("listing", GENERIC, HttpResponse(url, body=html, headers=headers))


def item(number: int, category: int = 1) -> str:
    return f"/index.php?route=item&amp;cat={category}&amp;id={number}"


def tile(number: int, category: int = 1, tag: str = "div", names: str = "cell") -> str:
    url = item(number, category)
    image = f'<a href="{url}"><img src="/img/{number}.jpg"></a>'
    return f'<{tag} class="{names}">{image}<h4><a href="{url}">Item {number}</a></h4><p>$ {number}.50</p></{tag}>'


def tiles(numbers: Iterable[int], category: int = 1, **how: str) -> str:
    return "".join(tile(number, category, **how) for number in numbers)


def box(heading: str, numbers: Iterable[int], names: str = "box", inner: str = "promo") -> str:
    return f'<div class="{names}"><h3>{heading}</h3><div>{tiles(numbers, 9, names=inner)}</div></div>'


def urls(*numbers: int) -> list[str]:
    return [f"{SHOP}{item(number)}".replace("&amp;", "&") for number in numbers]


MANY = box("What's new", range(90, 94)) + box("Featured", range(94, 99))
OWN = tiles((1, 2))


@pytest.mark.parametrize(
    "body",
    [
        f'<div id="a">{MANY}</div><div id="b"><h1>Mice</h1><div>{OWN}</div></div><div id="c">{MANY}</div>',
        f'<div id="left">{MANY}</div><div id="b"><h1>Mice</h1><div>{OWN}</div>{MANY}</div>',
        f'<h1>Mice</h1><div class="cols"><div class="sidebar">{MANY}</div><div class="x"><div>{OWN}</div></div></div>',
        f"<main><h1>Mice</h1><div>{OWN}</div><h2>You may also like</h2><div>{tiles(range(90, 99), 9)}</div></main>",
        f"<main><h1>Mice</h1><section><div>{OWN}</div></section>"
        f"<section><h2>Das könnte dir gefallen</h2><div>{tiles(range(90, 99), 9)}</div></section></main>",
        f'<div class="slider"><div>{tiles(range(90, 99), 9)}</div></div><h1>Mice</h1><div><div>{OWN}</div></div>',
        f"<main><h1>Mice</h1><div>{OWN}</div><p>Showing 1 to 2 of 2 (1 pages)</p>"
        f"<div><b>Others chose</b><div>{tiles(range(90, 99), 9)}</div></div></main>",
        f"<table><tr><td>{MANY}</td><td><h2>Mice</h2><table><tr>{tiles((1, 2), tag='td')}</tr></table>"
        f"<p class='pages'>Page 1 of 1</p></td></tr></table>",
        f'<main><h1>Mice</h1><div class="grid">{OWN}</div><div class="featured">{tiles(range(90, 99), 9)}</div></main>',
        f"<main><h1>Mice</h1><div>{OWN.replace('$', '')}</div></main><div><h3>Angesagt</h3><div>{MANY}</div></div>",
        f"<div><div><h3>Tipps</h3><div>{MANY}</div></div><div><h2>Mice</h2><div>{OWN}</div></div></div>",
        f"<main><h1>Mice</h1><h2>Tipps</h2><div>{tiles(range(90, 99), 9)}</div>"
        f"<div><select name='sort'><option>Price</option></select></div><div>{OWN}</div></main>",
        f"<main><h1>Mice</h1><div>{OWN}</div><aside><div>{tiles(range(90, 99), 9)}</div></aside></main>",
    ],
    ids=[
        "columns",
        "left",
        "below",
        "headed",
        "section",
        "slider",
        "counted",
        "tables",
        "named",
        "no prices",
        "no h1",
        "toolbar",
        "aside",
    ],
)
def test_finds_a_short_listing_among_many_boxes(body: str) -> None:
    assert listing(body)["items"] == urls(1, 2)
    assert listing(body.replace('"promo"', '"cell"'))["items"] == urls(1, 2), "the boxes' tiles have the same classes"


@pytest.mark.parametrize("count", [1, 2, 3, 12, 40])
@pytest.mark.parametrize("boxes", [0, 1, 3])
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped"])
def test_finds_listings_of_any_length(count: int, boxes: int, wrapped: bool) -> None:
    left = "".join(box(f"Picks {number}", range(100 * number, 100 * number + 6)) for number in range(1, boxes + 1))
    grid = "".join(
        f"<div><div>{tile(number)}</div></div>" if wrapped else tile(number) for number in range(1, count + 1)
    )
    body = f'<div id="page"><div>{left}</div><div><h1>Mice</h1><div class="grid">{grid}</div></div></div>'
    assert listing(body)["items"] == urls(*range(1, count + 1))


LOGO = '<div class="top"><div class="x"><a href="/index.php?route={0}"><img src="/shop.png" alt="Shop"></a></div></div>'


@pytest.mark.parametrize("home", ["home", "common/home", "common/home&amp;language=en-gb", "index"])
@pytest.mark.parametrize(
    "page",
    [
        '<div id="page"><header><div class="container">{logo}</div></header><main><div class="container">'
        '<div class="content"><h1>Mice</h1><div class="grid">{own}</div></div></div></main></div>',
        '<div><div class="c">{logo}</div><div class="c"><div><h1>Mice</h1><div>{own}</div></div></div></div>',
        "<div><table><tr><td>{logo}</td></tr></table><table><tr><td><h1>Mice</h1><div>{own}</div></td></tr></table></div>",
    ],
)
def test_logo_and_wrappers_are_not_tiles(page: str, home: str) -> None:
    body = page.format(logo=LOGO.format(home), own=OWN)
    assert listing(body)["items"] == urls(1, 2)


@pytest.mark.parametrize(
    "margin",
    ["<header>{0}</header>", "<footer>{0}</footer>", '<div class="footer">{0}</div>', '<nav class="mega">{0}</nav>'],
)
def test_nested_header_and_footer_are_not_tiles(margin: str) -> None:
    products = f'<div class="x">{tiles(range(90, 99), 9)}</div>'
    body = (
        f'<div id="page"><div>{margin.format(products)}</div><div class="c"><h1>Mice</h1><div>{OWN}</div></div></div>'
    )
    assert listing(body)["items"] == urls(1, 2)


@pytest.mark.parametrize(
    "rows",
    [
        f'<div class="row">{tiles((1, 2))}</div><div class="row">{tiles((3, 4))}</div><div class="row">{tile(5)}</div>',
        "<table>" + "".join(f"<tr>{tiles(part, tag='td')}</tr>" for part in ((1, 2), (3, 4), (5,))) + "</table>",
        "".join(f'<div class="w"><div class="row">{tiles(part)}</div></div>' for part in ((1, 2), (3, 4), (5,))),
        tiles((1,), names="odd first") + tiles((2, 4), names="even") + tiles((3, 5), names="odd"),
        "".join(tile(number, names=f"product-{number} type-{number}") for number in range(1, 6)),
    ],
    ids=["rows", "table", "wrapped rows", "odd and even", "numbered"],
)
def test_joins_rows_of_tiles_into_one_listing(rows: str) -> None:
    body = f"<main><h1>Mice</h1><div class='x'>{rows}</div></main>{box('Specials', range(90, 99))}"
    assert sorted(listing(body)["items"]) == urls(1, 2, 3, 4, 5)


def test_joins_sections_with_headings_but_not_two_boxes() -> None:
    section = '<section class="part"><h2>{0}</h2><div class="grid">{1}</div></section>'
    parts = [section.format(f"Mice {n}", tiles((n, n + 1))) for n in (1, 3, 5)]
    promotion = section.format("Bestsellers", tiles(range(90, 94), 9))
    assert listing(f"<main><h1>Mice</h1>{''.join(parts)}{promotion}</main>")["items"] == urls(1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "body",
    [
        f"<main><h1>Mice</h1><p>There are no products in this category.</p></main>{box('Featured', range(90, 99))}",
        f"<main><h1>Mice</h1></main>{box('New products', range(90, 99))}",
        "<main><h1>Mice</h1><a href='/sale'><img src='/sale.jpg' alt='Sale now'></a></main>",
        "<main><h1>Mice</h1><div><a href='/a'><img src='/a.jpg'></a><a href='/b'><img src='/b.jpg'></a></div></main>",
    ],
    ids=["said", "boxes", "banner", "banners"],
)
def test_empty_category_has_no_items(body: str) -> None:
    assert listing(body)["items"] == []


def test_listing_headed_by_its_category_is_not_a_box() -> None:
    body = f"<div id='a'>{MANY}</div><div><h1>Specials</h1><div><h2>Specials</h2><div>{OWN}</div></div></div>"
    assert listing(body)["items"] == urls(1, 2)


def test_narrower_categories_are_not_items() -> None:
    narrower = "".join(
        f'<li class="c product"><a href="/mice/{name}/"><img src="/{name}.jpg"><h2>{name}</h2></a></li>'
        for name in "ab"
    )
    own = "".join(
        f'<li class="product"><a href="/p/{n}"><img src="/{n}.jpg"><h2>M{n}</h2></a><b>{n} €</b></li>'
        for n in (1, 2, 3)
    )
    for body in (f"<h1>Mice</h1><ul>{narrower}{own}</ul>", f"<h1>Mice</h1><ul>{narrower}</ul><ul>{own}</ul>"):
        found = listing(body, f"{SHOP}/mice/")
        assert found["items"] == [f"{SHOP}/p/{n}" for n in (1, 2, 3)]
        assert found["sub_categories"] == [f"{SHOP}/mice/a/", f"{SHOP}/mice/b/"]


def test_tile_may_also_link_to_colours_and_brand() -> None:
    def coloured(number: int) -> str:
        swatches = "".join(
            f'<a href="/p/{number}?colour={colour}"><img src="/{colour}.png"></a>' for colour in ("red", "blue")
        )
        brand = '<a href="/brands/acme">Acme</a>'
        image = f'<a href="/p/{number}"><img src="/{number}.jpg"></a>'
        return f'<li>{image}{brand}<a href="/p/{number}">Item {number}</a> {number} € <div>{swatches}</div></li>'

    body = f"<h1>Mice</h1><ul>{''.join(map(coloured, (1, 2, 3)))}</ul>"
    assert listing(body)["items"] == [f"{SHOP}/p/{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "row",
    [
        '<li><img src="/{0}.jpg"><a href="/p/{0}">Item {0}</a> <b>{0} €</b></li>',
        '<li><img src="/{0}.jpg"><h3><a href="/p/{0}">Item {0}</a></h3> <b>{0} €</b><button>Add to cart</button></li>',
        '<li><a href="/p/{0}">Item {0}</a> <b>{0} €</b></li>',
        '<li><a href="/p/{0}"><img src="/{0}.jpg"></a> {0} €</li>',
        '<dt><a href="/p/{0}"><img src="/{0}.jpg"></a></dt><dd><a href="/p/{0}">Item {0}</a> {0} €</dd>',
        '<li><a href="/p/{0}"><img data-src="/{0}.jpg" src="data:image/gif;base64,AA"><p>Item {0}</p></a></li>',
    ],
    ids=["picture without link", "button", "no picture", "no title", "definitions", "no price"],
)
def test_reads_several_tile_layouts(row: str) -> None:
    rows = "".join(row.format(number) for number in range(1, 5))
    menu = "".join(f'<li><a href="/c/{name}">{name}</a></li>' for name in "abcdefgh")
    body = f"<ul class='menu-like'>{menu}</ul><div><h1>Mice</h1><ul>{rows}</ul></div>"
    assert listing(body)["items"] == [f"{SHOP}/p/{n}" for n in range(1, 5)]


def test_excludes_boxes_with_structured_data() -> None:
    def said(number: int) -> str:
        name = f'<a itemprop="url" href="/p/{number}"><img src="/{number}.jpg"><i itemprop="name">Item {number}</i></a>'
        return f'<li itemscope itemtype="http://schema.org/Product">{name} <b>{number} €</b></li>'

    own, others = "".join(map(said, (1, 2))), "".join(map(said, range(90, 99)))
    item = listing(f"<h1>Mice</h1><ul>{own}</ul><div><h3>Best sellers</h3><ul>{others}</ul></div>")
    assert item["items"] == [f"{SHOP}/p/1", f"{SHOP}/p/2"]
    assert item["field_sources"]["items"] == "microdata"


BUY = '<form action="/cart"><button>Add to cart</button></form>'
KEYBOARD = f'<h1>Keyboard</h1><h2 class="price">$69.99</h2><div class="main-image"><img src="/img/25.jpg"></div>{BUY}'
RELATED = f'<h2>Related products</h2><div class="x">{tiles(range(90, 94), 9)}</div>'
GRAPH = '{"@type": "Product", "name": "Keyboard", "offers": {"price": 69.99, "priceCurrency": "USD"}}'
SAID = f'<script type="application/ld+json">{GRAPH}</script>'


@pytest.mark.parametrize(
    "body",
    [
        f"<main>{KEYBOARD}</main>",
        f"<main>{KEYBOARD}{RELATED}</main>",
        f"<header>{tiles(range(90, 92), 9)}</header><main>{KEYBOARD}</main><div>{MANY}</div>",
        f"<main>{SAID}<h1>Keyboard</h1><p class='price'>$69.99</p><img src='/25.jpg'>{RELATED}</main>",
        f"<div id='left'>{MANY}</div><div id='center'>{KEYBOARD}<p>Product code: K-1</p>"
        f"<a rel='next' href='/p/26'>Next</a></div>",
    ],
    ids=["bare", "related", "boxes", "graph", "columns"],
)
def test_category_redirected_to_its_only_product_yields_that_product(body: str) -> None:
    item = listing(body, f"{SHOP}/p/25", "Keyboard")
    assert (item["items"], item["next_page"], item["sub_categories"]) == ([f"{SHOP}/p/25"], None, [])
    assert item["field_sources"] == {"items": "product page"}


@pytest.mark.parametrize(
    "body",
    [
        f"<main><h1>Mice</h1><div>{tile(1).replace('</p>', '</p><button>Add to cart</button>')}</div></main>",
        f"<main><h1>Mice</h1>{SAID.replace('Keyboard', 'Mice')}<div>{tiles((1,))}</div></main>",
        "<main><h1>Mice</h1><p>Free delivery over $ 50</p><div>"
        + "".join(tile(n).replace("</p>", "</p><button>Add to cart</button>") for n in (1,))
        + "</div></main>",
    ],
)
def test_category_with_one_product_is_a_listing(body: str) -> None:
    assert listing(body)["items"] == urls(1)


def test_unavailable_product_is_recognised_by_its_number_in_the_url() -> None:
    others = "".join(
        f'<div class="cell"><a href="/p/{n}"><img src="/{n}.jpg">Vase</a><b>{n} €</b></div>' for n in range(100, 108)
    )
    html = f"<h1>Vase</h1><p>Currently unavailable</p>{{}}<div class='tiles'>{others}</div>"
    number = html.format("<table><tr><td>Item no.</td><td>B0756B4GVG</td></tr></table>")
    url = "https://shop.example/dp/B0756B4GVG"
    assert kind_of(GENERIC, HttpResponse(url, body=number.encode())) == "product"
    assert kind_of(GENERIC, HttpResponse(url, body=html.format("").encode())) == "listing"
