"""Grouping of pages into products, by URLs and by content."""

import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from crawlers.crawl.product_grouping import IDENTITIES, Identity, group
from crawlers.pages.fields.product_urls import product_key, stable_url, without_session
from tests.support.crawling import listing as list_of
from tests.support.crawling import product, rows, run, source
from tests.support.servers import HOST, Reply, Shop, serving

SESSION = "0123456789abcdef0123456789abcdef"
AT = f"http://{HOST}"


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        (f"{AT}/p/1?osCsid={SESSION}", f"{AT}/p/1"),
        (f"{AT}/p?a=%2C&PHPSESSID={SESSION}&b", f"{AT}/p?a=%2C&b"),
        (f"{AT}/p/1;jsessionid=0A1B.node2?x=1", f"{AT}/p/1?x=1"),
        (f"{AT}/(S(abc12de))/p/1", f"{AT}/p/1"),
        (f"{AT}/p?sid=4711", f"{AT}/p?sid=4711"),  # a number, not a session id
        (f"{AT}/p?", f"{AT}/p?"),
    ],
)
def test_removes_session_ids(url: str, plain: str) -> None:
    assert without_session(url) == plain


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/index.php?rt=product&path=36_40&product_id=70", "/index.php?rt=product&path=49_52&product_id=70"),
        ("/index.php?main_page=info&cPath=1&products_id=7", f"/?main_page=info&products_id=7&zenid={SESSION}"),
        ("/men/red-kurta.html?sort=price&dir=asc", "/sale/red-kurta"),
        ("/p/red-kurta?utm_source=mail", "/p/red-kurta/?page=3"),
        ("/p/4711", "/new/4711?ref=home"),
        ("/p/caf%C3%A9-red", "/p/café-red"),
        ("/p/red-kurta?color=red", "/p/red-kurta?color=blue"),
    ],
)
def test_product_key_ignores_the_path_to_a_product(one: str, other: str) -> None:
    assert product_key(AT + one, "Red Kurta") == product_key(f"http://www.{HOST}{other}", "Red Kurta")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/index.php?path=36_40&product_id=70", "/index.php?path=36_40&product_id=71"),
        ("/p/red-kurta-1", "/p/red-kurta-2"),
        ("/41/details", "/42/details"),
        ("/product.php?cid=41", "/product.php?cid=42"),
        ("/product.php?sid=41", "/product.php?sid=42"),
        ("/p/red-kurta?variant=41", "/p/red-kurta?variant=42"),
        ("/p?x=one", "/p?x=two"),
    ],
)
def test_product_key_keeps_identifying_parts(one: str, other: str) -> None:
    assert product_key(AT + one, "Red Kurta") != product_key(AT + other, "Red Kurta")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/index.php?rt=product&path=36_40&product_id=70", "/index.php?rt=product&product_id=70"),
        ("/p?path=36_40", "/p?path=36_40"),
        ("/p/1?utm_source=x&gclid=y", "/p/1"),
        ("/p/1", "/p/1"),
    ],
)
def test_stable_url_removes_tracking_and_listing_parameters(url: str, name: str) -> None:
    assert stable_url(AT + url) == AT + name
    assert stable_url(AT + name) == AT + name


def grouped(*pages: tuple[str | None, str, str, str]) -> tuple[list[set[int]], int]:
    """Group pages given as (number, URL, looks, same); returns the groups and the count of shared numbers."""
    database = sqlite3.connect(":memory:")
    database.executescript(IDENTITIES)
    shared = group(
        database,
        (
            (place, Identity(number, url, stable_url(url), looks, same))
            for place, (number, url, looks, same) in enumerate(pages)
        ),
    )
    found: defaultdict[str, set[int]] = defaultdict(set)
    for place, product_id in database.execute("SELECT id, product_id FROM identities"):
        found[product_id].add(place)
    database.close()
    return sorted(found.values(), key=min), shared


def test_groups_by_number_unless_it_is_shared() -> None:
    assert grouped(("n", "/1", "red", "a"), ("n", "/2", "red", "b")) == ([{0, 1}], 0)
    assert grouped(("n", "/1", "red", "a"), ("n", "/2", "blue", "b"), ("n", "/3", "red", "a")) == ([{0, 2}, {1}], 1)


def test_grouping_is_transitive() -> None:
    pages = [
        (None, "/c", "", "x"),
        (None, "/c", "", "y"),
        (None, "/b", "", "x"),
        (None, "/d", "", "y"),
        (None, "/a", "", "z"),
    ]
    assert grouped(*pages, (None, "/d", "", "z"), (None, "/e", "", "w")) == ([{0, 1, 2, 3, 4, 5}, {6}], 0)


def test_product_ids_are_unique() -> None:
    pages: list[Any] = [(None, "/p?ref=1", "", "x"), (None, "/p?ref=2", "", "y")]
    assert grouped(*pages) == ([{0}, {1}], 0)


def untitled(number: int, **more: Any) -> Reply:
    return product(f"Soap {number}", image=f"/soap-{number}.jpg", price="3", **more)


@pytest.mark.slow
def test_product_in_two_categories_is_one_row(tmp_path: Path) -> None:
    """Links as in AbanteCart, Zen Cart and OpenCart, without canonical links."""
    shop = Shop()
    men, gifts = [], []
    for number in (1, 2, 3):
        for category, links in (("36_40", men), ("49_52", gifts)):
            path = f"/index.php?rt=product&path={category}&product_id={number}&zenid={SESSION}"
            shop.pages[path] = untitled(number)
            links.append(path)
    for name in ("red", "blue", "green"):  # one style number, three products
        shop.pages[f"/p/{name}"] = product(f"Kurta {name}", "STYLE7", f"/{name}.jpg")
        shop.pages[f"/sale/{name}"] = product(f"Kurta {name}", "STYLE7", f"/{name}.jpg")
        men.append(f"/p/{name}")
        gifts.append(f"/sale/{name}")
    for number in (1, 2):  # different products with the same appearance
        shop.pages[f"/p/{number}/view"] = product("Gift card", image="/gift.jpg")
        gifts.append(f"/p/{number}/view")
    shop.pages |= {"/men": list_of(*men), "/gifts": list_of(*gifts)}
    with serving(shop):
        result = run(shop, [source("/men"), source("/gifts", "Gifts", "All")], tmp_path)
    found = rows(tmp_path)
    assert [row["product_id"] for row in found] == [
        *(f"{AT}/index.php?rt=product&product_id={number}" for number in (1, 2, 3)),
        *(f"{AT}/p/{name}" for name in ("1/view", "2/view", "blue", "green", "red")),
    ]
    assert not any(SESSION in row["page_url"] for row in found)
    assert result.dropped == {"duplicate": 6}
    assert (result.two_categories, result.shared_numbers) == (6, 1)
