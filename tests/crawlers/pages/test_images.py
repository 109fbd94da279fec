"""Selection of a product's images and of the largest version of each."""

import json
from typing import Any

import pytest
from web_poet import HttpResponse

from crawlers.pages.fields.images import candidates, image_key, width_of
from crawlers.pages.saved import read_page
from crawlers.pages.shops import GENERIC

URL = "https://shop.example/p/vase"


def read(gallery: str, images: Any = None, og: str = "") -> dict[str, Any]:
    data = {"@type": "Product", "name": "Vase", "image": images}
    head = f"<meta property='og:image' content='{og}'>" if og else ""
    html = (
        f"<html><head>{head}<script type='application/ld+json'>{json.dumps(data)}</script></head>"
        f"<body><main><h1>Vase</h1><div class='product-gallery'>{gallery}</div></main></body></html>"
    )
    return read_page("product", GENERIC, HttpResponse(URL, body=html.encode()))


@pytest.mark.parametrize(
    ("srcset", "found"),
    [
        ("/a.jpg 1x,/b.jpg 2x", [("/a.jpg", 1), ("/b.jpg", 2)]),
        ("a.jpg, b.jpg 1.5x", [("a.jpg", 1), ("b.jpg", 1.5)]),
        ("\n a.jpg\t300w 200h ,\f b.jpg 600w\n", [("a.jpg", 300), ("b.jpg", 600)]),
        ("/w_1,h_1/a.jpg 100w, /w_2,h_2/a.jpg 200w", [("/w_1,h_1/a.jpg", 100), ("/w_2,h_2/a.jpg", 200)]),
        ("a.jpg,", [("a.jpg", 1)]),
        (",a.jpg", [("a.jpg", 1)]),
        ("a.jpg (x, y) 2x, b.jpg", [("a.jpg", 2), ("b.jpg", 1)]),
        ("a.jpg 2e2x", [("a.jpg", 200)]),
        ("data:image/gif;base64,AA 1w, b.jpg 2w", [("data:image/gif;base64,AA", 1), ("b.jpg", 2)]),
        ("", []),
    ],
)
def test_parses_valid_srcset_variants(srcset: str, found: list[tuple[str, float]]) -> None:
    assert candidates(srcset) == found


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("/images/resized/a_280x280.jpg", "/images/a.jpg"),
        ("/1/a.250.250.png?c=2", "/1/a.1280.1280.png?c=2"),
        ("/thumbs/a.jpg", "/a.jpg"),
        ("/thumb_a.jpg", "/a.jpg"),
        ("/I/81x._SX300_.jpg", "/I/81x._SL1500_.jpg"),
        ("/w_100,c_fit/a.jpg", "/w_1000,c_fit/a.jpg"),
        ("/img?u=a&w=90", "/img?u=a&w=800"),
        ("http://shop.example/a-100x100.jpg", "https://shop.example/a.jpg"),
    ],
)
def test_versions_of_an_image_share_a_key_and_differ_in_width(small: str, large: str) -> None:
    assert image_key(small) == image_key(large)
    assert width_of(small) < width_of(large)


def test_gallery_is_used_despite_a_small_structured_image() -> None:
    gallery = "".join(f"<a href='/{n}.1280.1280.jpg'><img src='/{n}.60.60.jpg'></a>" for n in "abc")
    large = [f"https://shop.example/{n}.1280.1280.jpg" for n in "abc"]
    for said in ({"og": "/a.250.250.jpg"}, {"images": "/a.250.250.jpg"}, {"images": "/c.9.9.jpg", "og": "/b.9.9.jpg"}):
        item = read(gallery, **said)
        assert (item["images"], item["field_sources"]["images"]) == (large, "heuristic")


def test_large_structured_image_replaces_the_gallery_version() -> None:
    item = read("<img src='/a-300x300.jpg'><img src='/b-300x300.jpg'>", ["/c.jpg", "/b.jpg"])
    assert item["images"] == [f"https://shop.example/{name}.jpg" for name in ("a-300x300", "b", "c")]
    assert item["field_sources"]["images"] == "heuristic+json-ld"


def test_gallery_without_a_structured_image_is_ignored() -> None:
    item = read("<img src='/banner-9.jpg'>", ["https://cdn.example/1.jpg", "https://cdn.example/2.jpg"])
    assert item["images"] == ["https://cdn.example/1.jpg", "https://cdn.example/2.jpg"]
    assert item["field_sources"]["images"] == "json-ld"


@pytest.mark.parametrize(
    ("html", "images"),
    [
        (
            "<img src='//c.example/r_300x.jpg' data-src='//c.example/r_{width}x.jpg' data-widths='[180, 720]'>",
            ["r_720x"],
        ),
        ("<img src='//c.example/r_300x.jpg' data-src='//c.example/r_{width}x.jpg'>", ["r_300x"]),
        ("<img src='//c.example/r.jpg'><img src='//c.example/wp-content/themes/x/img/zoom.png'>", ["r"]),
        ("<img src='//c.example/r.jpg'><img src='//c.example/skin/frontend/x/plus.gif'>", ["r"]),
        ("<img width='99999999999999999999' src='//c.example/r.jpg'>", ["r"]),
    ],
)
def test_fills_in_url_templates_and_ignores_theme_icons(html: str, images: list[str]) -> None:
    assert read(html)["images"] == [f"https://c.example/{name}.jpg" for name in images]


@pytest.mark.parametrize("name", ["image magnific-popup", "image-popup", "popup-gallery"])
def test_reads_a_gallery_with_popup_class(name: str) -> None:
    image = "<a href='/v.jpg'><img class='thumb' src='/v-50x50.jpg'></a>"
    html = f"<main><h1>Vase</h1><div class='{name}'>{image}</div></main>"
    assert read_page("product", GENERIC, HttpResponse(URL, body=html.encode()))["images"] == [
        "https://shop.example/v.jpg"
    ]


@pytest.mark.parametrize("name", ["popup", "newsletter-popup", "related images"])
def test_ignores_images_in_other_popups(name: str) -> None:
    html = f"<main><h1>Vase</h1><div class='{name}'><img class='thumb' src='/x.jpg'></div></main>"
    assert read_page("product", GENERIC, HttpResponse(URL, body=html.encode()))["images"] == []


def test_reads_long_signed_urls() -> None:
    url = f"https://cdn.example/vase.jpg?signature={'5f' * 4000}"
    assert read("", images=[url])["images"] == [url]
