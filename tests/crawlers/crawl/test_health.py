"""Health of a crawl: shares per shop, and rejection of a worse crawl."""

import errno
from pathlib import Path
from typing import Any

import pytest

from atlas_model.core.checksums import read_json_with_checksum
from atlas_model.core.errors import AtlasError, MachineError
from crawlers.crawl import run as crawl_run
from crawlers.crawl.health import ShopTally, coverage_drops
from tests.support.crawling import listing, product, rows, run, source
from tests.support.servers import HOST, Reply, Shop, serving


def row(**values: Any) -> dict[str, Any]:
    empty = {"title": None, "price": None, "currency": None, "breadcrumb": [], "details": [], "image_urls": []}
    empty |= dict.fromkeys(("availability", "brand", "gtin", "mpn"))
    return empty | {"field_sources": []} | values


def test_health_that_the_machine_cannot_read_stops_the_crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> Any:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(crawl_run, "read_json_with_checksum", fails)
    with pytest.raises(MachineError, match="too many files are open"):
        crawl_run._health_in(tmp_path / "health.json")


def test_shares_are_relative_to_pages_read() -> None:
    tally = ShopTally(listing_pages=2, items=9)
    shirt = row(title="Shirt", price=0, image_urls=["u"], field_sources=[("title", "json-ld"), ("price", "css")])
    tally.add_page(shirt, None)
    tally.add_product(shirt)
    tally.add_page(row(title="No image", availability="InStock"), "no_image", unreadable=3)
    tally.add_page(None, "http_404")
    tally.add_page(None, "robots")
    assert tally.to_json() == {
        "asked": "",
        "products": 1,
        "product_pages": 4,
        "listing_pages": 2,
        "items_per_listing_page": 4.5,
        "success_rate": 0.3333,  # the page that robots.txt forbids is not a failure
        "unreadable_json_ld": 1,
        "contradicted_labels": 0,
        "coverage": {
            "title": 1.0,
            "price": 0.5,
            "currency": 0,
            "availability": 0.5,
            "brand": 0,
            "gtin": 0,
            "mpn": 0,
            "breadcrumb": 0,
            "details": 0,
            "image_urls": 0.5,
        },
        "dropped": {"http_404": 1, "no_image": 1, "robots": 1},
        "field_sources": {"price": {"css": 1}, "title": {"json-ld": 1}},
    }


def test_shop_without_pages_falls_to_zero() -> None:
    before = {"a.test": {"success_rate": 1.0, "coverage": {"title": 1.0, "price": 0.3}}}
    assert list(coverage_drops(before, {"a.test": ShopTally().to_json()}, 0.25)) == [
        "a.test: success rate fell from 100.0% to 0.0% of its product pages",
        "a.test: title fell from 100.0% to 0.0% of its product pages",
        "a.test: price fell from 30.0% to 0.0% of its product pages",
    ]


def test_reports_falls_above_the_limit_for_known_shops_only() -> None:
    def health(price: float) -> dict[str, Any]:
        return {"success_rate": 1.0, "coverage": {"price": price}}

    assert not list(coverage_drops({"a": health(1.0)}, {"a": health(0.8), "b": health(0)}, 0.2))
    assert len(list(coverage_drops({"a": health(1.0), "b": health(1.0)}, {"a": health(0.79)}, 0.2))) == 1
    assert len(list(coverage_drops({"a": health(0.1)}, {"a": health(0.05)}, 0.2))) == 1  # half of the previous share
    assert not list(coverage_drops({"a": health(1.0)}, {"a": health(0)}, 1.0))
    assert not list(coverage_drops({"a": health(0.5)}, {"a": health(1.0)}, 0.0))
    assert not list(coverage_drops({"a": {"success_rate": 1.0, "coverage": {"of old": 1.0}}}, {"a": health(1.0)}, 0.2))


def shop(price: str | None) -> Shop:
    return Shop(
        {"/shirts": listing("/p/1", "/p/2", "/p/3")}
        | {f"/p/{number}": product(f"P{number}", str(number), price=price) for number in range(1, 4)}
    )


@pytest.mark.slow
def test_rejects_a_worse_crawl_and_keeps_its_pages(tmp_path: Path) -> None:
    with serving(shop("9.99")) as served:
        run(served, [source("/shirts")], tmp_path, max_coverage_drop=0.2)
        accepted = (tmp_path / "products.parquet").read_bytes()
        good = served.pages
        served.pages = shop(None).pages
        with pytest.raises(AtlasError) as caught:
            run(served, [source("/shirts")], tmp_path, max_coverage_drop=0.2, snapshot="two")
        assert f"{HOST}: price fell from 100.0% to 0.0%" in str(caught.value)
        assert "atlas crawl try URL" in str(caught.value)
        assert (tmp_path / "products.parquet").read_bytes() == accepted, "what is downstream sees nothing of it"

        asked = served.asked.total()
        with pytest.raises(AtlasError, match="price fell"):
            run(served, [source("/shirts")], tmp_path, max_coverage_drop=0.2, snapshot="two")
        assert served.asked.total() == asked, "the pages read are kept"

        served.pages = good
        result = run(served, [source("/shirts")], tmp_path, max_coverage_drop=0.2, snapshot="three")
        assert result.shops[HOST]["coverage"]["price"] == 1.0


@pytest.mark.slow
def test_rejects_fewer_products_and_requests_discarded_pages_again(tmp_path: Path) -> None:
    good = {"/shirts": listing("/p/0", next_page="/more"), "/more": listing("/p/1", "/p/2")}
    good |= {f"/p/{number}": product(f"Shirt {number}") for number in range(3)}
    with serving(Shop(dict(good))) as served:
        run(served, [source("/shirts")], tmp_path, max_coverage_drop=0.2)
        served.pages["/more"] = served.pages["/p/0"] = Reply("no", 403)
        with pytest.raises(AtlasError, match="found no product"):
            run(served, [source("/shirts")], tmp_path, max_coverage_drop=0.2, snapshot="two")
        served.pages["/p/0"] = good["/p/0"]
        with pytest.raises(AtlasError, match=f"{HOST}: its products fell from 3 to 1"):
            run(served, [source("/shirts")], tmp_path, max_coverage_drop=0.2, snapshot="two")
        served.pages["/more"] = good["/more"]
        run(served, [source("/shirts")], tmp_path, max_coverage_drop=0.2, snapshot="two")
        assert len(rows(tmp_path)) == 3
        assert served.asked["/shirts"] == 2, "in the same crawl it is not asked for again"
        run(served, [source("/shirts")], tmp_path, max_coverage_drop=0.2, snapshot="three", max_pages_per_category=1)
    assert len(rows(tmp_path)) == 1, "less was asked for: that less comes is no fall"


@pytest.mark.slow
def test_raised_limit_accepts_a_worse_crawl(tmp_path: Path) -> None:
    with serving(shop(None)) as served:
        before = {HOST: {"success_rate": 1.0, "coverage": {"price": 1.0}}}
        with pytest.raises(AtlasError, match="price fell"):
            run(served, [source("/shirts")], tmp_path, baseline=before, max_coverage_drop=0.2)
        run(served, [source("/shirts")], tmp_path, baseline=before, max_coverage_drop=1.0)
        run(served, [source("/shirts")], tmp_path, baseline=before, max_coverage_drop=0.2, snapshot="two")
    assert read_json_with_checksum(tmp_path / "work/health.json")[HOST]["coverage"]["price"] == 0.0
    assert len(rows(tmp_path)) == 3


@pytest.mark.slow
def test_rejects_a_crawl_that_lost_one_of_several_shops(tmp_path: Path) -> None:
    served = shop("1.00")
    sources = [source("/shirts"), source("/shirts")]
    sources[1] = type(sources[1])(f"www.{HOST}", ("Other",), f"http://www.{HOST}/shirts")
    with serving(served):
        where = dict.fromkeys((HOST, f"www.{HOST}"), ("127.0.0.1", served.port))
        served.pages["/shirts"] = lambda times: listing("/p/1") if times != 4 else Reply("<html></html>")
        run(served, sources, tmp_path, connect_map=where)
        with pytest.raises(AtlasError, match=r"title fell from 100\.0% to 0\.0%"):
            run(served, sources, tmp_path, connect_map=where, max_coverage_drop=0.2, snapshot="two")
