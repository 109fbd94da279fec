"""``atlas crawl changes``: what changed in the shops between two crawls, by the names of their snapshots."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from atlas_model.errors import InputError
from atlas_model.progress import say
from atlas_model.records import PRODUCTS as SCHEMA
from atlas_model.records import read_table
from crawlers.changes import COLUMNS, as_table, changes, write_changes
from flows.dvc_repo import read_output, snapshots_in_history
from flows.stages.paths import PRODUCTS, SNAPSHOTS


def report_changes(old: str, new: str, output: Path | None) -> int:
    """Write what changed to ``output`` (.csv or .parquet), and print a table of it.

    Raises:
        InputError: no crawl of one of these names is known, or ``output`` has another ending.
    """
    path = output or Path(f"reports/changes/{old}..{new}.csv")
    counts = write_changes(path, changes(products_of(old), products_of(new)))
    sys.stdout.write("".join(f"{line}\n" for line in as_table(counts)))
    say(f"written: {path}")
    return 0


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
