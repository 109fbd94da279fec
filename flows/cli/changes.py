"""``atlas crawl changes``: lists what changed in the shops between two snapshots."""

import sys
from pathlib import Path

from atlas_model.core.progress import say
from crawlers.crawl.snapshot_diff import as_table, changes, write_changes
from flows.monitoring.snapshots import products_of


def report_changes(old: str, new: str, output: Path | None) -> int:
    """Write each change to ``output`` (.csv or .parquet), and print a table of their numbers.

    Raises:
        InputError: a snapshot is unknown, or ``output`` has another suffix.
    """
    path = output or Path(f"reports/changes/{old}..{new}.csv")
    counts = write_changes(path, changes(products_of(old), products_of(new)))
    sys.stdout.write("".join(f"{line}\n" for line in as_table(counts)))
    say(f"written: {path}")
    return 0
