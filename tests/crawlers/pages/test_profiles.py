"""YAML profiles: validation, error messages, and what their selectors read."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from web_poet import HttpResponse

from atlas_model.core.errors import InputError
from atlas_model.core.yaml_files import read_yaml
from crawlers.http.host_limits import BrowserProfile, HostProfile
from crawlers.pages import profile as profile_module
from crawlers.pages.generic import ListingPage
from crawlers.pages.profile import ShopProfile, load_profiles
from crawlers.pages.registry import kind_of
from crawlers.pages.saved import Kind, SavedPage, read_page
from crawlers.pages.selecting import matches_platform
from crawlers.pages.shops import PROFILES, shop_from, shop_of, shops_in

ORIGINAL = {  # the shops of the original project
    "www.amazon.in": "amazon",
    "www.flipkart.com": "flipkart",
    "www.bollywoodkart.com": "bollywoodkart",
    "www.craftsvilla.com": "craftsvilla",
    "www.indiaemporium.com": "indiaemporium",
    "www.indianclothstore.com": "indianclothstore",
    "indiarush.com": "indiarush",
    "www.mirraw.com": "mirraw",
    "www.snapdeal.com": "snapdeal",
    "www.utsavfashion.com": "utsavfashion",
    "www.voonik.com": "voonik",
    "www.zipker.com": "zipker",
    "www.myntra.com": "myntra",
}


def read(text: str, body: str | dict, kind: Kind, url: str = "https://shop.example/c/1") -> dict[str, Any]:
    """Read a page with the profile ``text``; returns the item as JSON values."""
    said = {"hosts": ["shop.example"]} | yaml.safe_load(text)
    content = body if isinstance(body, str) else json.dumps(body)
    response = HttpResponse(url, body=content.encode(), headers={"Content-Type": "text/html; charset=utf-8"})
    return read_page(kind, shop_from("shop", ShopProfile.model_validate(said)), response)


@pytest.mark.parametrize(("host", "name"), ORIGINAL.items())
def test_original_shops_have_profiles_marked_untested(host: str, name: str) -> None:
    assert shop_of(host).name == name
    assert "# Untested against the live site." in (PROFILES / f"{name}.yaml").read_text(encoding="utf-8")


def test_shipped_profiles_are_shops_or_platforms() -> None:
    profiles = load_profiles(PROFILES)
    platforms = {name for name, profile in profiles.items() if profile.detect}
    assert platforms == {
        "shopify", "woocommerce", "magento", "prestashop", "opencart3", "opencart4", "zencart", "abantecart",
        "cubecart", "evershop", "bigcommerce",
    }  # fmt: skip
    assert set(profiles) >= platforms | set(ORIGINAL.values()) | {"shop_c"}


@pytest.mark.parametrize(
    "platform", ["opencart3", "opencart4", "zencart", "abantecart", "cubecart", "evershop", "bigcommerce"]
)
def test_platform_page_matches_only_its_own_profile(platform: str) -> None:
    for kind in ("listing", "product"):
        page = SavedPage.load(Path(__file__).parent / f"saved/{platform}/{kind}.json")
        document = ListingPage(page.response).reading.document
        found = [
            name
            for name, one in load_profiles(PROFILES).items()
            if one.detect and matches_platform(one.detect, document)
        ]
        assert found == [platform]
        assert kind_of(shop_of("unknown.example"), page.response) == kind


def test_documented_example_is_a_valid_profile() -> None:
    example = (profile_module.__doc__ or "").partition("::\n")[2].partition("\n\nA selector")[0]
    profile = ShopProfile.model_validate(yaml.safe_load(textwrap.dedent(example)))
    assert profile.limits is not None
    assert profile.product.price[1].css == "span.price"


def test_reports_all_errors_of_a_profile_with_their_location(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(
        textwrap.dedent(
            r"""
            hosts: [Shop.Example]
            detect: body
            product_url: "("
            listing:
              items: ["a[", {jmespath: "a["}, {regex: x}]
              page_url: {template: "?page=", first: 0}
            product:
              colour: .colour
              details: {rows: tr}
              sku: {url: x, css: y}
            rewrite_image_urls: [{find: '_(s)', replace: '\2'}, {find: '(?P<a>b)|c', replace: '\g<a>'}]
            browser: {wait_for: 3, scroll: maybe}
            limits: {concurrency: 0}
            """
        )
    )
    with pytest.raises(InputError) as caught:
        load_profiles(tmp_path)
    text = str(caught.value)
    for fault in (
        "odd.yaml",
        "hosts.0: ",
        "product_url: expected a regular expression",
        "listing.items.0.css: expected a CSS selector",
        "listing.items.1.jmespath: expected a jmespath expression",
        "listing.items.2: expected css, jmespath or both, or url alone, or value alone",
        "listing.page_url.template: expected a URL with one {page} in it, as in \"?page={page}\"; got '?page='",
        "listing.page_url.first: ",
        "product.colour: unknown key",
        "product.details.0: expected rows with name and value, or lines",
        "product.sku.0: expected css, jmespath or both, or url alone, or value alone",
        "rewrite_image_urls.0: expected a replacement that names groups of find",
        "browser.wait_for: ",
        "browser.scroll: ",
        "limits.concurrency: ",
    ):
        assert fault in text
    assert len(text.splitlines()) == 15  # the file, and a line per error


@pytest.mark.parametrize(
    "text",
    ["hosts: [a.example]\ndetect: body", "note: nothing else", "[]", "hosts: [a.example", "!!python/object:x.y {}"],
)
def test_rejects_invalid_profiles(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=r"x\.yaml"):
        read_yaml(tmp_path / "x.yaml", ShopProfile)


def test_rejects_two_profiles_for_one_host(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("hosts: [shop.example]")
    with pytest.raises(InputError, match=r"b\.yaml: hosts: shop\.example is in a\.yaml already"):
        shops_in(tmp_path)


def test_profile_sets_limits_and_browser_of_the_shop() -> None:
    text = "{hosts: [a.example], product_url: /p/, limits: {delay_s: 3, max_pages: 7}, browser: {load_more: button}}"
    shop = shop_from("a", ShopProfile.model_validate(yaml.safe_load(text)))
    assert shop.pace == HostProfile(delay_s=3.0, concurrency=2, autothrottle=True)
    assert shop.browser == BrowserProfile(wait_for=None, load_more="button", max_clicks=0, scroll=False)
    assert shop.max_pages == 7
    assert shop.product_url is not None
    assert shop_from("b", ShopProfile(hosts=("b.example",))).pace is None


STATE = '<script id="state">window.S = {"product": {"name": "Shirt", "pictures": [{"u": "/1.jpg"}], "no": 7}};</script>'


@pytest.mark.parametrize(
    ("text", "body", "field", "value"),
    [
        ("product: {title: .t}", "<i class=t>A <b>B</b></i>", "name", "A B"),
        ("product: {title: [.missing, .empty, .t]}", "<i class=empty> </i><i class=t>A</i>", "name", "A"),
        ("product: {title: '.t::attr(title)'}", "<i class=t title=A>B</i>", "name", "A"),
        ("product: {title: {css: .t, regex: 'Name: (.*)'}}", "<i class=t>Name: A</i>", "name", "A"),
        ("product: {title: .t}", "<h1>From the heading</h1>", "name", "From the heading"),
        ("product: {price: .p}", "<i class=p>12 €</i>", "currency", "EUR"),
        ("product: {currency: '.c::attr(content)'}", "<i class=c content=chf>", "currency", "CHF"),
        ("product: {breadcrumb: .c a}", "<p class=c><a href=/>X</a><a href=/m>Men</a></p>", "breadcrumbs", ["Men"]),
        ("product: {images: .g img}", "<p class=g><img src=/1.jpg></p>", "images", ["https://shop.example/1.jpg"]),
        ("product: {images: .g a}", "<p class=g><a href=/2.jpg>x</a></p>", "images", ["https://shop.example/2.jpg"]),
        (
            "{product: {images: .g img}, rewrite_image_urls: [{find: _small, replace: ''}]}",
            "<p class=g><img src=/1_small.jpg><img src=/1.jpg></p>",
            "images",
            ["https://shop.example/1.jpg"],
        ),
        ("product: {sku: {url: '/(c)/'}}", "", "sku", "c"),
        (
            "product: {details: {rows: .r, name: b, value: i}}",
            "<p class=r><b>Fit:</b><i>Slim</i></p><p class=r><b>No value</b></p>",
            "additional_properties",
            {"Fit": "Slim"},
        ),
        ("product: {details: {lines: li}}", "<li>Fit: Slim: yes</li>", "additional_properties", {"Fit": "Slim: yes"}),
        (
            r"product: {title: {css: '#state', regex: 'S = (\{.*\});', jmespath: product.name}}",
            STATE,
            "name",
            "Shirt",
        ),
        (
            r"product: {images: {css: '#state', regex: 'S = (\{.*\});', jmespath: 'product.pictures[].u'}}",
            STATE,
            "images",
            ["https://shop.example/1.jpg"],
        ),
        ("product: {title: {css: '#state', jmespath: product.name}}", STATE, "name", None),  # no JSON as a whole
        ("product: {title: {jmespath: 'abs(name)'}}", {"name": "text"}, "name", None),  # jmespath's own fault
        ("product: {title: {jmespath: name}}", {"name": "A"}, "name", "A"),
        ("product: {title: {css: h1}}", {"name": "A"}, "name", None),
    ],
)
def test_product(text: str, body: str | dict, field: str, value: object) -> None:
    assert read(text, body, "product")[field] == value


def test_profile_overrides_structured_data_for_its_fields_only() -> None:
    data = {"@type": "Product", "name": "JSON", "sku": "J-1", "image": "/j.jpg", "offers": {"price": 3}}
    body = f'<script type="application/ld+json">{json.dumps(data)}</script><h1>Heading</h1>'
    item = read("product: {title: h1, price: .none}", body, "product")
    assert (item["name"], item["price"], item["sku"]) == ("Heading", "3.00", "J-1")
    found = {"name": "profile", "price": "json-ld", "sku": "json-ld", "images": "json-ld", "availability": "price"}
    assert item["field_sources"] == found


def test_constant_value_applies_to_every_page() -> None:
    item = read("product: {currency: {value: USD}}", "<h1>A</h1><p class=price>$ 5</p>", "product")
    assert (item["price"], item["currency"], item["field_sources"]["currency"]) == ("5.00", "USD", "profile")
    with pytest.raises(ValueError, match=r"a constant is written \{value: USD\}"):
        read("product: {currency: USD}", "", "product")


TILES = "<a class=t href=/p/1?x=1>1</a><a class=t href=/p/2>2</a><a class=t href=/about>x</a>"


@pytest.mark.parametrize(
    ("text", "body", "items"),
    [
        ("{listing: {items: .t}, product_url: /p/}", TILES, ["/p/1?x=1", "/p/2"]),
        ("product_url: /p/", TILES, ["/p/1?x=1", "/p/2"]),
        ("{product_url: /p/, rewrite_product_urls: [{find: '[?].*', replace: ''}]}", TILES, ["/p/1", "/p/2"]),
        ("listing: {items: {jmespath: 'found[].url'}}", {"found": [{"url": "/p/1"}, {"url": None}]}, ["/p/1"]),
        ("listing: {items: {jmespath: html, css: a}}", {"html": "<a href=/1>1</a><a href=/2>2</a>"}, ["/1", "/2"]),
        ("listing: {items: {jmespath: html, css: a}}", {"html": None}, []),
        ("listing: {items: {jmespath: found}}", "[broken json", []),
    ],
)  # fmt: skip
def test_items(text: str, body: str | dict, items: list[str]) -> None:
    assert read(text, body, "listing")["items"] == [f"https://shop.example{path}" for path in items]


PAGE = "<a class=t href=/p/1>1</a>"


@pytest.mark.parametrize(
    ("page_url", "url", "next_page"),
    [
        ('{template: "?page={page}"}', "/c/1", "/c/1?page=2"),
        ('{template: "?page={page}"}', "/c/1?sort=new&page=2", "/c/1?sort=new&page=3"),
        ('{template: "?start={page}", first: 24, step: 24}', "/c/1", "/c/1?start=24"),
        ('{template: "?start={page}", first: 24, step: 24}', "/c/1?start=24", "/c/1?start=48"),
        ('{template: "?page={page}&json=1"}', "/c/1", "/c/1?page=2&json=1"),
        ('{template: "?page={page}&json=1"}', "/c/1?page=2&json=1", "/c/1?page=3&json=1"),
        ('{template: "/api/list/{page}.json"}', "/c/1", "/api/list/2.json"),
        ('{template: "/api/list/{page}.json"}', "/api/list/2.json", "/api/list/3.json"),
        ('{template: "page/{page}/"}', "/c/1/", "/c/1/page/2/"),
        ('{template: "page/{page}/"}', "/c/1/page/2/", "/c/1/page/3/"),
    ],
)
def test_page_url_template_yields_the_next_page(page_url: str, url: str, next_page: str) -> None:
    text = f"listing: {{items: a.t, page_url: {page_url}}}"
    item = read(text, PAGE, "listing", f"https://shop.example{url}")
    assert item["next_page"] == f"https://shop.example{next_page}"
    assert read(text, "<p>no more</p>", "listing", f"https://shop.example{url}")["next_page"] is None


def test_next_page_from_json() -> None:
    text = "listing: {items: {jmespath: items}, next_page: [{jmespath: more}, a.next]}"
    assert (
        read(text, {"items": ["/p/1"], "more": "/api?after=p1"}, "listing")["next_page"]
        == "https://shop.example/api?after=p1"
    )
    assert read(text, {"items": ["/p/1"], "more": None}, "listing")["next_page"] is None
    assert read(text, f"{PAGE}<a class=next href=/x>", "listing")["next_page"] == "https://shop.example/x"
