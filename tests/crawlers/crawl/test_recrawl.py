"""Crawling again: after a kill, after a failure, and after changes. An unchanged shop yields identical bytes."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from atlas_model.core.errors import AtlasError, RetryError
from crawlers.crawl.journal import PRODUCT, Journal, JournalPage
from crawlers.crawl.reader_digests import reader_digests
from crawlers.pages import shops
from tests.support.crawling import is_free, listing, product, rows, run, source, titles
from tests.support.paths import ROOT
from tests.support.servers import HOST, Reply, Shop, serving
from tests.support.waiting import wait_until


def big_shop(products: int, per_page: int) -> Shop:
    """A shop with many products and slow responses."""
    paths = [f"/p/{number}" for number in range(products)]
    pages: dict[str, Any] = {path: product(f"Product {path}", path) for path in paths}
    for page in pages.values():
        page.after_s = 0.05
    last = (products - 1) // per_page
    for number in range(last + 1):
        here = paths[number * per_page : (number + 1) * per_page]
        pages[f"/shirts?{number}"] = listing(*here, next_page=f"/shirts?{number + 1}" if number < last else None)
    return Shop(pages)


CHILD = """
import json, sys
from pathlib import Path
from tests.support.crawling import run, source
from tests.support.servers import Shop
given = json.loads(sys.argv[1])
run(Shop(port=given["port"]), [source("/shirts?0")], Path(given["folder"]))
"""


def journaled(folder: Path, kind: str) -> set[str]:
    """The paths of the pages of ``kind`` in the journal."""
    path = folder / "work/journal.sqlite"
    if not path.exists():
        return set()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
        try:
            rows = journal.execute("SELECT url FROM pages WHERE kind = ?", (kind,)).fetchall()
        except sqlite3.OperationalError:  # the tables are being created
            return set()
    return {url.removeprefix(f"http://{HOST}") for (url,) in rows}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the child is not told that its parent was killed")
def test_resumes_a_killed_crawl(tmp_path: Path) -> None:
    products = 160
    with serving(big_shop(products, per_page=40)) as shop:
        given = json.dumps({"folder": str(tmp_path), "port": shop.port})
        with subprocess.Popen([sys.executable, "-c", CHILD, given], cwd=ROOT, stderr=subprocess.DEVNULL) as crawling:
            wait_until(lambda: len(journaled(tmp_path, "product")) > 10)
            with pytest.raises(AtlasError, match="another crawl is running there"):
                run(shop, [source("/shirts?0")], tmp_path)
            os.kill(crawling.pid, signal.SIGKILL)
        wait_until(lambda: is_free(tmp_path / "work"))  # the grandchild has ended
        time.sleep(0.3)  # pending requests are answered
        at_kill = shop.asked.total()
        time.sleep(0.3)
        assert shop.asked.total() == at_kill < products  # the grandchild ended with its parent
        known = journaled(tmp_path, "product") | journaled(tmp_path, "listing")
        assert any(path.startswith("/shirts") for path in known)

        result = run(shop, [source("/shirts?0")], tmp_path)

        assert {path for path in known if shop.asked[path] != 1} == set()
        assert result.listing_pages + result.product_pages == products + 4 - len(known)
        assert len(rows(tmp_path)) == result.products == products


@pytest.mark.slow
def test_requests_only_transient_failures_again(tmp_path: Path) -> None:
    shop = Shop(
        {
            "/shirts": listing("/p/1", "/p/busy", "/p/gone", next_page="/shirts?2"),
            "/shirts?2": listing("/p/2", "/p/no-image"),
            "/p/1": product("One", "1"),
            "/p/2": product("Two", "2"),
            "/p/busy": Reply("", 503),
            "/p/no-image": product("No image", image=None),
        }
    )
    with serving(shop):
        with pytest.raises(RetryError, match=r"1 of 5 product pages failed \(http_503\).*the same command"):
            run(shop, [source("/shirts")], tmp_path)
        assert not (tmp_path / "products.parquet").exists()
        before = shop.asked.copy()
        shop.pages["/p/busy"] = product("Busy", "3")
        result = run(shop, [source("/shirts")], tmp_path)
    assert shop.asked - before == {"/robots.txt": 1, "/p/busy": 1}
    assert titles(tmp_path) == {"One", "Two", "Busy"}
    assert result.dropped == {"http_404": 1, "no_image": 1}


@pytest.mark.slow
def test_requests_a_failed_category_page_again(tmp_path: Path) -> None:
    shop = Shop(
        {"/shirts": listing("/p/1", next_page="/shirts?2"), "/p/1": product("One", "1"), "/p/2": product("Two", "2")}
    )
    shop.pages["/shirts?2"] = Reply("", 502)
    with serving(shop):
        with pytest.raises(RetryError, match=r"1 category pages could not be read.*\n.*/shirts\?2: http_502"):
            run(shop, [source("/shirts")], tmp_path)
        shop.pages["/shirts?2"] = listing("/p/2")
        run(shop, [source("/shirts", "Other")], tmp_path)
    assert shop.asked["/shirts"] == shop.asked["/p/1"] == 1
    assert {tuple(row["taxonomy"]) for row in rows(tmp_path)} == {("Other",)}, "labels are not what pages say"
    assert titles(tmp_path) == {"One", "Two"}


DATE = "Sat, 21 Nov 2026 10:00:00 GMT"


def not_modified(page: Reply, **headers: str) -> Callable[[int], Reply]:
    """``page`` at the first request, then a 304."""
    page.headers |= {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda times: page if times == 1 else Reply("", 304)


def changing_shop() -> Shop:
    return Shop(
        {
            "/shirts": not_modified(listing("/p/tagged", "/p/dated", "/p/plain", "/p/moved", "/p/gone"), ETag='"l1"'),
            "/p/tagged": not_modified(product("Tagged", "1"), ETag='W/"1"'),
            "/p/dated": not_modified(product("Dated", "2"), Last_Modified=DATE),
            "/p/plain": product("Plain", "3", price="1.00"),
            "/p/moved": Reply("", 301, {"Location": "/p/there"}),
            "/p/there": not_modified(product("Moved", "4"), ETag='"4"'),
            "/p/gone": product("Gone", "5"),
        }
    )


@pytest.mark.slow
def test_second_crawl_fetches_only_changed_pages(tmp_path: Path) -> None:
    shop = changing_shop()
    with serving(shop):
        run(shop, [source("/shirts")], tmp_path, snapshot="one")
        first = (tmp_path / "products.parquet").read_bytes()
        shop.headers.clear()
        result = run(shop, [source("/shirts")], tmp_path, snapshot="two")
        assert (tmp_path / "products.parquet").read_bytes() == first
        assert result.reused_pages == {"not_modified": 4, "same_content": 2}
        sent = dict(shop.headers)
        assert sent["/shirts"]["If-None-Match"] == '"l1"'
        assert sent["/p/tagged"]["If-None-Match"] == 'W/"1"'
        assert sent["/p/dated"]["If-Modified-Since"] == DATE
        assert sent["/p/there"]["If-None-Match"] == '"4"'
        assert not {"If-None-Match", "If-Modified-Since"} & sent["/p/plain"].keys()


@pytest.mark.slow
def test_recrawl_equals_a_fresh_crawl_byte_for_byte(tmp_path: Path) -> None:
    shop = changing_shop()
    with serving(shop):
        run(shop, [source("/shirts")], tmp_path, snapshot="one")
        shop.pages["/shirts"] = listing("/p/tagged", "/p/dated", "/p/plain", "/p/moved", "/p/new")
        shop.pages["/p/plain"] = product("Plain", "3", price="2.00")
        shop.pages["/p/new"] = product("New", "6")
        shop.pages["/p/moved"] = Reply("", 301, {"Location": "/p/elsewhere"})
        shop.pages["/p/elsewhere"] = lambda times: Reply("", 304) if times == 1 else product("Moved on", "4")
        result = run(shop, [source("/shirts")], tmp_path, snapshot="two")
        assert result.reused_pages == {"not_modified": 2, "same_content": 0}
        assert {row["title"]: row["price"] for row in rows(tmp_path)} == {
            "Tagged": None, "Dated": None, "Plain": 2, "Moved on": None, "New": None,
        }, "a 304 for a different page than the known one is ignored"  # fmt: skip

        for path, page in shop.pages.items():
            if callable(page):
                shop.pages[path] = page(1) if path != "/p/elsewhere" else page(2)
        (tmp_path / "fresh").mkdir()
        fresh = run(shop, [source("/shirts")], tmp_path / "fresh", snapshot="two")
        assert fresh.reused_pages == {"not_modified": 0, "same_content": 0}
    assert (tmp_path / "fresh/products.parquet").read_bytes() == (tmp_path / "products.parquet").read_bytes()


@pytest.mark.slow
def test_new_robots_tags_apply_to_pages_already_read(tmp_path: Path) -> None:
    shop = Shop({"/shirts": listing("/p/1", "/p/2"), "/p/1": product("One", "1"), "/p/2": product("Two", "2")})
    shop.pages["/p/1"] = not_modified(product("One", "1"), ETag='"1"', X_Robots_Tag="noai")
    with serving(shop):
        run(shop, [source("/shirts")], tmp_path)
        shop.pages["/p/1"] = product("One", "1")
        shop.pages["/p/1"].headers["X-Robots-Tag"] = "noai"
        result = run(shop, [source("/shirts")], tmp_path, snapshot="two", robots_tags=["noai"])
    assert (titles(tmp_path), result.dropped) == ({"Two"}, {"robots_tag": 1})


def test_changed_profile_requests_only_its_shop_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crawlers.crawl import reader_digests as module

    profile: dict[str, Any] = {"hosts": ["a.test"], "product": {"title": "h1"}}
    monkeypatch.setattr(module, "PROFILES", tmp_path)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"hosts": ["b.test"]}))

    def of(changes: dict[str, Any], tags: tuple[str, ...] = ()) -> dict[str, str]:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile | changes))
        return reader_digests(tags)

    first = of({})
    assert set(first) == {"mine", "other", *(shop.name for shop in (shops.GENERIC, *shops.SHOPS_WITH_CODE.values()))}
    assert of({"limits": {"max_pages": 3}, "note": "slow"}) == first, "these change no reading"
    mended = of({"product": {"title": "h2"}})
    assert {name for name in first if mended[name] != first[name]} == {"mine"}
    assert not set(of({}, ("noai",)).values()) & set(first.values())


def test_new_profile_requests_its_shop_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crawlers.crawl import reader_digests as module

    def begin(folder: Path) -> tuple[Journal, dict[str, str]]:
        folder.mkdir(exist_ok=True)
        for place in (module, shops):
            monkeypatch.setattr(place, "PROFILES", folder)
        digests = reader_digests(())
        journal = Journal(tmp_path / "journal.sqlite")
        journal.begin("one", digests.values())
        journal.delete_outdated(lambda url: module.reader_of(url, digests))
        return journal, digests

    urls = ["http://www.new.test/p/1", "http://other.test/p/1"]
    journal, digests = begin(tmp_path / "before")
    with journal:
        for url in urls:
            journal.put(PRODUCT, url, JournalPage("said", reader=digests["generic"]))
    (tmp_path / "after").mkdir()
    (tmp_path / "after/new.yaml").write_text(yaml.safe_dump({"hosts": ["new.test"], "product": {"title": "h2"}}))
    journal, _ = begin(tmp_path / "after")
    with journal:
        assert [journal.page(PRODUCT, url) is None for url in urls] == [True, False]
