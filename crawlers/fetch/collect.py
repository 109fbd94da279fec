"""Writes the sorted output tables from the spool, independent of the order of downloads.

Memory is bounded by a shard of images and a batch of products.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas_model.core.errors import InputError
from atlas_model.core.progress import track
from atlas_model.data.schemas import IMAGES, PRODUCTS, REFS, ShardWriter, iterate_shards, write_rows
from crawlers.fetch.spool import Spool

PRODUCTS_AT_ONCE = 4_096
COLUMNS = pa.schema([PRODUCTS.field("product_id"), PRODUCTS.field("image_urls")])


def image_urls(products: Path) -> Iterator[str]:
    """The URLs of all images of all products in products.parquet; they may repeat."""
    for batch in iterate_shards(products, COLUMNS, "crawl", PRODUCTS_AT_ONCE):
        yield from batch["image_urls"].flatten().to_pylist()


def write_images(folder: Path, spool: Spool, shard_rows: int) -> None:
    """Write every distinct image to ``folder``, sorted by image_id, ``shard_rows`` per shard.

    Raises:
        RetryError: bytes were damaged on disk.
    """
    total, _ = spool.totals()
    with ShardWriter(folder, IMAGES, shard_rows) as writer:
        for row in track(spool.images(), "collect", total, "images"):
            writer.append(row)


def write_refs(path: Path, products: Path, spool: Spool) -> None:
    """Write the status of each image of each product, sorted by (product_id, position).

    Raises:
        InputError: the products are not sorted.
    """
    write_rows(path, _refs(products, spool), REFS)


def _refs(products: Path, spool: Spool) -> Iterator[dict[str, Any]]:
    last = ""
    for batch in iterate_shards(products, COLUMNS, "crawl", PRODUCTS_AT_ONCE):
        for product_id, urls in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if product_id < last:
                raise InputError(f"{products}: expected products sorted by product_id. Crawl again: dvc repro -f crawl")
            last = product_id
            for position, url in enumerate(urls):
                found = spool.lookup(url)._asdict()
                yield {"product_id": product_id, "image_url": url, "position": position, **found}
