"""Structured data with several sources, products or malformed values."""

import json
from typing import Any

import pytest
from web_poet import HttpResponse

from crawlers.pages.saved import Kind, read_page
from crawlers.pages.shops import GENERIC

URL = "https://shop.example/p/1"


def read(*nodes: Any, body: str = "", kind: Kind = "product", url: str = URL) -> dict[str, Any]:
    scripts = "".join(f'<script type="application/ld+json">{json.dumps(node)}</script>' for node in nodes)
    response = HttpResponse(url, body=f"<html><body>{scripts}{body}</body></html>".encode())
    return read_page(kind, GENERIC, response)


def product(**fields: Any) -> dict[str, Any]:
    return {"@type": "Product"} | fields


def test_missing_fields_are_not_taken_from_other_products() -> None:
    other = product(name="Other", url="https://shop.example/p/2", sku="2", offers={"price": 2})
    item = read(
        other, product(name="Own", url=URL, brand="B"), product(name="Own", sku="1"), product(offers={"price": 1})
    )
    assert (item["name"], item["sku"], item["price"]) == ("Own", "1", "1.00")


def test_longest_breadcrumb_list_is_used() -> None:
    def trail(*names: str) -> dict[str, Any]:
        entries = [{"position": place, "name": name, "item": f"/{name}"} for place, name in enumerate(names)]
        return {"@type": "BreadcrumbList", "itemListElement": entries}

    assert read(trail("Sale"), trail("Men", "Shirts"), trail("New"))["breadcrumbs"] == ["Men", "Shirts"]


def test_ignores_placeholder_images_from_any_source() -> None:
    item = read(
        product(name="A", image="/media/no-image-2048.png"), body="<h1>A</h1><div class=gallery><img src=/1.jpg>"
    )
    assert item["images"] == ["https://shop.example/1.jpg"]
    assert item["field_sources"]["images"] == "heuristic"


def test_price_of_zero_is_none() -> None:
    item = read(product(name="A", offers={"price": 0, "priceCurrency": "EUR"}), body="<h1>A</h1><b class=price>7 €</b>")
    assert item["price"] == "7.00"


@pytest.mark.parametrize(
    ("offers", "price"),
    [
        ({"@type": "AggregateOffer", "lowPrice": "5", "highPrice": "9"}, "5.00"),
        ([{"price": "5.00"}, {"price": "6.00"}], "5.00"),
        ({"priceSpecification": [{"price": 9, "priceType": "https://schema.org/ListPrice"}, {"price": 5}]}, "5.00"),
        ({"offers": {"offers": {"price": "5"}}}, "5.00"),
        ({"price": {"deep": []}}, None),
    ],
)
def test_offers(offers: Any, price: str | None) -> None:
    assert read(product(name="A", offers=offers))["price"] == price


@pytest.mark.parametrize(
    "script",
    [
        '{"@type": "Product", "name": "A",}',
        '<!-- {"@type": "Product", "name": "A"} -->',
        '//<![CDATA[\n{"@type": "Product", "name": "A"}\n//]]>',
        '{"@type": "Product", "name": "A", "description": "two\nlines"}',
    ],
)
def test_parses_json_ld_with_common_errors(script: str) -> None:
    body = f'<script type="application/ld+json">{script}</script>'
    assert read(body=body)["name"] == "A"


def test_microdata_nests_and_reads_element_values() -> None:
    item = read(
        body='<div itemscope itemtype="https://schema.org/Product"><b itemprop="name">A</b>'
        '<a itemprop="url" href="/p/1">x</a><data itemprop="sku" value="S-1">one</data>'
        '<img itemprop="image" src="/1.jpg"><link itemprop="image" href="/2.jpg">'
        '<div itemprop="brand" itemscope><meta itemprop="name" content="B"></div>'
        '<div itemprop="offers" itemscope><b itemprop="price" content="1299.00">1.299,-</b></div></div>'
        '<div itemscope itemtype="https://schema.org/Product"><b itemprop="name">Related</b></div>'
    )
    assert (item["name"], item["sku"], item["price"]) == ("A", "S-1", "1299.00")
    assert item["images"] == ["https://shop.example/1.jpg", "https://shop.example/2.jpg"]
    assert item["additional_properties"] == {"brand": "B"}
    assert item["field_sources"].pop("availability") == "price"
    assert set(item["field_sources"].values()) == {"microdata"}


def test_category_marked_up_as_product_is_not_an_item_on_page_two() -> None:
    tiles = "".join(f'<li><a href="/p/{n}"><img src="/{n}.jpg"></a> 5 €</li>' for n in range(3))
    category = product(name="Shirts", url="https://shop.example/c", aggregateRating={"ratingValue": 4})
    item = read(category, body=f"<ul>{tiles}</ul>", kind="listing", url="https://shop.example/c?page=2")
    assert item["items"] == [f"https://shop.example/p/{n}" for n in range(3)]


def test_accepts_extreme_numbers() -> None:
    crumbs = [{"position": 10**400, "name": "Men"}, {"position": 1, "name": "Shirts"}]
    assert read({"@type": "BreadcrumbList", "itemListElement": crumbs})["breadcrumbs"] == ["Men", "Shirts"]
    pager = f'<ul class="pagination"><li class="active">{"1" * 5000}</li><li><a href="/c?page=2">2</a></li></ul>'
    item = read(body=pager, kind="listing", url="https://shop.example/c")
    assert item["next_page"] == "https://shop.example/c?page=2"


def test_open_graph_is_the_last_source_and_omits_the_shop_name() -> None:
    head = '<meta property="og:title" content="Shirt - The Shop"><meta property="product:price:amount" content="9">'
    item = read(body=f"{head}<h1>Shirt</h1><p class=price>8 €</p>")
    assert (item["name"], item["price"]) == ("Shirt", "9.00")
    found = {"name": "heuristic", "price": "opengraph", "currency": "heuristic", "availability": "price"}
    assert item["field_sources"] == found
