"""The crawl of real shops on the loopback interface: products, discarded pages, failures."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from atlas_model.core.errors import AtlasError, RetryError
from crawlers.crawl.aggregate import ProductAggregator, ranked
from crawlers.crawl.job import CrawlJob, CrawlReport
from crawlers.crawl.journal import PRODUCT, Journal, JournalPage
from crawlers.http.host_limits import HostProfile
from crawlers.pages.items import Product
from crawlers.shop.process import running_shop
from crawlers.sources.csv_sources import Source, read_sources
from flows.stages.crawl import HEALTH, _committed_health
from flows.stages.crawl import run as run_stage
from flows.stages.entry import main
from tests.support.crawling import QUICK, SHIRT, listing, product, rows, run, source
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT
from tests.support.servers import HOST, Reply, Shop, serving

HOSTILE = "<script>alert('x')</script> \u202e & \"Co\""


def odd_shop() -> Shop:
    """A shop with many irregular pages that a crawl must handle."""
    busy, flaky = Reply("busy", 503, {"Retry-After": "1"}), product("Flaky", "30")
    return Shop(
        {
            "/robots.txt": Reply("User-agent: *\nDisallow: /secret/\n", headers={"Content-Type": "text/plain"}),
            "/shirts": listing(
                *("/p/2", "/p/1?colour=red", "/p/1", "/p/hostile", "/p/flaky", "/secret/5", "/p/gone", "/p/pdf"),
                *("/p/no-title", "/p/no-image", "/p/moved", "/p/elsewhere", "http://evil.test/p/1", "/p/no-sku?ref=1"),
                next_page="/shirts?page=2",
            ),
            "/shirts?page=2": listing("/p/20", "/p/2", next_page="/shirts?page=3"),
            "/shirts?page=3": listing("/p/20", "/p/2", next_page="/shirts?page=4"),  # endless
            "/tops": listing("/p/2", next_page="/tops"),
            "/nothing": listing(),
            "/p/1": product("One", "1"),
            "/p/1?colour=red": product("One", "1"),
            "/p/2": product("Two", "2"),
            "/p/20": product("Twenty", "20"),
            "/p/hostile": product(HOSTILE, "4"),
            "/p/flaky": lambda times: busy if times == 1 else flaky,
            "/secret/5": product("Secret", "5"),
            "/p/pdf": Reply("%PDF\x00\x01", headers={"Content-Type": "application/pdf"}),
            "/p/no-title": product(None, "6"),
            "/p/no-image": product("No image", "7", image=None),
            "/p/moved": Reply("", 301, {"Location": "/p/20"}),
            "/p/elsewhere": Reply("", 302, {"Location": "http://evil.test/p/1"}),
            "/p/no-sku?ref=1": product("No number", canonical="/p/no-sku"),
        }
    )


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The irregular shop, crawled once."""
    folder = tmp_path_factory.mktemp("odd")
    sources = [source("/shirts"), source("/tops", "Clothing", "Tops"), source("/nothing"), source("/closed")]
    with serving(odd_shop()) as shop:
        result = run(shop, sources, folder)
        asked = shop.asked.copy()
        yield SimpleNamespace(shop=shop, sources=sources, folder=folder, result=result, asked=asked, rows=rows(folder))


def test_products_are_sorted_and_distinct(odd: SimpleNamespace) -> None:
    identities = [row["product_id"] for row in odd.rows]
    assert identities == [f"http://{HOST}/p/no-sku", *(f"{HOST}:{sku}" for sku in ("1", "2", "20", "30", "4"))]
    assert odd.result.products == 6
    assert odd.result.by_site == {HOST: 6}


def test_obeys_robots_txt(odd: SimpleNamespace) -> None:
    assert odd.asked["/robots.txt"] == 1
    assert odd.asked["/secret/5"] == 0
    assert "Secret" not in {row["title"] for row in odd.rows}


def test_counts_discarded_pages_with_a_reason(odd: SimpleNamespace) -> None:
    assert odd.result.dropped == {
        "duplicate": 2,  # the red one, and the one that moved
        "http_404": 1,
        "no_image": 1,
        "no_title": 1,
        "not_html": 1,
        "offsite": 2,  # a link, and a redirect
        "robots": 1,
    }
    assert odd.result.category_faults == {"http_404": 1, "no_products": 1}


def test_retries_an_overloaded_server(odd: SimpleNamespace) -> None:
    assert odd.asked["/p/flaky"] == 2
    assert odd.result.retries == 1
    assert "Flaky" in {row["title"] for row in odd.rows}


def test_endless_pagination_ends(odd: SimpleNamespace) -> None:
    assert odd.asked["/shirts?page=3"] == 1
    assert odd.asked["/shirts?page=4"] == 0
    assert odd.asked["/tops"] == 1


def test_markup_in_a_title_stays_text(odd: SimpleNamespace) -> None:
    titles = {row["product_id"]: row["title"] for row in odd.rows}
    assert titles[f"{HOST}:4"] == "<script>alert('x')</script> & \"Co\""


def test_most_specific_label_wins(odd: SimpleNamespace) -> None:
    assert odd.result.two_categories == 1
    assert {tuple(row["taxonomy"]) for row in odd.rows} == {SHIRT}


def test_data_contain_neither_address_nor_port(odd: SimpleNamespace) -> None:
    text = repr(odd.rows)
    assert f"http://{HOST}/i.jpg" in text
    assert "127.0.0.1" not in text
    assert str(odd.shop.port) not in text


def test_sends_the_user_agent(odd: SimpleNamespace) -> None:
    assert {sent["User-Agent"] for _, sent in odd.shop.headers} == {"Atlas/0 (+https://example.org)"}


def test_unreachable_shop_is_a_retry_error(tmp_path: Path) -> None:
    shop = Shop()
    with serving(shop):
        pass  # the port is closed now
    with pytest.raises(RetryError, match=r"(?s)shop\.test/shirts: host_down.*the same command"):
        run(shop, [source("/shirts")], tmp_path)


def test_does_not_crawl_if_robots_txt_fails(tmp_path: Path) -> None:
    shop = Shop({"/robots.txt": Reply("", 503), "/shirts": listing("/p/1")})
    with serving(shop), pytest.raises(RetryError, match="robots_unreachable"):
        run(shop, [source("/shirts")], tmp_path)
    assert set(shop.asked) == {"/robots.txt"}


def test_error_for_no_product_has_the_reasons(tmp_path: Path) -> None:
    shop = Shop({"/shirts": listing("/p/1"), "/p/1": product("No image", image=None)})
    with serving(shop), pytest.raises(AtlasError, match=r"(?s)found no product.*1 product pages: no_image") as caught:
        run(shop, [source("/shirts")], tmp_path)
    assert not isinstance(caught.value, RetryError)
    assert (tmp_path / "work/log.txt").is_file()


def test_does_not_connect_to_private_addresses(tmp_path: Path) -> None:
    with serving(Shop({"/shirts": listing("/p/1")})) as shop:
        sources = [Source(host, SHIRT, f"http://{host}:{shop.port}/shirts") for host in ("127.0.0.1", "localhost")]
        with pytest.raises(RetryError, match="2 category pages"):
            run(shop, sources, tmp_path, max_attempts=1)
    assert not shop.asked


SLOW_DOWN = "User-agent: *\nCrawl-delay: 0.6\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "robots"),
    [
        (QUICK, SLOW_DOWN),
        (HostProfile(delay_s=0.6, concurrency=4, autothrottle=True), ""),
        (HostProfile(delay_s=0.2, concurrency=4, autothrottle=True), SLOW_DOWN),
    ],
    ids=["robots", "profile", "both"],
)
def test_observes_delays_of_profile_and_robots_txt(tmp_path: Path, profile: HostProfile, robots: str) -> None:
    shop = Shop({"/robots.txt": Reply(robots), "/shirts": listing("/p/1", "/p/2")})
    shop.pages |= {"/p/1": product("One", "1"), "/p/2": product("Two", "2")}
    with serving(shop):
        run(shop, [source("/shirts")], tmp_path, profiles={HOST: profile})
    gaps_s = [later - earlier for earlier, later in pairwise(shop.asked_at_s[1:])]
    assert min(gaps_s) > 0.28  # 0.6 s, randomised down to half of it


def test_ignores_canonical_links_to_the_home_page(tmp_path: Path) -> None:
    shop = Shop({f"/p/{number}": product(f"P{number}", canonical="/") for number in range(3)})
    shop.pages["/c"] = listing(*shop.pages)
    with serving(shop):
        assert run(shop, [source("/c")], tmp_path).products == 3


def test_one_product_under_several_urls_gets_one_label(tmp_path: Path) -> None:
    sources = ranked([Source("a", taxonomy, "http://a/") for taxonomy in (("A",), ("B", "C"), ("B", "D"))])
    assert [source.taxonomy for source in sources] == [("B", "C"), ("B", "D"), ("A",)]
    links = {"http://a/1?x": ["B", "C"], "http://a/1": ["A"], "http://a/2": ["A"]}
    with Journal(tmp_path / "j") as journal:
        journal.begin("one", ["r"])
        for url, taxonomy in links.items():
            sku = url.partition("?")[0][-1]
            said = Product(url, None, sku, sku, None, None, [], {}, ["http://x/"]).to_json()
            journal.put(PRODUCT, url, JournalPage(json.dumps(said), reader="r"))
            journal.link([url], [source.taxonomy for source in sources].index(tuple(taxonomy)), "a")
        journal.link(["http://a/1"], 1, "a")
        journal.put(PRODUCT, "http://a/no-longer-linked", JournalPage("{}", reader="r"))
        aggregator = ProductAggregator(journal, sources)
        found = list(aggregator.rows())
    assert [(row["product_id"], row["taxonomy"]) for row in found] == [("a:1", ["B", "C"]), ("a:2", ["A"])]
    assert (aggregator.dropped, aggregator.two_categories) == ({"duplicate": 1}, 1)


@pytest.mark.parametrize("field", ["sku", "mpn"])
def test_products_with_a_shared_style_number_stay_separate(tmp_path: Path, field: str) -> None:
    def kurta(colour: str) -> Reply:
        data = {"@type": "Product", "name": f"Kurta {colour}", field: "STYLE7", "image": f"/{colour}.jpg"}
        script = f'<script type="application/ld+json">{json.dumps(data)}</script>'
        return Reply(f"<html><head>{script}</head></html>", headers={"Content-Type": "text/html"})

    shop = Shop({f"/p/{colour}": kurta(colour) for colour in ("red", "blue", "green")})
    shop.pages |= {f"/sale/{name}": product("Cap", "C-1", "/cap.jpg") for name in ("1", "2")}
    shop.pages["/c"] = listing(*shop.pages)
    with serving(shop):
        result = run(shop, [source("/c")], tmp_path)
    found = {row["product_id"]: row["title"] for row in rows(tmp_path)}
    kurtas = {f"http://{HOST}/p/{colour}": f"Kurta {colour}" for colour in ("red", "blue", "green")}
    assert found == kurtas | {f"{HOST}:C-1": "Cap"}
    assert (result.products, result.dropped) == (4, {"duplicate": 1})
    assert result.shared_numbers == (field == "sku")


def test_jobs_and_reports_survive_json(tmp_path: Path) -> None:
    job = CrawlJob(
        "now",
        True,
        [source("/x")],
        {"r": "1"},
        {"h": ("::1", 1)},
        {"h": QUICK},
        "agent",
        1,
        2,
        3.0,
        ["noai"],
        True,
        None,
        "f",
    )
    assert CrawlJob.from_json(job.to_json()) == job
    sent = CrawlReport(
        True, {"listing": 1}, {"last_page": 1}, [("u", "timeout")], [("s", "no")], {"a": {"pages": 1, "items": 2}}, 0, 0
    )
    sent.save(tmp_path / "r")
    assert CrawlReport.load(tmp_path / "r") == sent


@pytest.mark.slow
def test_crawl_of_the_demo_shop_equals_its_catalogue(tmp_path: Path) -> None:
    from crawlers.shop.catalogue import load_catalogue

    sources = [one for one in read_sources(ROOT / "data/sources.csv") if one.taxonomy[-1] == "Sandal"]
    with running_shop() as connect_map:
        profiles = dict.fromkeys(connect_map, QUICK)
        result = run(Shop(), sources, tmp_path, connect_map=connect_map, profiles=profiles)
    expected = {
        f"{item.shop.host}:{item.number}": (item.title, item.price, item.shop.currency, item.image_urls)
        for item in load_catalogue().products()
        if item.kind.taxonomy[-1] == "Sandal"
    }
    found = {r["product_id"]: (r["title"], r["price"], r["currency"], r["image_urls"]) for r in rows(tmp_path)}
    assert found == expected
    assert result.dropped == {"robots": len(sources)}


def stage(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> int:
    """Run the stage in ``folder`` with these parameters; returns its exit code."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["crawl"] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(run_stage)
    return int(ended.value.code or 0)


def test_stage_reads_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"filename": "a.jpg", "title": "A", "image_url": "http://x.test/a.jpg", "sentences": [{"tokens": ["A"]}]}
    (tmp_path / "m.json").write_text(json.dumps({"images": [entry]}))
    assert stage(tmp_path, monkeypatch, source="manifest", manifest="m.json") == 0
    assert pq.read_table(tmp_path / "data/raw/products.parquet")["product_id"].to_pylist() == ["manifest:a.jpg"]
    assert json.loads((tmp_path / "metrics/crawl.json").read_text()) == {"products": 1, "dropped": 0}
    assert (tmp_path / HEALTH).read_text().count("\n") == 1, "no shop was crawled, but DVC expects the file"


def test_stage_reports_errors_of_sources_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.csv").write_text("Category,Shop\n")
    assert stage(tmp_path, monkeypatch, source="shops", sources="s.csv") == 2
    assert capfd.readouterr().err.startswith("error: s.csv: line 1: expected one column Taxonomy")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_stage_rejects_a_crawl_worse_than_the_committed_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], git_env: dict[str, str]
) -> None:
    site = "shop-a.demo.test"  # has no delay between requests
    tile = '<li class="product"><a class="product-link" href="/p/1">One</a></li>'
    shop = Shop({"/c": Reply(f"<html><ul>{tile}</ul></html>"), "/p/1": product("One", "1")})
    (tmp_path / "s.csv").write_text(f"Taxonomy,A\nA,http://{site}/c\n")
    health = tmp_path / HEALTH
    health.parent.mkdir(parents=True)
    health.write_text(f"shop,asked,products,success_rate,title,price\n{site},,1,1.0,1.0,1.0\n")
    commit_all(tmp_path, git_env)
    health.unlink()  # as DVC does
    with serving(shop):
        given = {"source": "shops", "sources": "s.csv", "connect": {site: f"127.0.0.1:{shop.port}"}, "snapshot": "mine"}
        assert stage(tmp_path, monkeypatch, **given) == 1
        assert f"  - {site}: price fell from 100.0% to 0.0%" in capfd.readouterr().err
        assert not list((tmp_path / "data/raw").iterdir())
        assert stage(tmp_path, monkeypatch, **given, max_coverage_drop=1.0) == 0
    assert shop.asked["/c"] == shop.asked["/p/1"] == 1
    metrics = json.loads((tmp_path / "reports/crawl/metrics.json").read_text())
    assert metrics["shops"][site]["coverage"]["price"] == 0.0
    assert metrics.keys().isdisjoint({"seconds"}), "timings would change a hash"
    timings = json.loads((tmp_path / "reports/timings/crawl.json").read_text())
    assert timings.keys() == {"seconds", "listing_pages", "product_pages", "reused_pages", "retries", "variants"}
    commit_all(tmp_path, git_env)
    found = _committed_health()
    assert found is not None
    written = metrics["shops"][site]
    assert found[site] == {key: written[key] for key in ("asked", "products", "success_rate", "coverage")}
    kept = (tmp_path / ".atlas/snapshots/mine.parquet").read_bytes()
    assert kept == (tmp_path / "data/raw/products.parquet").read_bytes()
