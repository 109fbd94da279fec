"""Robustness of the readers: unusual nodes, mutated pages and arbitrary bytes."""

import asyncio
import lzma
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web_poet import HttpResponse

from crawlers.pages.registry import read_listing, read_product, shop_of
from crawlers.pages.saved import SavedPage
from tests.support.paths import ROOT

SAVED = Path(__file__).parent / "saved"
PAGES = [SavedPage.load(path) for path in sorted(SAVED.glob("*/*.json"))]
ODD_PRODUCT = '{"@type": "Product", "offers": [[[]], {"price": {}}], "image": [{}], "brand": [[]], "sku": {}}'
PIECES = (
    "<!-- c -->", "<!---->", "<?php x ?>", "<?xml version='1.0'?>", "<![CDATA[ x ]]>", "<svg><path d=''/></svg>",
    "<math><mi>x</mi></math>", "<svg:a xlink:href='/x'>", "<img src>", "<img src='' srcset>", "<a href>",
    "<a href=''><img>", "<p class id itemprop>", "<div itemscope itemtype>", "<meta property content>",
    "<script type='application/ld+json'>{", f"<script type='application/ld+json'>{ODD_PRODUCT}</script>",
    "<h1>", "</div>", "</h1>", "&#0;", "&#xD800;", "&nosuch;", "\x00", "\ufeff", "<template><h1>t</h1></template>",
    "<x:y z:w='1'>", "<img width='" + "9" * 5000 + "' src='/i.jpg'>", "<a href='http://[x/'>",
    "<base href='http://[x'>", "<span class=price>" + "9" * 400 + "</span>", "<td colspan='-1'>",
    "<dt>SKU</dt><!-- x --><dd>1</dd>", "<option selected>", "<link rel=canonical href='http://[x'>", "<li>:</li>",
    "<p>SKU:</p>", "<p>#</p>", "<s>", "<del>", "<p style>", "<form id>",
)  # fmt: skip
HEADERS = {"Content-Type": "text/html; charset=utf-8"}


def read_both(url: str, body: bytes) -> None:
    shop = shop_of(url.split("/")[2])
    for read in (read_product, read_listing):
        asyncio.run(read(shop, HttpResponse(url, body=body, headers=HEADERS)))


@pytest.mark.parametrize("piece", PIECES)
def test_readers_accept_any_node_at_any_position(piece: str) -> None:
    text = "* <html>* <head>* <title>*</title>*</head><body>*<h1>*Lamp*</h1>*<p class='price'>*5 *€</p>*"
    trail = "<ul class='breadcrumb'>*<li>*<a href='/a'>*A</a></ul>*"
    tile = "<div class='t'>*<a href='/p/1'>*<img src='/1.jpg'></a>*</div>"
    read_both("https://unknown.example/p/1", (text + trail + tile * 2).replace("*", piece).encode())
    read_both("https://unknown.example/p/1", piece.encode())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    place=st.integers(0, len(PAGES) - 1),
    seed=st.integers(0, 2**32),
    pieces=st.lists(st.sampled_from(PIECES), max_size=12),
)
def test_readers_do_not_raise_on_mutated_pages(place: int, seed: int, pieces: list[str]) -> None:
    page, random = PAGES[place], Random(seed)
    body = page.body
    for piece in pieces:
        cut = random.randrange(len(body) + 1)
        length = random.choice((0, 0, 1, 40, 400))
        body = body[:cut] + piece.encode(errors="replace") + body[cut + length :]
    read_both(page.url, body)


@settings(max_examples=60, deadline=None)
@given(
    body=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
)
def test_readers_do_not_raise_on_arbitrary_bytes(body: bytes) -> None:
    read_both("https://unknown.example/p/1", body)


@pytest.mark.slow
def test_readers_do_not_raise_on_benchmark_pages() -> None:
    pages = sorted((ROOT.parent / "shared/pages_benchmark/html").glob("*.xz"))
    if not pages:
        pytest.skip("the benchmark's pages are not there")
    for path in pages:
        read_both("https://unknown.example/p/1", lzma.decompress(path.read_bytes()))
