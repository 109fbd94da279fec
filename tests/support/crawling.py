"""Pages of a test shop, and a crawl of it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import locked
from atlas_model.data.schemas import PRODUCTS
from crawlers.crawl.run import CrawlResult, crawl
from crawlers.http.host_limits import HostProfile
from crawlers.sources.csv_sources import Source
from tests.support.servers import HOST, Reply, Shop

QUICK = HostProfile(delay_s=0, concurrency=4, autothrottle=False)
SHIRT = ("Clothing", "Tops", "Shirt")
HTML = "text/html; charset=utf-8"


def listing(*urls: str, next_page: str | None = None, **headers: str) -> Reply:
    """A category page that lists ``urls`` in JSON-LD and links to ``next_page``; ``headers`` are the response's."""
    data = {"@type": "ItemList", "itemListElement": [{"@type": "ListItem", "url": url} for url in urls]}
    link = f'<link rel="next" href="{next_page}">' if next_page else ""
    body = f'<html><head>{link}<script type="application/ld+json">{json.dumps(data)}</script></head></html>'
    return Reply(body, headers={"Content-Type": HTML, **headers})


def product(
    name: str | None,
    sku: str | None = None,
    image: str | list[str] | None = "/i.jpg",
    canonical: str = "",
    price: str | None = None,
    breadcrumb: tuple[str, ...] = (),
    **headers: str,
) -> Reply:
    """A product page in JSON-LD; fields that are None are null."""
    offers = {"price": price, "priceCurrency": "EUR"} if price else None
    data: list[dict[str, Any]] = [
        {"@type": "Product", "name": name, "sku": sku, "image": image, "offers": offers},
        {"@type": "BreadcrumbList", "itemListElement": [{"@type": "ListItem", "name": name} for name in breadcrumb]},
    ]
    script = json.dumps(data).replace("<", "\\u003c")
    link = f'<link rel="canonical" href="{canonical}">' if canonical else ""
    body = f'<html><head>{link}<script type="application/ld+json">{script}</script></head></html>'
    return Reply(body, headers={"Content-Type": HTML, **headers})


def source(path: str, *taxonomy: str) -> Source:
    """A category of the shop: the URL of its first page, and its path in the taxonomy."""
    return Source(HOST, taxonomy or SHIRT, f"http://{HOST}{path}")


def run(shop: Shop, sources: list[Source], folder: Path, **changes: Any) -> CrawlResult:
    """Crawl into ``folder``/products.parquet without rate limits."""
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
    """The rows of the product table in ``folder``."""
    table = pq.read_table(folder / "products.parquet")
    assert table.schema.equals(PRODUCTS)
    return table.to_pylist()


def titles(folder: Path) -> set[str]:
    """The titles of the products in ``folder``."""
    return {row["title"] for row in rows(folder)}


def is_free(folder: Path) -> bool:
    """Whether no crawl holds the lock of ``folder``."""
    try:
        with locked(folder, "crawl"):
            return True
    except AtlasError:
        return False
