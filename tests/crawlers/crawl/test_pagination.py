"""Walks through category pages and sitemaps, and their termination on endless listings."""

import gzip
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from crawlers.crawl.pagination import ListingWalk, on_site
from crawlers.crawl.run import CrawlResult
from tests.support.crawling import listing, product, rows, run, source, titles
from tests.support.servers import HOST, Reply, Shop, serving
from tests.support.sitemaps import index, urlset

Answer = Callable[[str, dict[str, str]], Reply]  # arguments: path, query


class Endless(Shop):
    """A shop that generates a page for any URL."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def reply(self, path: str) -> Reply:
        self.asked[path] += 1
        parts = urlsplit(path)
        if parts.path == "/robots.txt":
            return Reply("", 404)
        return self._answer(parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()})


def crawl_endless(
    folder: Path, answer: Callable[[str, dict[str, str]], Reply], limit: int = 12
) -> tuple[CrawlResult, Shop]:
    with serving(Endless(answer)) as shop:
        return run(shop, [source("/c")], folder, max_pages_per_category=limit), shop


def test_endless_listings_end_with_a_reason(tmp_path: Path) -> None:
    fresh = count()

    def answer(path: str, query: dict[str, str]) -> Reply:
        number = int(query.get("n", 0))
        match path:
            case "/itself":  # links to itself under new URLs
                return listing("/p/1", "/p/2", next_page=f"/itself?session={next(fresh)}")
            case "/sessions":  # session ids in product URLs too
                here = [f"/p/{n}?session={next(fresh)}" for n in range(10, 15)]
                return listing(*here, next_page=f"/sessions?session={next(fresh)}")
            case "/calendar":
                return listing(f"/p/{100 + number}", next_page=f"/calendar?n={number + 1}")
            case "/empty-days":
                return listing(*["/p/3"] * (number == 0), next_page=f"/empty-days?n={number + 1}")
        return product(f"P {path}", canonical=path)

    sources = [source(path) for path in ("/itself", "/sessions", "/calendar", "/empty-days")]
    with serving(Endless(answer)) as shop:
        result = run(shop, sources, tmp_path, max_pages_per_category=12)
    pages = Counter(urlsplit(path).path for path in shop.asked.elements())
    assert {one.url: pages[urlsplit(one.url).path] for one in sources} == {
        f"http://{HOST}/itself": 2,
        f"http://{HOST}/sessions": 4,
        f"http://{HOST}/calendar": 12,
        f"http://{HOST}/empty-days": 2,
    }
    assert result.walk_ends == {"no_new_products": 2, "page_limit": 1, "repeating_pages": 1}
    assert result.category_faults == {"page_limit": 1, "repeating_pages": 1}
    assert result.products == 2 + 5 + 12 + 1
    assert result.dropped == {"duplicate": 3 * 5}


def test_requests_of_endless_product_urls_are_bounded(tmp_path: Path) -> None:
    items = [f"/p/{n % 2}?session={n}" for n in range(400)]

    def answer(path: str, query: dict[str, str]) -> Reply:
        return listing(*items) if path == "/c" else product(f"P {path}", canonical=path)

    result, shop = crawl_endless(tmp_path, answer)
    assert {row["page_url"] for row in rows(tmp_path)} == {f"http://{HOST}/p/0", f"http://{HOST}/p/1"}
    asked = sum(times for path, times in shop.asked.items() if path.startswith("/p/"))
    assert asked + result.variants == len(items)
    assert asked < 200, "those in the queue when three were alike, and no more"
    assert result.dropped == {"duplicate": len(items) - 2}


def test_requests_all_products_that_differ_by_query(tmp_path: Path) -> None:
    def answer(path: str, query: dict[str, str]) -> Reply:
        if path == "/c":
            page = int(query.get("page", 1))
            here = [f"/product.php?id={n}" for n in range(page * 3, page * 3 + 3)]
            return listing(*here, next_page=f"/c?page={page + 1}" if page < 8 else None)
        return product(f"P {query['id']}", canonical=f"/product.php?id={query['id']}")

    result, _ = crawl_endless(tmp_path, answer)
    assert (result.products, result.dropped, result.walk_ends) == (24, {}, {"last_page": 1})


def test_follows_redirects_between_category_pages(tmp_path: Path) -> None:
    shop = Shop(
        {
            "/c": Reply("", 301, {"Location": "/c/"}),
            "/c/": listing("/p/1", next_page="/c/?page=2"),
            "/c/?page=2": listing("/p/2", next_page="/c/?page=3"),
            "/c/?page=3": Reply("", 302, {"Location": "/c/last"}),
            "/c/last": listing("/p/3", next_page="/c/"),  # "/c/" was seen only as a redirect's target
        }
        | {f"/p/{n}": product(f"P{n}", str(n)) for n in range(1, 4)}
    )
    with serving(shop):
        result = run(shop, [source("/c")], tmp_path)
    assert (result.walk_ends, result.products) == ({"seen_page": 1}, 3)
    assert shop.asked["/c/"] == 1


def test_reasons_for_the_end_of_a_walk() -> None:
    walk = ListingWalk(source("/c"), 0, max_pages=2)
    url = f"http://{HOST}/c"
    walk.ask(url)
    walk.arrive(url + "/moved", ["a"], 1)
    assert walk.end(None, 1) == "last_page"
    assert walk.end(url, 0) == "no_new_products"
    assert walk.end(url, 1) == walk.end(url + "/moved", 1) == "seen_page"
    assert walk.end("http://evil.test/", 1) == "offsite"
    assert walk.end(url + "?2", 1) is None
    walk.ask(url + "?2")
    assert walk.end(url + "?3", 1) == "page_limit"


@pytest.mark.parametrize(
    ("host", "site", "same"),
    [
        ("a.test", "www.a.test", True),
        ("shop.a.test", "a.test", True),
        ("a.test", "shop.a.test", False),
        ("evila.test", "a.test", False),
        ("a.test.evil", "a.test", False),
    ],
)
def test_recognises_hosts_of_a_site(host: str, site: str, same: bool) -> None:
    assert on_site(f"http://{host}/", site) is same


def test_crawls_from_a_sitemap(tmp_path: Path) -> None:
    def at(*paths: str) -> list[str]:
        return [f"http://{HOST}{path}" for path in paths]

    shop = Shop(
        {
            "/map.xml": Reply(index(*at("/products-1.xml.gz", "/products-2.xml", "/pages.xml"))),
            "/products-1.xml.gz": Reply(gzip.compress(urlset(*at("/p/1", "/p/2"))), headers={}),
            "/products-2.xml": Reply(urlset(*at("/p/3"), "http://evil.test/p/4")),
            "/no-name": Reply(urlset(*at("/p/5"))),
        }
        | {f"/p/{n}": product(f"P{n}", str(n)) for n in range(1, 6)}
    )
    sources = [source("/map.xml", "A"), source("/no-name", "B")]
    with serving(shop):
        result = run(shop, sources, tmp_path)
    assert {row["title"]: row["taxonomy"] for row in rows(tmp_path)} == {
        "P1": ["A"], "P2": ["A"], "P3": ["A"], "P5": ["B"],
    }  # fmt: skip
    assert (result.dropped, result.category_faults) == ({"offsite": 1}, {})
    assert shop.asked["/pages.xml"] == 0, "of an index that names products, only those"


@pytest.mark.parametrize("port", ["99999", "0", "abc"])
def test_ignores_links_with_invalid_ports(tmp_path: Path, port: str) -> None:
    shop = Shop({"/c": listing("/p/1", f"http://{HOST}:{port}/p/2"), "/p/1": product("P1")})
    with serving(shop):
        assert run(shop, [source("/c")], tmp_path).products == 1


def test_reads_all_pages_that_differ_in_images_despite_one_canonical_url(tmp_path: Path) -> None:
    items = [f"/v?colour={n}" for n in range(200, 0, -1)]  # more than are requested at once, in reverse order

    def answer(path: str, query: dict[str, str]) -> Reply:
        return listing(*items) if path == "/c" else product("V", canonical="/v", image=f"/{query['colour']}.jpg")

    result, _ = crawl_endless(tmp_path, answer)
    assert (result.products, result.variants) == (1, 0)
    assert rows(tmp_path)[0]["image_urls"] == [f"http://{HOST}/1.jpg"]


def test_endless_sitemap_indexes_end(tmp_path: Path) -> None:
    def answer(path: str, query: dict[str, str]) -> Reply:
        if path.endswith(".xml"):
            return Reply(index(f"http://{HOST}/{path.count('x')}x{path}", f"http://{HOST}/map.xml"))
        return product(path, path)

    def first(path: str, query: dict[str, str]) -> Reply:
        return listing("/p/1", next_page="/map.xml") if path == "/c" else answer(path, query)

    result, _ = crawl_endless(tmp_path, first)
    assert result.walk_ends == {"page_limit": 1, "seen_page": 11}, "each of the sitemaps names the first"
    assert result.listing_pages == 12


@pytest.mark.slow
def test_sitemap_that_cannot_be_fetched_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sitemap = Reply(urlset(f"http://{HOST}/p/1", f"http://{HOST}/p/lost"), headers={})
    shop = Shop({"/sitemap.xml": Reply("", 500), "/c": listing("/p/1"), "/p/1": product("One", "1")})
    with serving(shop):
        result = run(shop, [source("/c")], tmp_path, check_sitemaps=True)
        assert result.sitemap_faults == {"http_500": 1}
        assert f"sitemap http://{HOST}/sitemap.xml: " in capsys.readouterr().err
        shop.pages["/sitemap.xml"] = sitemap
        result = run(shop, [source("/c")], tmp_path, check_sitemaps=True, snapshot="two")
    assert result.sitemap_faults == {}
    assert result.never_met == {HOST: 1}


@pytest.mark.slow
def test_counts_sitemap_products_that_no_category_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [f"http://{HOST}{path}" for path in ("/p/1", "/p/2", "/p/lost", "/p/too", "/about")]
    shop = Shop(
        {
            "/robots.txt": Reply(f"Sitemap: http://{HOST}/maps/all.xml\n", headers={"Content-Type": "text/plain"}),
            "/maps/all.xml": Reply(index(f"http://{HOST}/maps/1.xml.gz", "http://evil.test/2.xml")),
            "/maps/1.xml.gz": Reply(gzip.compress(urlset(*listed, "http://evil.test/p/3")), headers={}),
            "/c": listing("/p/1", "/p/2?ref=c"),
            "/p/1": product("One", "1"),
            "/p/2?ref=c": product("Two", "2", canonical="/p/2"),
        }
    )
    with serving(shop):
        result = run(shop, [source("/c")], tmp_path, check_sitemaps=True)
        assert result.never_met == {HOST: 2}
        assert (
            f"2 products of its sitemaps are in no category, such as ['http://{HOST}/p/lost'" in capsys.readouterr().err
        )
        assert shop.asked["/sitemap.xml"] == 0, "robots.txt names another one"

        del shop.pages["/robots.txt"]
        result = run(shop, [source("/c")], tmp_path, check_sitemaps=True, snapshot="two")
        assert shop.asked["/sitemap.xml"] == 1
        assert result.never_met == result.category_faults == {}, "a shop without a sitemap is none with a fault"
    assert titles(tmp_path) == {"One", "Two"}
