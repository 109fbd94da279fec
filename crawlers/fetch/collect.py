"""The last pass: from the spool and the outcomes to sorted outputs, the same whatever order things arrived in.

Knows nothing of how they arrived.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas_model.progress import track
from atlas_model.records import IMAGES, REFS, ShardWriter, write_table
from crawlers.fetch.pictures import Fetched, Pictures


def iterate_pictures(pictures: Pictures, rows_at_once: int) -> Iterator[dict[str, Any]]:
    """Every distinct picture once, as rows of `records.IMAGES` by image_id; memory holds ``rows_at_once`` of them."""
    place_of = {found.image_id: found.place for found in pictures.fetched.values() if found.place is not None}
    places = [place_of[image_id] for image_id in sorted(place_of)]
    for start in range(0, len(places), rows_at_once):
        wanted = places[start : start + rows_at_once]
        rows = dict(pictures.spool.gather(wanted))
        for place in wanted:
            yield rows.pop(place)


def write_images(folder: Path, pictures: Pictures, shard_rows: int) -> None:
    """Write every distinct picture to ``folder``, sorted by image_id, ``shard_rows`` per shard."""
    rows = iterate_pictures(pictures, shard_rows)
    with ShardWriter(folder, IMAGES, shard_rows) as writer:
        for row in track(rows, "collect", pictures.report.pictures, "pictures"):
            writer.append(row)


def write_refs(path: Path, products: pa.Table, fetched: Mapping[str, Fetched]) -> None:
    """Write what became of each picture of each product, sorted by (product_id, position)."""
    rows = [
        {
            "product_id": product_id,
            "image_url": url,
            "position": position,
            "image_id": fetched[url].image_id,
            "status": fetched[url].status,
        }
        for product_id, urls in _pictures_of(products)
        for position, url in enumerate(urls)
    ]
    table = pa.Table.from_pylist(rows, schema=REFS)
    write_table(path, table.sort_by([("product_id", "ascending"), ("position", "ascending")]), REFS)


def _pictures_of(products: pa.Table) -> Iterator[tuple[str, Sequence[str]]]:
    return zip(products["product_id"].to_pylist(), products["image_urls"].to_pylist(), strict=True)
