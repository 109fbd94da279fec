"""Reads the products of earlier crawls by the names of their snapshots."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from atlas_model.core.checksums import state_of
from atlas_model.core.errors import InputError
from atlas_model.core.progress import say
from atlas_model.data.schemas import PRODUCTS as SCHEMA
from atlas_model.data.schemas import read_table
from crawlers.crawl.snapshot_diff import COLUMNS
from flows.dvc.repo import read_output, snapshots_in_history
from flows.paths import PRODUCTS, SNAPSHOTS


def products_of(snapshot: str, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """The products of ``snapshot``, from its local copy, or from git's history and DVC's cache.

    Args:
        snapshot: crawl.snapshot in the params.yaml of that crawl.
        columns: of products.parquet.

    Raises:
        InputError: the snapshot is unknown; the text names the known ones.
    """
    kept = {path.stem: path for path in SNAPSHOTS.glob("*.parquet")}
    if snapshot in kept and state_of(kept[snapshot]) == "damaged":
        say(f"{kept.pop(snapshot)}: this copy is damaged. The products are read from git's history and DVC's cache")
    if snapshot in kept:
        return read_table(kept[snapshot], SCHEMA, "crawl", columns)
    commits = snapshots_in_history()
    if snapshot not in commits:
        known = ", ".join(sorted(kept.keys() | commits.keys())) or "none"
        raise InputError(f"unknown snapshot {snapshot!r}; expected one of: {known}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "products.parquet"
        path.write_bytes(read_output(PRODUCTS, commits[snapshot]))
        return read_table(path, SCHEMA, "crawl", columns)
