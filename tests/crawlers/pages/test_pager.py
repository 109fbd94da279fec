"""Next pages of listings, and cleaning of breadcrumbs."""

from typing import Any
from urllib.parse import urljoin

import pytest
from web_poet import HttpResponse

from crawlers.pages.saved import Kind, read_page
from crawlers.pages.shops import GENERIC

URL = "https://shop.example/shirts.html"
TILES = "".join(f'<li><a href="/p/{n}"><img src="/{n}.jpg">Item {n}</a> {n} €</li>' for n in range(1, 5))


def read(body: str, url: str = URL, kind: Kind = "listing") -> dict[str, Any]:
    html = f"<html><head><title>Shirts</title></head><body>{body}</body></html>".encode()
    return read_page(kind, GENERIC, HttpResponse(url, body=html, headers={"Content-Type": "text/html; charset=utf-8"}))


def pager(inner: str, names: str = "paginator") -> str:
    return f'<main><h1>Shirts</h1><ul>{TILES}</ul><div class="{names}">{inner}</div></main>'


@pytest.mark.parametrize(
    ("url", "inner", "next_page"),
    [
        ("", '<strong>1</strong> <a href="?page=2&pageSize=32">2</a> <a href="?page=3">3</a>', "?page=2&pageSize=32"),
        ("?page=2", '<a href="?page=1&limit=9">1</a> <b>2</b> <a href="?page=3&limit=9">3</a>', "?page=3&limit=9"),
        ("", '1 | <a href="?from=24">2</a> | <a href="?from=48">3</a>', "?from=24"),
        ("?from=24", '<a href="?from=0">1</a> | 2 | <a href="?from=48">3</a>', "?from=48"),
        ("?from=48", '<a href="?from=0">1</a> | <a href="?from=24">2</a> | 3', None),
        ("", '<a>1</a> <a href="?sort=x&amp;page=2">2</a>', "?sort=x&page=2"),
        ("", '<a href="#">1</a> <a href="?sort=x&amp;page=2">2</a>', "?sort=x&page=2"),
        ("", '<ul><li><span>1</span></li><li><a href="/shirts-2.html">2</a></li></ul>', "/shirts-2.html"),
        ("", '<span>1</span> <a href="javascript:;" data-href="?page=2">2</a>', "?page=2"),
        ("", '<span>1</span> <a href="#" data-url="/shirts.html?p=2">Next</a>', "?p=2"),
        ("", '<button type="button" data-href="/shirts.html?p=2">Load more</button>', "?p=2"),
        ("", "<a href=\"javascript:location.href='/shirts.html?p=2'\">Next</a>", "?p=2"),
        ("", '<a href="javascript:void(0)" onclick="go(\'/shirts.html?p=2\'); return false">Next</a>', "?p=2"),
        ("?p=2", '<a href="javascript:go(1)">1</a> <b>2</b> <a href="javascript:go(3)">3</a>', "?p=3"),
        ("", '<b>1</b> <a href="#" data-page="2">2</a>', "?page=2"),
        ("", '<a href="javascript:void(0)">Next</a>', None),
        ("", '<a data-url="widget-17" href="#">Next</a>', None),
        ("?p=3", '<a href="?p=1">1</a> <a href="?p=2">2</a> <strong>3</strong>', None),
    ],
)  # fmt: skip
def test_finds_next_page_in_pagers(url: str, inner: str, next_page: str | None) -> None:
    assert read(pager(inner), URL + url)["next_page"] == (next_page and urljoin(URL, next_page))


def test_recognises_a_pager_without_class() -> None:
    numbers = '<b>1</b> <a href="?start=24">2</a> <a href="?start=48">3</a>'
    assert read(pager(numbers, "x"))["next_page"] == f"{URL}?start=24"
    sizes = '<a href="?size=1">1</a> <a href="?size=2">2</a> <a href="?size=3">3</a>'
    assert read(pager(sizes, "x"))["next_page"] is None, "sizes of shirts are no pages"


@pytest.mark.parametrize(
    "switcher",
    [
        '<div class="categories"><a href="/hats.html">Previous</a> <a href="/coats.html">Next</a></div>',
        '<div class="slides"><a href="/p/1">Previous</a> <a href="/p/2">Next</a></div>',
        '<a rel="next" href="/p/2">Next</a>',
    ],
    ids=["categories", "products", "marked"],
)
@pytest.mark.parametrize("numbers", ["", '<a href="?p=1">1</a> <b>2</b>'])
def test_product_switcher_is_not_a_pager(switcher: str, numbers: str) -> None:
    assert read(pager(numbers) + switcher, f"{URL}?p=2")["next_page"] is None


@pytest.mark.parametrize(
    "home",
    [
        "Hauptseite", "Page d'accueil", "Página principal", "Voorpagina", "Strona startowa", "Úvodní stránka",
        "Početna", "Главная страница", "Αρχική σελίδα", "الصفحة الرئيسية", "דף הבית", "صفحه اصلی", "トップページ",
        "首頁", "홈페이지", "หน้าแรก", "Laman utama", "Trang chủ", "Ana sayfa", "मुख्य पृष्ठ",
    ],
)  # fmt: skip
def test_recognises_home_in_many_languages(home: str) -> None:
    trail = f'<ul class="breadcrumb"><li><a href="/xx/">{home}</a></li><li><a href="/xx/c">Cats</a></li></ul>'
    assert read(f"{trail}<h1>Shirt</h1>", "https://shop.example/xx/p", "product")["breadcrumbs"] == ["Cats"]


@pytest.mark.parametrize("home", ["/index.php?route=common/home", "/index.php?main_page=index", "/index.php", "/"])
def test_recognises_home_by_url(home: str) -> None:
    """In Zen Cart every category has ``main_page=index``, not only the home page."""
    cats = "/index.php?main_page=index&cPath=1"
    trail = f'<div class="breadcrumb"><a href="{home}">The Shop</a> / <a href="{cats}">Cats</a> / Shirt</div>'
    assert read(f"{trail}<h1>Shirt</h1>", "https://shop.example/p", "product")["breadcrumbs"] == ["Cats"]


@pytest.mark.parametrize(
    "back",
    [
        "Return to Category List", "Back to results", "« Back", "Zurück zur Übersicht", "Retour à la liste", "Volver",
        "Voltar para a lista", "Torna alla lista", "Terug naar overzicht", "Wróć do listy", "Zpět na seznam", "Назад",
        "Tillbaka till listan", "一覧へ戻る", "返回列表", "العودة إلى القائمة",
    ],
)  # fmt: skip
@pytest.mark.parametrize("home", ['<a href="/">Home</a>', ""], ids=["home", "no home"])
def test_breadcrumb_excludes_back_links(back: str, home: str) -> None:
    trail = '<a href="/men">Men</a> › <a href="/men/shirts">Shirts</a>'
    for order in (f'<a href="/list">{back}</a> {home} › {trail}', f'{home} {trail} <a href="/list">{back}</a>'):
        item = read(f'<div class="breadcrumbs">{order}</div><h1>Linen</h1>', "https://shop.example/p", "product")
        assert item["breadcrumbs"] == ["Men", "Shirts"]


def test_breadcrumb_keeps_categories_named_back_to_school_or_next() -> None:
    trail = '<a href="/">Home</a> › <a href="/b">Back to school</a> › <a href="/n">Next</a> › <a href="/s">Bags</a>'
    item = read(f'<div class="breadcrumbs">{trail}</div><h1>Linen</h1>', "https://shop.example/p", "product")
    assert item["breadcrumbs"] == ["Back to school", "Next", "Bags"]


@pytest.mark.parametrize(
    "switcher",
    [
        '<a href="/p/1">‹ Previous</a> <a href="/p/3">Next ›</a>',
        '<a href="/p/1" rel="prev">Linen shirt</a> <a href="/p/3" rel="next">Silk shirt</a>',
        '<span class="product-nav"><a href="/p/1">Linen shirt</a> <a href="/p/3">Silk shirt</a></span>',
        '<a href="/p/1">Vorheriger Artikel</a> <a href="/p/3">Nächster Artikel</a>',
        '<a href="/p/1" title="x">‹</a> <a href="/p/3">›</a>',
    ],
    ids=["words", "rel", "named", "german", "arrows"],
)
def test_breadcrumb_excludes_previous_and_next_links(switcher: str) -> None:
    trail = '<a href="/">Home</a> › <a href="/men">Men</a>'
    for order in (f"{trail} {switcher}", f"{switcher} {trail}"):
        item = read(f'<div class="breadcrumbs">{order}</div><h1>Wool</h1>', "https://shop.example/p/2", "product")
        assert item["breadcrumbs"] == ["Men"]
