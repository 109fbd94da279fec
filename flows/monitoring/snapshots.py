"""The products of earlier crawls, by the names of their snapshots."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from atlas_model.core.errors import InputError
from atlas_model.data.schemas import PRODUCTS as SCHEMA
from atlas_model.data.schemas import read_table
from crawlers.crawl.snapshot_diff import COLUMNS
from flows.dvc.repo import read_output, snapshots_in_history
from flows.paths import PRODUCTS, SNAPSHOTS


def products_of(snapshot: str, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """The products as the crawl ``snapshot`` found them: kept beside the data, or in git's and DVC's history.

    Args:
        snapshot: crawl.snapshot of params.yaml, then.
        columns: of products.parquet.

    Raises:
        InputError: no such crawl is known; the text names those that are.
    """
    kept = {path.stem: path for path in SNAPSHOTS.glob("*.parquet")}
    if snapshot in kept:
        return read_table(kept[snapshot], SCHEMA, "crawl", columns)
    commits = snapshots_in_history()
    if snapshot not in commits:
        known = ", ".join(sorted(kept.keys() | commits.keys())) or "none"
        raise InputError(f"no crawl of the name {snapshot!r} is known; known are: {known}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "products.parquet"
        path.write_bytes(read_output(PRODUCTS, commits[snapshot]))
        return read_table(path, SCHEMA, "crawl", columns)
