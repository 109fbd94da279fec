"""The demo shops over real HTTP: mark-up, images, forbidden paths, and the child process."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin
from urllib.robotparser import RobotFileParser

import pytest
import requests
from parsel import Selector
from PIL import Image

from atlas_model.core.errors import MissingError, RetryError
from atlas_model.data.images import decode, perceptual_hash
from crawlers.shop import process
from crawlers.shop.catalogue import (
    PAGE_SIZE,
    SAMPLE,
    SHOPS,
    DemoCatalogue,
    DemoCategory,
    DemoProduct,
    build_catalogue,
    load_catalogue,
    zoomed_urls,
)
from crawlers.shop.drawing import CloseUp
from crawlers.shop.process import running_shop

HOSTS = [shop.host for shop in SHOPS]


class Web:
    """HTTP client of the running shops that accepts absolute URLs."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.session = requests.Session()

    def get(self, url: str, **headers: str) -> requests.Response:
        host, path = re.fullmatch(r"http://([^/]+)(/.*)", url).groups()
        return self.session.get(f"http://127.0.0.1:{self.port}{path}", headers={"Host": host, **headers}, timeout=10)

    def page(self, url: str) -> Selector:
        response = self.get(url)
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/html")
        return Selector(response.text)


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with running_shop() as connect_map:
        assert set(connect_map) == set(HOSTS)
        web = Web(connect_map[HOSTS[0]][1])
        yield web
        web.session.close()


@pytest.fixture(scope="module")
def catalogue() -> DemoCatalogue:
    return load_catalogue()


def url_of(product: DemoProduct) -> str:
    return f"http://{product.shop.host}{product.path}"


def category_of(catalogue: DemoCatalogue, host: str, slug: str = "shirts") -> DemoCategory:
    return next(found for found in catalogue.categories if (found.shop.host, found.kind.slug) == (host, slug))


def awkward_product(catalogue: DemoCatalogue, host: str) -> DemoProduct:
    """A product with several images and a title that must be escaped."""
    wanted = (p for p in catalogue.products() if p.shop.host == host and "<" in p.title and '"' in p.title)
    return next(product for product in wanted if len(product.images) > 1)


LINKS = {
    "shop-a.demo.test": ("li.product a.product-link", 'link[rel="next"]'),
    "shop-b.demo.test": ("article.tile > a", 'nav.pages a:contains("Next")'),
    "shop-c.demo.test": ("div.item a.item-title", "a.older"),
}


@pytest.mark.parametrize("host", HOSTS)
def test_category_pages_list_each_product_once_and_the_forbidden_one(
    web: Web, catalogue: DemoCatalogue, host: str
) -> None:
    category = category_of(catalogue, host)
    products, next_page = LINKS[host]
    url: str | None = f"http://{host}{category.path(1)}"
    found, pages = [], 0
    while url:
        page = web.page(url)
        links = [urljoin(url, href) for href in page.css(f"{products}::attr(href)").getall()]
        assert len(links) <= PAGE_SIZE + 1
        found += links
        pages += 1
        following = page.css(f"{next_page}::attr(href)").get()
        url = urljoin(url, following) if following else None
    assert pages == category.pages > 2
    assert sorted(found) == sorted(url_of(product) for product in [*category.products, category.forbidden])
    assert web.get(f"http://{host}{category.path(pages + 1)}").status_code == 404


def test_robots_txt_forbids_internal_paths_only(web: Web, catalogue: DemoCatalogue) -> None:
    for host in HOSTS:
        robots = RobotFileParser()
        robots.parse(web.get(f"http://{host}/robots.txt").text.splitlines())
        category = category_of(catalogue, host)
        assert not robots.can_fetch("anybody", url_of(category.forbidden))
        assert not robots.can_fetch("anybody", f"http://{host}/cart")
        assert (
            web.get(url_of(category.forbidden)).status_code == 200
        )  # so a crawler that ignores robots.txt is detected
        urls = [f"http://{host}{category.path(2)}", url_of(category.products[0]), *category.products[0].image_urls]
        assert all(robots.can_fetch("anybody", url) for url in urls)
    assert not any("/internal/" in url_of(product) for product in catalogue.products())


def test_shop_a_describes_products_in_json_ld(web: Web, catalogue: DemoCatalogue) -> None:
    product = awkward_product(catalogue, "shop-a.demo.test")
    page = web.page(url_of(product))
    graph = json.loads(page.css('script[type="application/ld+json"]::text').get(""))["@graph"]
    found = {item["@type"]: item for item in graph}
    assert found["Product"]["name"] == product.title
    assert found["Product"]["image"] == product.image_urls
    assert found["Product"]["offers"] == {
        "@type": "Offer",
        "price": str(product.price),
        "priceCurrency": "EUR",
        "availability": "https://schema.org/InStock",
    }
    names = [item["name"] for item in found["BreadcrumbList"]["itemListElement"]]
    assert names == ["Home", *product.kind.breadcrumb]
    rows = [row.css("th::text, td::text").getall() for row in page.css("table.details tr")]
    assert rows == [list(detail) for detail in product.details.items()]
    assert page.css("h1::text").get() == product.title


def test_shop_b_describes_products_in_microdata(web: Web, catalogue: DemoCatalogue) -> None:
    product = awkward_product(catalogue, "shop-b.demo.test")
    page = web.page(url_of(product))
    item = page.css('[itemtype="https://schema.org/Product"]')
    assert item.css('h1[itemprop="name"]::text').get() == product.title
    assert item.css('[itemprop="sku"]::text').get() == str(product.number)
    assert item.css('img[itemprop="image"]::attr(src)').getall() == list(product.images)
    assert item.css('[itemprop="price"]::attr(content)').get() == str(product.price)
    crumbs = page.css('[itemtype="https://schema.org/BreadcrumbList"] [itemprop="name"]::text').getall()
    assert crumbs == list(product.kind.breadcrumb)
    assert dict(zip(page.css(".specs dt::text").getall(), page.css(".specs dd::text").getall(), strict=True)) == (
        product.details
    )
    assert "ld+json" not in page.get()


def test_shop_c_has_no_structured_data_and_truncates_titles(web: Web, catalogue: DemoCatalogue) -> None:
    product = awkward_product(catalogue, "shop-c.demo.test")
    page = web.page(url_of(product))
    assert page.css("h1.product_title::text").get() == product.title
    assert page.css("span.price::text").get() == f"Rs.\u00a0{product.price:,}"
    assert page.css("div.gallery a::attr(href)").getall() == list(product.images)
    assert page.css("div.crumbs a::text").getall() == ["Home", *product.kind.breadcrumb]
    lines = [f"{name}: {text}" for name, text in product.details.items()]
    assert page.css("ul.attributes li::text").getall() == [f"Brand: {product.brand}", *lines]
    assert "itemprop" not in page.get()
    category = category_of(catalogue, "shop-c.demo.test")
    shown = web.page(f"http://shop-c.demo.test{category.path(1)}").css("a.item-title::text").getall()
    for title, listed in zip(shown[:PAGE_SIZE], category.products[:PAGE_SIZE], strict=True):
        assert title == listed.title or (title.endswith("…") and listed.title.startswith(title[:-1]))


def test_images_are_jpegs_with_an_etag(web: Web, catalogue: DemoCatalogue) -> None:
    product = next(p for p in catalogue.products() if f"http://{p.shop.host}{list(p.images)[-1]}" in zoomed_urls())
    normal, *_, zoomed = product.image_urls
    contents = []
    for url in (normal, zoomed):
        response = web.get(url)
        assert response.headers["Content-Type"] == "image/jpeg"
        image = Image.open(io.BytesIO(response.content))
        assert (image.format, image.size) == ("JPEG", (112, 112))
        again = web.get(url, **{"If-None-Match": response.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        contents.append(response.content)
    assert contents[0] != contents[1]
    assert Image.open(io.BytesIO(web.get(f"{normal}?w=56").content)).size == (56, 56)


def test_some_images_are_missing(web: Web, catalogue: DemoCatalogue) -> None:
    gone = [
        f"http://{product.shop.host}{path}"
        for product in catalogue.products()
        for path, image in product.images.items()
        if image is None
    ]
    assert 10 <= len(gone) <= 100
    assert web.get(gone[0]).status_code == 404


def test_some_garments_are_sold_by_two_shops(web: Web, catalogue: DemoCatalogue) -> None:
    offers: dict[int, list[DemoProduct]] = {}
    for product in catalogue.products():
        offers.setdefault(next(iter(product.images.values())).source, []).append(product)
    twice = [products for products in offers.values() if len(products) > 1]
    exact = near = 0
    for first, second in twice:
        assert first.kind == second.kind and first.shop != second.shop
        a, b = (web.get(product.image_urls[0]).content for product in (first, second))
        exact += a == b
        distance = int(perceptual_hash(decode(a)) ^ perceptual_hash(decode(b))).bit_count()
        near += a != b and distance <= 2
    assert exact >= 30 and near >= 30


def test_unknown_shops_and_pages_are_404(web: Web) -> None:
    assert web.get("http://elsewhere.test/").status_code == 404
    assert web.get("http://shop-a.demo.test/p/nothing").status_code == 404
    assert web.get("http://shop-a.localhost/c/shirts").status_code == 200  # as a browser requests it


def test_catalogue_is_large_enough_and_deterministic(catalogue: DemoCatalogue) -> None:
    products = list(catalogue.products())
    urls = [url for product in products for url in product.image_urls]
    assert len(products) >= 8000
    assert len(urls) == len(set(urls)) <= 20_000
    assert len({(product.shop.host, product.path) for product in products}) == len(products)
    assert len(zoomed_urls()) == pytest.approx(0.15 * len(products), rel=0.05)
    assert zoomed_urls() < set(urls)
    assert not any(isinstance(next(iter(product.images.values())).view, CloseUp) for product in products)
    assert list(build_catalogue(SAMPLE).products()) == products
    assert [products[place].title for place in (0, 9000)] == ["Blåtind Classic Tee", "O'Hara 50/50 Trainers"]


def test_missing_sample_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"sample\.parquet.*tools/build_sample\.py"):
        build_catalogue(tmp_path / "sample.parquet")


def test_shop_ends_if_its_parent_is_killed() -> None:
    program = (
        "import time\n"
        "from crawlers.shop.process import running_shop\n"
        "with running_shop() as connect_map:\n"
        "    print(connect_map['shop-a.demo.test'][1], flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=process.ROOT)
    with parent:
        port = int(parent.stdout.readline())
        assert is_listening(port)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_listening(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_listening(port)


def test_shop_stops_after_the_block() -> None:
    with running_shop() as connect_map:
        port = connect_map["shop-b.demo.test"][1]
        assert is_listening(port)
    assert not is_listening(port)


def test_error_if_the_shop_does_not_start_has_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crawlers/shop").mkdir(parents=True)
    for folder in ("crawlers", "crawlers/shop"):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "crawlers/shop/__main__.py").write_text("import sys; sys.exit('error: out of stock')")
    monkeypatch.setattr(process, "ROOT", tmp_path)
    with pytest.raises(RetryError, match=r"exit code 1.*out of stock"), running_shop():
        pass


@pytest.mark.slow
def test_used_port_is_a_one_line_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "crawlers.shop", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=process.ROOT, timeout=60)
    assert ended.returncode == 1
    assert re.fullmatch(r"error: port \d+ cannot be used: .*\n", ended.stderr)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
