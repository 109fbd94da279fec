"""Products of a table of URLs (`crawl.source: urls`): what to download, and the status of each image.

Downloads by `crawlers.fetch`, like images of all other sources. Images of unusable rows, and empty fields, are not
requested; they get a status too.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from atlas_model.data.schemas import REFS, iterate_shards, write_rows
from crawlers.fetch.index import UrlStatus
from crawlers.fetch.spool import Spool
from crawlers.files.images import COLUMNS, PRODUCTS_AT_ONCE
from crawlers.files.references import FAULT, NO_IMAGE


def requested(products: Path) -> Iterator[str]:
    """The URLs of usable products in products.parquet, which may repeat."""
    return (url for _, _, url, status in _images(products) if status is None)


def unrequested(products: Path) -> Counter[str]:
    """The number of images that are not requested, by status."""
    return Counter(status for _, _, _, status in _images(products) if status is not None)


def write_refs(path: Path, products: Path, spool: Spool) -> None:
    """Write the status of each image of each product (refs.parquet), sorted by (product_id, position)."""
    rows = (
        {
            "product_id": product_id,
            "image_url": url,
            "position": position,
            **(spool.lookup(url) if status is None else UrlStatus(status, None, None))._asdict(),
        }
        for product_id, position, url, status in _images(products)
    )
    write_rows(path, rows, REFS)


def _images(products: Path) -> Iterator[tuple[str, int, str, str | None]]:
    """For each image: product id, position, URL, and its status if it is not requested."""
    for batch in iterate_shards(products, COLUMNS, "crawl", PRODUCTS_AT_ONCE):
        for product_id, details, urls in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            fault = dict(details).get(FAULT)
            for position, url in enumerate(urls):
                yield product_id, position, url, fault or ("no_image" if url == NO_IMAGE else None)
