"""JSON-LD parsing, and selection among offers and prices."""

import json
from decimal import Decimal
from typing import Any

import pytest
from web_poet import HttpResponse

from crawlers.pages.saved import read_page
from crawlers.pages.shops import GENERIC
from crawlers.pages.text.values import parse_amount, structured_amount

URL = "https://shop.example/p/bag"
BAG = {"@type": "Product", "name": "Bag", "sku": "B-1", "image": "https://cdn.example/bag.jpg"}
OFFER = {"@type": "Offer", "price": "29.99", "priceCurrency": "EUR"}
BODY = "<main><h1>Bag</h1></main>"


def read(data: Any, kind: str = "application/ld+json", body: str = BODY) -> dict[str, Any]:
    text = data if isinstance(data, str) else json.dumps(data)
    return shown(f"<script type='{kind}'>{text}</script>{body}")


def shown(body: str, url: str = URL, head: str = "") -> dict[str, Any]:
    html = f"<html><head><title>Bag</title>{head}</head><body>{body}</body></html>"
    return read_page("product", GENERIC, HttpResponse(url, body=html.encode(), headers={"Content-Type": "text/html"}))


@pytest.mark.parametrize("kind", ["application/ld+json; charset=utf-8", "Application/LD+JSON", " application/ld+json "])
def test_script_type_ignores_parameters_and_case(kind: str) -> None:
    assert read({**BAG, "offers": OFFER}, kind)["price"] == "29.99"


TEXT = json.dumps({**BAG, "offers": OFFER})


@pytest.mark.parametrize(
    "text",
    [
        TEXT + ";",
        f"/* made by */ {TEXT}",
        f"// made by\n{TEXT}",
        TEXT[:-1] + ', // note\n"x": 1,\n}',
        TEXT.replace("Bag", "Bag", 1) + "\n" + json.dumps({"@type": "WebSite"}),
        TEXT.replace('"', "&quot;"),
        TEXT.replace('"B-1"', '"B-1", "note": "it\\\'s <!-- a --> // bag, ]"')[:-1] + ",}",
        f"[[{TEXT}]]",
        json.dumps({"@type": "WebPage", "mainEntity": json.loads(TEXT)}),
        json.dumps({"@type": "ItemPage", "about": json.loads(TEXT)}),
        TEXT.replace('"Product"', '"http://schema.org/Product"'),
        TEXT.replace('"Product"', '["schema:product", 7, null]'),
        TEXT.replace('"Bag"', '{"@value": "Bag", "@language": "en"}'),
    ],
)
def test_parses_malformed_json_ld_that_browsers_accept(text: str) -> None:
    item = read(text)
    assert (item["name"], item["sku"], item["price"], item["unreadable"]) == ("Bag", "B-1", "29.99", 0)


@pytest.mark.parametrize("text", ['{"@type": "Product", "name": "5" heel"}', "{", "var x = {};", "<b>"])
def test_counts_unparsable_scripts(text: str) -> None:
    item = read(text)
    assert (item["name"], item["unreadable"]) == ("Bag", 1)
    assert item["field_sources"] == {"name": "heuristic"}


def test_resolves_repeatedly_escaped_entities() -> None:
    assert read({**BAG, "name": "Bag &amp;amp; belt"})["name"] == "Bag & belt"


def test_resolves_references_by_id() -> None:
    graph = [
        {**BAG, "image": [{"@id": "#primary"}], "offers": {"@id": f"{URL}#offer"}, "brand": {"@id": "#brand"}},
        {"@type": "ImageObject", "@id": f"{URL}#primary", "url": "https://cdn.example/large.jpg"},
        {"@type": "Offer", "@id": "#offer", "price": 5, "priceCurrency": "EUR", "seller": {"@id": "#brand"}},
        {"@type": "Brand", "@id": "#brand", "name": "Acme", "owns": {"@id": "#offer"}},
    ]
    item = read({"@graph": graph})
    assert (item["images"], item["price"], item["brand"]) == (["https://cdn.example/large.jpg"], "5.00", "Acme")


def test_circular_references_terminate() -> None:
    image = {"@type": "ImageObject", "@id": "#i", "url": {"@id": "#i"}, "x": 1}
    assert read({"@graph": [{**BAG, "image": {"@id": "#i"}}, image]})["images"] == []


@pytest.mark.parametrize(
    ("offers", "price"),
    [
        ([{"@type": "DeliveryChargeSpecification", "price": 4.99}, {"price": 29.99}], "29.99"),
        ([{"price": 3.99, "referenceQuantity": {"value": 100, "unitCode": "GRM"}}, {"price": 29.99}], "29.99"),
        ([{"price": 29.99, "referenceQuantity": {"value": 1, "unitCode": "C62"}}], "29.99"),
        ([{"price": 25, "validForMemberTier": {"name": "Gold"}}, {"price": 29.99}], "29.99"),
        ([{"price": 20, "eligibleQuantity": {"minValue": 10}}, {"price": 29.99}], "29.99"),
        ([{"price": 59, "priceType": "https://schema.org/StrikethroughPrice"}, {"price": 29.99}], "29.99"),
        ([{"@type": "DeliveryChargeSpecification", "price": 4.99}], None),
    ],
)
def test_ignores_prices_that_are_not_for_one_piece(offers: Any, price: str | None) -> None:
    assert read({**BAG, "offers": {"priceCurrency": "EUR", "priceSpecification": offers}})["price"] == price


IN, OUT = "https://schema.org/InStock", "http://schema.org/OutOfStock"


@pytest.mark.parametrize(
    "offers",
    [
        [{"price": 20, "availability": OUT}, {"price": 29.99, "availability": IN}],
        [{"price": 20, "itemCondition": "https://schema.org/UsedCondition"}, {"price": 29.99}],
        [{"price": 20, "url": f"{URL}?variant=1"}, {"price": 29.99, "url": URL}],
        [{"price": 20, "businessFunction": "http://purl.org/goodrelations/v1#LeaseOut"}, {"price": 29.99}],
    ],
)
def test_prefers_the_offer_for_sale(offers: Any) -> None:
    item = read({**BAG, "offers": offers})
    assert (item["price"], item["availability"]) == ("29.99", "InStock")


def test_product_is_in_stock_if_any_size_is() -> None:
    sizes = [{**BAG, "sku": f"B-{n}", "offers": {"price": 5, "availability": IN if n == 2 else OUT}} for n in range(4)]
    assert read(sizes)["availability"] == "InStock"


@pytest.mark.parametrize(
    ("value", "currency", "amount"),
    [
        ("1.299", "EUR", "1299.00"),
        ("1.299.000", "IDR", "1299000.00"),
        ("12.990", "KWD", "12.99"),
        ("1.299,00", "EUR", "1299.00"),
        ("1,299", "INR", "1299.00"),
        ("1299.0000", None, "1299.00"),
        ("0.500", "EUR", "0.50"),
        (1.299, "EUR", "1.30"),
    ],
)
def test_point_before_three_digits_depends_on_the_currency(value: Any, currency: str | None, amount: str) -> None:
    assert structured_amount(value, currency) == Decimal(amount)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1.299 €", "1299.00"),
        (",89 €", "0.89"),
        ("0,500 €", "0.50"),
        ("2 for $30", None),
        ("3 x 29,90 €", None),
        ("3x100g 5 €", "3.00"),
        ("30,000원~", "30000.00"),
    ],
)
def test_parses_amounts_in_text(text: str, amount: str | None) -> None:
    assert parse_amount(text) == (None if amount is None else Decimal(amount))


@pytest.mark.parametrize(
    ("html", "price"),
    [
        ("<ul><li><span style='text-decoration:line-through'>$12</span></li><li><h2>$9</h2></li></ul>", "9.00"),
        ("<p>Ex Tax: $7</p><p><b>$9.50</b></p><p>10 or more $8</p>", "9.50"),
        ("<p>9 <span>€</span></p>", "9.00"),
        ("<p><i>€</i><b>9,90</b></p>", "9.90"),
        ("<p class='price'><span class='price-old-live'>9.00€</span></p><p class='price-tax'>7.00€</p>", "9.00"),
        ("<p class='price-old'>9 €</p><p class='price-new'>7 €</p>", "7.00"),
        ("<p class='price shipping-price'>4 €</p>", None),
        ("<p style='display:none' class='price'>4 €</p><p class='price'>5 €</p>", "5.00"),
        ("<p class='price'>8 colours from 7 sellers at 12 €, 3 for 4</p><p><b>€ 9</b></p>", "9.00"),
        ("<p>since 1999</p>", None),
    ],
)
def test_reads_visible_price_without_structured_data(html: str, price: str | None) -> None:
    box = "<div class='c'><a href='/p/2'><img src='/2.jpg'></a><span class='price'>2 €</span></div>"
    item = shown(
        f"<div class='note'><span class='price-note'>Free delivery over 50 €</span></div><main><h1>Bag</h1>{html}"
        f"</main><div class='boxes'>{box}{box}</div>"
    )
    assert item["price"] == price


def test_structured_price_counts_unless_shown_struck_through() -> None:
    data = {**BAG, "offers": {"price": 20, "priceCurrency": "EUR"}}
    now = "<div class='price-box'><span class='original-price'>€ 20</span><span class='current-price'>€ 11</span></div>"
    item = read(data, body=f"<main><h1>Bag</h1>{now}</main>")
    assert (item["price"], item["field_sources"]["price"]) == ("11.00", "heuristic")
    other = "<div class='price-box'><span class='old-price'>€ 30</span><span class='current-price'>€ 11</span></div>"
    assert read(data, body=f"<main><h1>Bag</h1>{other}</main>")["price"] == "20.00"


def test_product_box_does_not_supply_fields() -> None:
    others = [{"@type": "Product", "name": f"Hat {n}", "sku": f"H-{n}", "offers": {"price": n}} for n in (1, 2)]
    item = read(others)
    assert (item["name"], item["sku"], item["price"]) == ("Bag", None, None)
