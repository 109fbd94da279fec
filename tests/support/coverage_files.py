"""Data files of `coverage` that processes left which tests killed."""

import sqlite3
from pathlib import Path

from coverage import CoverageData
from coverage.exceptions import CoverageException


def delete_damaged(folder: Path) -> list[str]:
    """Delete the data files in `folder` that cannot be combined, and return their names.

    Coverage writes its SQLite files without a journal. A process that is killed meanwhile leaves a damaged one, and one
    such file ends the report of all: `CoverageData` raises while it reads or combines it.
    """
    damaged = []
    for path in sorted(folder.glob(".coverage.*")):
        try:
            data = CoverageData(path, read_only=True)
            data.read()
            CoverageData(no_disk=True).update(data, map_path=lambda name: name)
        except (CoverageException, sqlite3.Error):
            path.unlink()
            damaged.append(path.name)
    return damaged
