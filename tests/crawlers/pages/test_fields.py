"""Readers of product numbers, brand, availability and currency."""

import json
from typing import Any

import pytest
from web_poet import HttpResponse

from crawlers.pages.saved import read_page
from crawlers.pages.shops import GENERIC
from crawlers.pages.structured_data.stock import stock_of
from crawlers.pages.text.numbers import clean_gtin, clean_mpn, clean_sku

URL = "https://shop.example/p/lamp"


def read(body: str, url: str = URL, head: str = "", lang: str = "") -> dict[str, Any]:
    content = f"<body><main><h1>Lamp</h1>{body}</main></body>"
    html = f"<html lang='{lang}'><head><title>Lamp</title>{head}</head>{content}</html>"
    headers = {"Content-Type": "text/html; charset=utf-8"}
    return read_page("product", GENERIC, HttpResponse(url, body=html.encode(), headers=headers))


def said(**fields: Any) -> str:
    data = {"@type": "Product", "name": "Lamp"} | fields
    return f"<script type='application/ld+json'>{json.dumps(data)}</script>"


@pytest.mark.parametrize(
    ("value", "sku"),
    [
        ("DL-15", "DL-15"),
        ("SKU: DL-15", "DL-15"),
        (4711, "4711"),
        (4711.0, "4711"),
        ("466/7999", "466/7999"),
        ("TE502955-12 Chair cover, grey", "TE502955-12"),
        ("OPTIPLEX 9010 TOWER", None),
        ("Desk lamp", None),
        ("N/A", None),
        ("undefined", None),
        ("000", None),
        ("-1", None),
        ("5,95 EUR", None),
        ("$12", None),
        (True, None),
        (["x"], None),
    ],
)
def test_sku_rejects_placeholders_names_and_prices(value: Any, sku: str | None) -> None:
    assert clean_sku(value) == sku


@pytest.mark.parametrize(
    ("value", "gtin"),
    [
        ("4006381333931", "4006381333931"),
        ("400-6381333931", "4006381333931"),
        ("isbn:978-0-306-40615-7", "9780306406157"),
        ("0-306-40615-2", "9780306406157"),
        ("036000291452", "036000291452"),
        ("4006381333932", None),
        ("0000000000000", None),
        ("123", None),
        (None, None),
    ],
)
def test_gtin_requires_valid_length_and_check_digit(value: Any, gtin: str | None) -> None:
    assert clean_gtin(value) == gtin


def test_mpn_may_contain_words() -> None:
    assert clean_mpn("OPTIPLEX 9010 TOWER") == "OPTIPLEX 9010 TOWER"
    assert clean_mpn("Desk lamp") is None


@pytest.mark.parametrize(
    ("html", "sku", "source"),
    [
        ("<ul><li>Product Code: DL-15</li></ul>", "DL-15", "heuristic"),
        ("<p><strong>Šifra:</strong> 0638</p>", "0638", "heuristic"),
        ("<dl><dt>Art.-Nr.</dt><dd>A 15</dd></dl>", "A 15", "heuristic"),
        ("<p><b><i>SKU</i></b>:<span> 4711</span></p>", "4711", "heuristic"),
        ("<p>〈商品編號：M67296549〉</p>", "M67296549", "heuristic"),
        ("<p><span class='product-reference'>1002/710</span></p>", "1002/710", "heuristic"),
        ("<p><span data-qa-id='product-reference'>1002/710</span></p>", "1002/710", "heuristic"),
        ("<table><tr><th>SKU</th><td></td></tr><tr><th>Model</th><td>M-9</td></tr></table>", None, None),
        ("<p>Style number: STYLE7</p>", None, None),
        ("<aside><p>SKU: 99</p></aside>", None, None),
        (said(sku="J-1") + "<p>Product code: 141677</p>", "141677", "heuristic"),
        (said(sku="466-7999") + "<p>Product code: 466/7999</p>", "466/7999", "json-ld"),
        (said(mpn="STYLE7"), None, None),
        (said(sku=" ", productID="P-1"), "P-1", "json-ld"),
        (said(sku="Lamp of the year"), None, None),
        (said(sku="4006381333931"), "4006381333931", "json-ld"),
    ],
)
def test_sku_prefers_visible_text(html: str, sku: str | None, source: str | None) -> None:
    item = read(html)
    assert (item["sku"], item["field_sources"].get("sku")) == (sku, source)


@pytest.mark.parametrize(
    ("url", "html", "sku"),
    [
        ("https://shop.example/p/lamp-48211.html", "<a data-product-id='48211'>x</a>", "48211"),
        ("https://shop.example/lamp?pid=260591", "<script>push({pid: '260591'})</script>", "260591"),
        ("https://shop.example/dp/B0756B4GVG", "<input name=asin value=x data-asin='B0756B4GVG'>", "B0756B4GVG"),
        ("https://shop.example/item/123808916008", "", "123808916008"),
        ("https://shop.example/p/lamp-48211.html", "<p>48211</p>", None),
        ("https://shop.example/lamps-2021", "<script>x = {id: '2021'}</script>", None),
    ],
)
def test_sku_from_url_requires_use_on_the_page(url: str, html: str, sku: str | None) -> None:
    item = read(html, url)
    assert item["sku"] == sku
    assert sku is None or item["field_sources"]["sku"] == "url"


def test_reads_brand_and_numbers_from_structured_data_and_labels() -> None:
    item = read(said(brand={"name": "Acme"}, gtin13="4006381333931", mpn="M-9", sku="1"))
    assert (item["brand"], item["gtin"], item["mpn"]) == ("Acme", "4006381333931", "M-9")
    rows = "<tr><td>EAN</td><td>4006381333931</td></tr><tr><td>Model</td><td>M-9</td></tr>"
    item = read(f"<p>Marke: Acme</p><table>{rows}</table>")
    assert (item["brand"], item["gtin"], item["mpn"]) == ("Acme", "4006381333931", "M-9")
    assert read(said(brand="N/A", gtin="4006381333932", mpn="-"))["brand"] is None


@pytest.mark.parametrize(
    ("value", "stock"),
    [
        ("https://schema.org/InStock", "InStock"),
        ("in stock", "InStock"),
        ("http://schema.org/LimitedAvailability", "InStock"),
        ("oos", "OutOfStock"),
        ("Discontinued", "OutOfStock"),
        ("https://schema.org/PreOrder", "PreOrder"),
        ("BackOrder", "PreOrder"),
        ("http://schema.org/", None),
        ({"a": 1}, None),
        (7, None),
    ],
)
def test_availability_from_structured_data(value: Any, stock: str | None) -> None:
    assert stock_of(value) == stock


PRICE = "<p class='price'>5 €</p>"


@pytest.mark.parametrize(
    ("html", "stock", "source"),
    [
        (f"{PRICE}<p>Availability: Out of stock</p><button>Add to cart</button>", "OutOfStock", "heuristic"),
        (f"{PRICE}<p class='stock'>Ausverkauft</p>", "OutOfStock", "heuristic"),
        (f"{PRICE}<p>Auf Lager</p>", "InStock", "heuristic"),
        (f"{PRICE}<button class='add-to-cart'>Ajouter au panier</button>", "InStock", "heuristic"),
        (f"{PRICE}<button disabled>Add to cart</button>", "InStock", "price"),
        (f"{PRICE}<button>Pre-order now</button>", "PreOrder", "heuristic"),
        (f"{PRICE}<select><option>XL, out of stock</option><option>Sold out</option></select>", "InStock", "price"),
        (PRICE, "InStock", "price"),
        ("<p>Nothing is said</p>", None, None),
        ("<a href='/p/2'><img src='/2.jpg'></a><p class='related'>In stock</p>", None, None),
    ],
)
def test_availability_from_visible_text(html: str, stock: str | None, source: str | None) -> None:
    item = read(html)
    assert (item["availability"], item["field_sources"].get("availability")) == (stock, source)


def test_sold_out_size_does_not_make_the_product_sold_out() -> None:
    data = said(offers={"price": 5, "availability": "OutOfStock"})
    assert read(data)["availability"] == "OutOfStock"
    assert read(data + "<button>Add to your basket</button><button>Add to basket</button>")["availability"] == "InStock"
    assert read(data + "<p class='stock'>Sold out</p><button>Add to basket</button>")["availability"] == "OutOfStock"


@pytest.mark.parametrize(
    ("url", "lang", "head", "price", "currency", "told"),
    [
        (URL, "en-US", "", "$ 5", "USD", "language"),
        (URL, "en-CA", "", "$ 5", "CAD", "language"),
        (URL, "en", "", "$ 5", None, None),
        ("https://shop.com.ar/p", "es", "", "$ 5.000", "ARS", "domain"),
        ("https://shop.cl/p", "en-US", "", "$ 5.000", "CLP", "domain"),
        ("https://shop.se/p", "", "", "50 kr", "SEK", "domain"),
        (URL, "nb", "", "50 kr", "NOK", "language"),
        ("https://shop.pk/p", "", "", "₨ 50", "PKR", "domain"),
        (URL, "en-US", "<script>var x = {currencyCode: 'AUD'}</script>", "$ 5", "AUD", "page"),
        (URL, "en-US", "<script>x = {currency: 'EUR'}</script>", "$ 5", "USD", "language"),
        (URL, "en-US", "<script>[{currency: 'AUD'}, {currency: 'NZD'}]</script>", "$ 5", "USD", "language"),
        (URL, "en-US", "", "5 €", "EUR", None),
    ],
)  # fmt: skip
def test_ambiguous_currency_symbol_uses_the_country_of_the_page(
    url: str, lang: str, head: str, price: str, currency: str | None, told: str | None
) -> None:
    item = read(f"<p class='price'>{price}</p>", url, head, lang)
    assert item["currency"] == currency
    assert item["field_sources"].get("currency") == (
        currency and ("heuristic" if told is None else f"heuristic+{told}")
    )


def test_currency_from_the_currency_selection_form() -> None:
    form = "<form id='form-currency'><input type='hidden' name='code' value='USD'></form>"
    assert read(f"{form}<p class='price'>$ 5</p>")["currency"] == "USD"


def test_heading_prefers_visible_text_in_the_title() -> None:
    headings = "<h1>Adding to basket...</h1><h1>Desk lamp</h1>"
    html = f"<html><head><title>Desk lamp | Shop</title></head><body>{headings}</body></html>"
    assert read_page("product", GENERIC, HttpResponse(URL, body=html.encode()))["name"] == "Desk lamp"
