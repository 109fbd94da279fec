"""The crawl against a real shop on loopback: what comes, what does not, and what happens when things break."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
import yaml

from atlas_model.errors import AtlasError, RetryError
from atlas_model.records import PRODUCTS
from crawlers.crawl import CrawlResult, crawl, settle
from crawlers.job import CrawlJob, CrawlReport
from crawlers.profiles import HostProfile
from crawlers.shop.running import running_shop
from crawlers.sources import Source, read_sources
from flows.stages.crawl import run as run_stage
from flows.stages.entry import main
from tests.servers import HOST, Reply, Shop, serving

QUICK = HostProfile(delay_s=0, concurrency=4, autothrottle=False)
SHIRT = ("Clothing", "Tops", "Shirt")
ROOT = Path(__file__).resolve().parent.parent


def listing(*urls: str, next_page: str | None = None) -> Reply:
    data = {"@type": "ItemList", "itemListElement": [{"@type": "ListItem", "url": url} for url in urls]}
    link = f'<link rel="next" href="{next_page}">' if next_page else ""
    return Reply(f'<html><head>{link}<script type="application/ld+json">{json.dumps(data)}</script></head></html>')


def product(name: str | None, sku: str | None = None, image: str | None = "/i.jpg", canonical: str = "") -> Reply:
    data = {"@type": "Product", "name": name, "sku": sku, "image": image}
    link = f'<link rel="canonical" href="{canonical}">'
    script = json.dumps(data).replace("<", "\\u003c")
    return Reply(f'<html><head>{link}<script type="application/ld+json">{script}</script></head></html>')


def source(path: str, *taxonomy: str) -> Source:
    return Source(HOST, taxonomy or SHIRT, f"http://{HOST}{path}")


def run(shop: Shop, sources: list[Source], folder: Path, **changes: Any) -> CrawlResult:
    arguments: dict[str, Any] = {
        "output": folder / "products.parquet",
        "folder": folder / "work",
        "user_agent": "Atlas/0 (+https://example.org)",
        "connect_map": shop.connect_map,
        "max_pages_per_category": 50,
        "max_attempts": 2,
        "timeout_s": 5,
        "profiles": {HOST: QUICK},
    }
    return crawl(sources, **arguments | changes)


def rows(folder: Path) -> list[dict[str, Any]]:
    table = pq.read_table(folder / "products.parquet")
    assert table.schema.equals(PRODUCTS)
    return table.to_pylist()


HOSTILE = "<script>alert('x')</script> \u202e & \"Co\""


def odd_shop() -> Shop:
    """Everything at once that should not disturb a crawl."""
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
            "/shirts?page=3": listing("/p/20", "/p/2", next_page="/shirts?page=4"),  # and so on without end
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
    """The odd shop, crawled once."""
    folder = tmp_path_factory.mktemp("odd")
    sources = [source("/shirts"), source("/tops", "Clothing", "Tops"), source("/nothing"), source("/closed")]
    with serving(odd_shop()) as shop:
        result = run(shop, sources, folder)
        asked = shop.asked.copy()
        yield SimpleNamespace(shop=shop, sources=sources, folder=folder, result=result, asked=asked, rows=rows(folder))


def test_products_come_sorted_and_once(odd: SimpleNamespace) -> None:
    identities = [row["product_id"] for row in odd.rows]
    assert identities == [f"http://{HOST}/p/no-sku", *(f"{HOST}:{sku}" for sku in ("1", "2", "20", "30", "4"))]
    assert odd.result.products == 6
    assert odd.result.by_site == {HOST: 6}


def test_robots_txt_is_obeyed(odd: SimpleNamespace) -> None:
    assert odd.asked["/robots.txt"] == 1
    assert odd.asked["/secret/5"] == 0
    assert "Secret" not in {row["title"] for row in odd.rows}


def test_whatever_is_missing_is_counted_with_its_reason(odd: SimpleNamespace) -> None:
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


def test_a_busy_server_is_asked_again(odd: SimpleNamespace) -> None:
    assert odd.asked["/p/flaky"] == 2
    assert odd.result.retries == 1
    assert "Flaky" in {row["title"] for row in odd.rows}


def test_pagination_without_end_ends(odd: SimpleNamespace) -> None:
    assert odd.asked["/shirts?page=3"] == 1
    assert odd.asked["/shirts?page=4"] == 0
    assert odd.asked["/tops"] == 1


def test_mark_up_in_a_title_stays_text(odd: SimpleNamespace) -> None:
    titles = {row["product_id"]: row["title"] for row in odd.rows}
    assert titles[f"{HOST}:4"] == "<script>alert('x')</script>  & \"Co\""


def test_the_most_specific_label_wins(odd: SimpleNamespace) -> None:
    assert odd.result.two_categories == 1
    assert {tuple(row["taxonomy"]) for row in odd.rows} == {SHIRT}


def test_address_and_port_are_nowhere_in_the_data(odd: SimpleNamespace) -> None:
    text = repr(odd.rows)
    assert f"http://{HOST}/i.jpg" in text
    assert "127.0.0.1" not in text
    assert str(odd.shop.port) not in text


def test_the_shop_is_told_who_asks(odd: SimpleNamespace) -> None:
    assert {sent["User-Agent"] for _, sent in odd.shop.headers} == {"Atlas/0 (+https://example.org)"}


def test_the_same_shop_gives_the_same_bytes_and_nothing_is_left_behind(odd: SimpleNamespace, tmp_path: Path) -> None:
    run(odd.shop, list(reversed(odd.sources)), tmp_path)
    assert (tmp_path / "products.parquet").read_bytes() == (odd.folder / "products.parquet").read_bytes()
    assert odd.shop.asked["/p/1"] == 2 * odd.asked["/p/1"]  # a crawl that ended well is not reused
    assert [path.name for path in tmp_path.iterdir()] == ["products.parquet"]


def big_shop(products: int) -> Shop:
    """Many products, answered slowly."""
    paths = [f"/p/{number}" for number in range(products)]
    pages = {path: product(f"Product {path}", path) for path in paths}
    for page in pages.values():
        page.after_s = 0.05
    return Shop({"/shirts": listing(*paths), **pages})


CHILD = """
import json, sys
from pathlib import Path
from crawlers.crawl import crawl
from crawlers.profiles import HostProfile
from crawlers.sources import Source
from atlas_model.errors import AtlasError
given = json.loads(sys.argv[1])
crawl([Source("shop.test", ("Clothing", "Tops", "Shirt"), "http://shop.test/shirts")],
      output=Path(given["folder"]) / "products.parquet", folder=Path(given["folder"]) / "work",
      user_agent="Atlas/0 (+https://example.org)", connect_map={"shop.test": ("127.0.0.1", given["port"])},
      max_pages_per_category=50, max_attempts=2, timeout_s=5,
      profiles={"shop.test": HostProfile(delay_s=0, concurrency=4, autothrottle=False)})
"""


def wait_until(true: Callable[[], bool], limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the child is not told that its parent was killed")
def test_a_killed_crawl_goes_on_where_it_was(tmp_path: Path) -> None:
    products = 160
    with serving(big_shop(products)) as shop:
        given = json.dumps({"folder": str(tmp_path), "port": shop.port})
        spool = tmp_path / "work/products.jsonl"
        with subprocess.Popen([sys.executable, "-c", CHILD, given], cwd=ROOT, stderr=subprocess.DEVNULL) as crawling:
            wait_until(lambda: spool.exists() and spool.read_bytes().count(b"\n") > 10)
            os.kill(crawling.pid, signal.SIGKILL)
        time.sleep(0.5)  # the grandchild's last requests
        at_kill = sum(shop.asked.values())
        time.sleep(0.5)
        assert sum(shop.asked.values()) == at_kill < products  # it died with its parent
        spooled = {urlsplit(json.loads(line)["url"]).path for line in spool.read_text().splitlines()}
        with spool.open("a") as file:
            file.write('{"url": "http://shop.test/p/79", "dropped": "http_4')  # as a power cut leaves it

        result = run(shop, [source("/shirts")], tmp_path)

        assert {path for path in spooled if shop.asked[path] != 1} == set()
        assert result.product_pages == products - len(spooled)
        assert len(rows(tmp_path)) == result.products == products


def test_spooled_pages_are_forgotten_when_sources_change(tmp_path: Path) -> None:
    shop = Shop({"/shirts": listing("/p/1", "/p/broken"), "/p/1": product("One", "1"), "/p/broken": Reply("", 500)})
    with serving(shop):
        with pytest.raises(RetryError, match="1 of 2 product pages failed"):
            run(shop, [source("/shirts")], tmp_path)
        assert not (tmp_path / "products.parquet").exists()
        shop.pages["/p/broken"] = product("Mended", "2")
        run(shop, [source("/shirts", "Other")], tmp_path)
    assert shop.asked["/p/1"] == 2
    assert {tuple(row["taxonomy"]) for row in rows(tmp_path)} == {("Other",)}


def test_a_shop_that_is_down_can_be_tried_again(tmp_path: Path) -> None:
    shop = Shop()
    with serving(shop):
        pass  # its port is closed now
    with pytest.raises(RetryError, match=r"(?s)shop\.test/shirts: host_down.*the same command"):
        run(shop, [source("/shirts")], tmp_path)


def test_a_shop_whose_robots_txt_fails_is_left_alone(tmp_path: Path) -> None:
    shop = Shop({"/robots.txt": Reply("", 503), "/shirts": listing("/p/1")})
    with serving(shop), pytest.raises(RetryError, match="robots_unreachable"):
        run(shop, [source("/shirts")], tmp_path)
    assert set(shop.asked) == {"/robots.txt"}


def test_no_product_is_an_error_that_says_why(tmp_path: Path) -> None:
    shop = Shop({"/shirts": listing("/p/1"), "/p/1": product("No image", image=None)})
    with serving(shop), pytest.raises(AtlasError, match=r"(?s)found no product.*1 product pages: no_image") as caught:
        run(shop, [source("/shirts")], tmp_path)
    assert not isinstance(caught.value, RetryError)
    assert (tmp_path / "work/log.txt").is_file()


def test_pages_per_category_are_limited(tmp_path: Path) -> None:
    pages = {f"/shirts?{n}": listing(f"/p/{n}", next_page=f"/shirts?{n + 1}") for n in range(1, 6)}
    with serving(Shop(pages | {f"/p/{n}": product("P", str(n)) for n in range(1, 6)})) as shop:
        result = run(shop, [source("/shirts?1")], tmp_path, max_pages_per_category=3)
    assert (result.listing_pages, result.products, result.category_faults) == (3, 3, {"page_limit": 1})


def test_private_addresses_are_not_connected_to(tmp_path: Path) -> None:
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
def test_delays_of_the_profile_and_of_robots_txt_are_kept(tmp_path: Path, profile: HostProfile, robots: str) -> None:
    shop = Shop({"/robots.txt": Reply(robots), "/shirts": listing("/p/1", "/p/2")})
    shop.pages |= {"/p/1": product("One", "1"), "/p/2": product("Two", "2")}
    with serving(shop):
        run(shop, [source("/shirts")], tmp_path, profiles={HOST: profile})
    gaps_s = [later - earlier for earlier, later in pairwise(shop.asked_at_s[1:])]
    assert min(gaps_s) > 0.28  # .6 s, less half of it at random


def report(links: dict[str, list[tuple[str, tuple[str, ...]]]]) -> CrawlReport:
    return CrawlReport(
        finished=True, links=links, failed={}, category_faults=[], listing_pages=1, product_pages=1, offsite=0,
        retries=0, errors=0,
    )  # fmt: skip


def spooled(url: str, sku: str) -> dict[str, Any]:
    value = {"url": url, "canonical_url": None, "name": sku, "sku": sku, "price": "1.50", "currency": "EUR"}
    return {"url": url, "product": value | {"breadcrumbs": [], "additional_properties": {}, "images": ["http://x/"]}}


def test_labels_of_one_product_under_several_urls_are_settled_together() -> None:
    links = {
        "http://a/1?x": [("a", ("B", "C"))],
        "http://a/1": [("a", ("A",)), ("a", ("B", "D"))],
        "http://a/2": [("a", ("A",))],
    }
    records = {url: spooled(url, url.partition("?")[0][-1]) for url in [*links, "http://a/no-longer-linked"]}
    found, dropped, two_categories = settle(records, report(links))
    assert [(row["product_id"], row["taxonomy"]) for row in found] == [("a:1", ["B", "C"]), ("a:2", ["A"])]
    assert (dropped, two_categories) == ({"duplicate": 1}, 1)


def test_jobs_and_reports_survive_the_way_to_the_child(tmp_path: Path) -> None:
    job = CrawlJob([source("/x")], {"h": ("::1", 1)}, {"h": QUICK}, "agent", 1, 2, 3.0, str(tmp_path))
    assert CrawlJob.from_json(job.to_json()) == job
    sent = report({"http://a/": [("a", ("A", "B"))]})
    sent.save(tmp_path / "r")
    assert CrawlReport.load(tmp_path / "r") == sent


@pytest.mark.slow
def test_the_demo_shop_is_read_as_it_is_written(tmp_path: Path) -> None:
    from crawlers.shop.catalogue import load_catalogue

    sources = [one for one in read_sources(ROOT / "data/sources.csv") if one.taxonomy[-1] == "Sandal"]
    with running_shop() as connect_map:
        profiles = dict.fromkeys(connect_map, QUICK)
        result = run(Shop(), sources, tmp_path, connect_map=connect_map, profiles=profiles)
    expected = {
        f"{item.shop.host}:{item.number}": (item.title, item.price, item.shop.currency, item.picture_urls)
        for item in load_catalogue().products()
        if item.kind.taxonomy[-1] == "Sandal"
    }
    found = {r["product_id"]: (r["title"], r["price"], r["currency"], r["image_urls"]) for r in rows(tmp_path)}
    assert found == expected
    assert result.dropped == {"robots": len(sources)}


def stage(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> int:
    """Run the stage in ``folder`` with these parameters; its exit code."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["crawl"] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(run_stage)
    return int(ended.value.code or 0)


def test_the_stage_takes_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"filename": "a.jpg", "title": "A", "image_url": "http://x.test/a.jpg", "sentences": [{"tokens": ["A"]}]}
    (tmp_path / "m.json").write_text(json.dumps({"images": [entry]}))
    assert stage(tmp_path, monkeypatch, source="manifest", manifest="m.json") == 0
    assert pq.read_table(tmp_path / "data/raw/products.parquet")["product_id"].to_pylist() == ["manifest:a.jpg"]
    assert json.loads((tmp_path / "metrics/crawl.json").read_text())["products"] == 1


def test_the_stage_tells_the_faults_of_sources_and_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.csv").write_text("Category,Shop\n")
    assert stage(tmp_path, monkeypatch, source="shops", sources="s.csv") == 2
    assert capfd.readouterr().err.startswith("error: s.csv: line 1: expected one column Taxonomy")
    assert not (tmp_path / "data").exists()
