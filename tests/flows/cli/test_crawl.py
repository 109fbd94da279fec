"""`atlas crawl try` and `atlas crawl record` against a real server: what is printed, kept, and never asked for."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from crawlers.http.policy import MAX_PAGE_BYTES
from crawlers.pages.saved import SavedPage, read_page
from crawlers.pages.shops import GENERIC
from flows.cli.main import main
from tests.support.paths import ROOT
from tests.support.servers import HOST, Reply, Shop, serving

PRODUCT = Reply(
    "<html><head></head><body><h1>Shirt \x1b[2J\u202e&lt;b&gt;</h1><p class=price>12,50 €</p>"
    "<div class=gallery><img src=/1.jpg></div><table><tr><th>Fit\x9b\ue000</th><td>Slim</td></tr></table></body></html>"
)
LISTING = Reply(
    "<h1>Shirts</h1>"
    + "".join(f"<div><a href=/p/{n}><img src=/{n}.jpg>Shirt {n}</a> <b>{n} €</b></div>" for n in range(1, 4))
    + "<a href='?page=2'>Next</a>"
)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A server at http://shop.test, and a project whose params name it."""
    with serving(Shop({"/p/1": PRODUCT, "/c": LISTING})) as running:
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["crawl"] |= {"source": "shops", "connect": {HOST: f"127.0.0.1:{running.port}"}, "timeout_s": 5}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        monkeypatch.chdir(tmp_path)
        yield running


def attempt(path: str, *options: str) -> int:
    return main(["crawl", "try", f"http://{HOST}{path}", *options])


def test_prints_each_product_field_with_its_source(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert attempt("/p/1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"http://{HOST}/p/1: a product, read as generic"
    assert [line.split() for line in lines[1:]] == [
        ["title", "heuristic", "Shirt", "[2J<b>"],
        ["price", "heuristic", "12.50"],
        ["currency", "heuristic", "EUR"],
        ["availability", "price", "InStock"],
        ["image_urls", "(1)", "heuristic", f"http://{HOST}/1.jpg"],
        ["details", "(1)", "heuristic", "Fit\ufffd:", "Slim"],
        ["missing:", "sku,", "breadcrumb"],
    ]
    headers = dict(shop.headers)
    assert set(headers) == {"/robots.txt", "/p/1"}
    assert all(sent["User-Agent"].startswith("Atlas/") for sent in headers.values())


def test_prints_products_and_next_page_of_a_listing(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert attempt("/c") == 0
    out = capsys.readouterr().out
    assert "a listing, read as generic" in out
    assert f"items (3)          heuristic          http://{HOST}/p/1\n" in out
    assert f"next_page          next link          http://{HOST}/c?page=2\n" in out
    assert "missing" not in out


def test_reports_invalid_json_ld(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    script = '<script type="application/ld+json">{"name": "5" heel"}</script>'
    shop.pages["/p/odd"] = Reply(f"{script}<h1>Shirt</h1><img src=/1.jpg>", headers={"Content-Type": "text/html"})
    assert attempt("/p/odd") == 0
    assert "unreadable: 1 of the JSON-LD scripts of the page are not valid JSON\n" in capsys.readouterr().out


def test_page_kind_can_be_given(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert attempt("/c", "--as", "product") == 1  # no image of its own
    assert "missing: price, currency, availability, sku, breadcrumb, image_urls, details" in capsys.readouterr().out


def test_page_without_product_data_fails(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.pages["/empty"] = Reply("")
    assert attempt("/empty") == 1
    assert (
        "missing: title, price, currency, availability, sku, breadcrumb, image_urls, details" in capsys.readouterr().out
    )


def test_reports_kind_of_page(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(path: str) -> str:
        attempt(path)
        return capsys.readouterr().out.partition("\n")[0].partition(": ")[2]

    grid = str(LISTING.body).replace("<h1>", "<img src=/banner.jpg><div class=gallery><img src=/b.jpg></div><h1>")
    shop.pages["/grid"] = Reply(grid.replace("</h1>", "</h1><p>Free delivery from <b class=price>20 €</b></p>"))
    shop.pages["/about"] = Reply("<h1>About us</h1><p>We sell shirts.</p>")
    shop.pages["/bought"] = Reply(str(PRODUCT.body) + "<h2>You may also like</h2><div>" + str(LISTING.body) + "</div>")
    shop.pages["/map.xml"] = Reply(
        '<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url>'
        "<loc>http://shop.test/p/1</loc></url></urlset>",
        headers={"Content-Type": "text/xml"},
    )
    assert printed("/grid").startswith("a listing")
    assert printed("/bought").startswith("a product")
    assert printed("/about").startswith("neither a product page nor a listing")
    assert printed("/map.xml").startswith("a sitemap")


@pytest.mark.parametrize("name", ["page", "-"], ids=["served", "file"])
@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(60), "a JPEG image"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image"),
        (b"%PDF-1.7\n%\xe2", "a PDF file"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"\0\1\2\3", "binary data"),
    ],
)
def test_refuses_responses_that_are_not_pages(
    shop: Shop, tmp_path: Path, name: str, body: bytes, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.pages["/p/9"] = Reply(body)
    (tmp_path / "page").write_bytes(body)
    assert attempt("/p/9", *(["--file", "page"] if name == "-" else [])) == 2
    assert capsys.readouterr().err == f"error: http://{HOST}/p/9: expected a page, got {what}\n"


def test_reports_unknown_host(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crawl", "try", "http://no-such-host.invalid/p/1"]) == 2
    assert "its host does not exist" in capsys.readouterr().err


def test_reports_refused_connection(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["crawl"]["connect"] = {HOST: "127.0.0.1:1"}  # where nobody listens
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert attempt("/p/1") == 1
    assert "its server cannot be connected to" in capsys.readouterr().err


def test_reader_errors_print_no_traceback(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("deep inside")

    monkeypatch.setattr("flows.cli.crawl.read_page", fail)
    assert attempt("/p/1") == 1
    assert "reading it failed, which is a bug in crawlers/pages: RuntimeError('deep inside')" in capsys.readouterr().err


@pytest.mark.slow
def test_reads_demo_shop_pages_with_any_crawl_source(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crawl", "try", "http://shop-c.demo.test/category/shirts/"]) == 0
    assert "a listing, read as shop_c" in capsys.readouterr().out


def test_reads_saved_file_without_network(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.html").write_text("<h1>Kept</h1><main><img src=/1.jpg></main>")
    (tmp_path / "own.yaml").write_text(f"hosts: [{HOST}]\nproduct: {{title: main, sku: {{url: 'p/(.*)'}}}}")
    assert attempt("/p/9", "--file", "page.html") == 0
    assert "heuristic          Kept" in capsys.readouterr().out
    assert attempt("/p/9", "--file", "page.html", "--profile", "own.yaml") == 0
    out = capsys.readouterr().out
    assert "read as own" in out
    assert "sku                url                9" in out
    assert not shop.asked
    assert attempt("/p/9", "--file", "none.html") == 2


def test_decodes_saved_file_like_a_response(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = "<html><head><meta charset=iso-8859-15></head><body><main>"
    body = f"{head}<h1>Hülle</h1><p class=price>12 €</p><img src=/1.jpg></main></body></html>".encode("iso-8859-15")
    packed = gzip.compress(body[:40]) + gzip.compress(body[40:])
    for content in (body, packed):
        (tmp_path / "page.html").write_bytes(content)
        assert attempt("/p/9", "--file", "page.html") == 0
        out = capsys.readouterr().out
        assert "Hülle" in out
        assert "EUR" in out
    (tmp_path / "page.html").write_bytes(packed[:-9])
    assert attempt("/p/9", "--file", "page.html") == 2
    assert "is truncated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("robots", "exit_code", "words"),
    [
        (Reply("User-agent: Atlas\nDisallow: /p/"), 2, "its robots.txt forbids it"),
        (Reply("User-agent: other\nDisallow: /"), 0, ""),
        (Reply("", 404), 0, ""),
        (Reply("x", 503), 1, "it is unknown what is allowed"),
        (Reply("#" * 600_000 + "\nUser-agent: *\nDisallow: /"), 0, ""),  # RFC 9309: the first 500 KiB count
    ],
)
def test_obeys_robots_txt(
    shop: Shop, robots: Reply, exit_code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.pages["/robots.txt"] = robots
    assert attempt("/p/1") == exit_code
    assert words in capsys.readouterr().err
    assert shop.asked["/p/1"] == (exit_code == 0)


def redirect(target: str) -> Reply:
    return Reply("", 302, {"Location": target})


@pytest.mark.parametrize(
    ("reply", "exit_code", "words"),
    [
        (redirect("/p/1"), 0, ""),
        (redirect("/secret/1"), 2, "robots.txt forbids"),
        (redirect("http://169.254.169.254/latest"), 2, "no public address"),
        (redirect("http://127.0.0.1/"), 2, "no public address"),
        (redirect("file:///etc/passwd"), 2, "expected http"),
        (redirect("/x"), 1, "redirects"),
        (Reply("gone", 404), 1, "expected a page, got HTTP 404"),
        (Reply("busy", 503), 1, "try again later"),
        (Reply("a" * (MAX_PAGE_BYTES + 1)), 2, "larger than"),
        (Reply(PRODUCT.body, 200, {"X-Robots-Tag": "noai"}), 2, "robots meta tag forbids it"),
        (Reply(f"<meta name=robots content=noindex>{PRODUCT.body!s}"), 2, "robots meta tag forbids it"),
        (Reply(gzip.compress(str(PRODUCT.body).encode()), 200, {"Content-Encoding": "gzip"}), 0, ""),
        (Reply(gzip.compress(bytes(8_000_000)), 200, {"Content-Encoding": "gzip"}), 2, ""),
    ],
    ids=range(13),
)
def test_requests_obey_rate_limit_and_address_guard(
    shop: Shop, reply: Reply, exit_code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.pages |= {"/x": reply, "/robots.txt": Reply("User-agent: *\nDisallow: /secret/"), "/secret/1": PRODUCT}
    assert attempt("/x") == exit_code
    assert words in capsys.readouterr().err
    assert not shop.asked["/secret/1"]


@pytest.mark.parametrize(
    "url", ["shop.test/p/1", "ftp://shop.test/", "http://[", "http://127.0.0.1/p/1", "http://\x1b/"]
)
def test_refuses_urls_that_are_not_http(shop: Shop, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crawl", "try", url]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert not shop.asked


def test_recorded_page_becomes_a_test_case(shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "tests/crawlers/pages/saved" / HOST
    for path in ("/p/1", "/c", "/p/1"):
        assert main(["crawl", "record", f"http://{HOST}{path}"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "listing.html",
        "listing.json",
        "product.html",
        "product.json",
    ]
    page = SavedPage.load(folder / "product.json")
    assert (page.kind, page.url, page.body) == ("product", f"http://{HOST}/p/1", str(PRODUCT.body).encode())
    assert read_page(page.kind, GENERIC, page.response) == page.item
    assert page.item["price"] == "12.50"


def test_recorded_pages_get_distinct_names(shop: Shop, tmp_path: Path) -> None:
    shop.pages["/p/2"] = Reply(str(PRODUCT.body).replace("Shirt", "Coat"))
    for path in ("/p/1", "/p/2"):
        assert main(["crawl", "record", f"http://{HOST}{path}", "--folder", "kept"]) == 0
    said = json.loads((tmp_path / "kept" / "product-2.json").read_text(encoding="utf-8"))
    assert said["item"]["name"].startswith("Coat")
    shutil.rmtree(tmp_path / "kept")
