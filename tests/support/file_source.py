"""A table and a folder of images as the product source, and the stages that read them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from atlas_model.core.params import Params, load_params
from atlas_model.data.schemas import IMAGES, PRODUCTS, REFS, read_table
from crawlers.files.entries import Columns
from crawlers.files.products import write_products
from flows import paths
from flows.stages import crawl, fetch
from flows.stages.entry import read_metrics
from tests.support.fetching import jpeg
from tests.support.paths import ROOT

COLUMNS = {"image": "image", "category": ["category"], "product": None, "title": "title", "price": None, "split": None}


def put(*names: str) -> None:
    """Write images into the folder."""
    for name in names:
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(name))


def write_csv(*rows: str, header: str = "image,category,title") -> Path:
    """Write a CSV table of ``rows`` into the current folder."""
    path = Path("table.csv")
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_jsonl(*rows: object) -> Path:
    """Write a JSON Lines table into the current folder; rows that are text are written unchanged."""
    path = Path("table.jsonl")
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def products_of(table: Path, separator: str | None = ">", **columns: Any) -> list[dict[str, Any]]:
    """The products read from ``table``."""
    options: dict[str, Any] = {"table": table, "images": Path("photos"), "separator": separator}
    write_products(paths.PRODUCTS, columns=Columns(**COLUMNS | columns), **options)
    written = read_table(paths.PRODUCTS, PRODUCTS, "crawl")
    ids = written["product_id"].to_pylist()
    assert ids == sorted(set(ids))
    return written.to_pylist()


def stage_params(table: Path, columns: dict[str, Any] | None = None, **changes: Any) -> Params:
    """Parameters with which the stages read ``table``; ``changes`` are those of the stage fetch."""
    params = load_params(ROOT / "params.yaml").model_dump(mode="json")
    files = {"table": str(table), "images": "photos", "separator": ">", "columns": COLUMNS | (columns or {})}
    params["crawl"] |= {"source": "files", "files": files}
    params["fetch"] |= {"max_failed_share": 1.0} | changes
    return Params.model_validate(params)


def run(table: Path, columns: dict[str, Any] | None = None, **changes: Any) -> dict[str, str]:
    """Run both stages; return the outcome of each image."""
    params = stage_params(table, columns, **changes)
    crawl.run(params)
    fetch.run(params)
    refs = read_table(paths.REFS, REFS, "fetch").to_pylist()
    images = set(read_table(paths.SHARDS, IMAGES, "fetch", ["image_id"])["image_id"].to_pylist())
    assert {ref["image_id"] for ref in refs} - {None} == images
    assert all((ref["image_id"] is None) == (ref["status"] != "ok") for ref in refs)
    assert read_metrics("fetch")["statuses"] == Counter(ref["status"] for ref in refs)
    return {ref["image_url"].partition(":")[2]: ref["status"] for ref in refs}
