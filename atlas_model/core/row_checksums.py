"""Checksums of the rows of SQLite tables: they find damage that SQLite does not.

`PRAGMA integrity_check` finds damage to the structure of a file (pages, cells, indexes), but not a changed byte in a
text or a number. So a table gets a generated column with a CRC-32 of each row, which SQLite computes whenever it writes
the row. CRC-32 finds every change of up to 32 adjacent bits.
"""

import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

FUNCTION = "row_checksum"
COLUMN = "checksum"


# What SQLite raises for a damaged file; UnicodeDecodeError: its message quotes a damaged definition of a table.
DAMAGED = (sqlite3.DatabaseError, UnicodeDecodeError)


@dataclass(frozen=True)
class CheckedTable:
    """A table whose rows have checksums.

    Attributes:
        name: of the table.
        columns: that the checksum covers.
    """

    name: str
    columns: tuple[str, ...]

    @property
    def definition(self) -> str:
        """The definition of the column with the checksum, for CREATE TABLE."""
        return f"{COLUMN} INTEGER AS ({self._expression}) STORED"

    @property
    def damaged(self) -> str:
        """The condition for rows whose values are not those of their checksum."""
        return f"{COLUMN} IS NOT {self._expression}"

    @property
    def _expression(self) -> str:
        # The bytes, because a damaged text may not be UTF-8. The types, because a changed bit can turn text into a
        # blob of the same bytes.
        values = (f"typeof({column}), CAST({column} AS BLOB)" for column in self.columns)
        return f"{FUNCTION}({', '.join(values)})"

    def count_damaged(self, database: sqlite3.Connection) -> int:
        """Number of damaged rows."""
        return int(database.execute(f"SELECT count(*) FROM {self.name} WHERE {self.damaged}").fetchone()[0])  # noqa: S608 (ours)

    def delete_damaged(self, database: sqlite3.Connection) -> int:
        """Delete damaged rows; returns their number."""
        if not self.count_damaged(database):  # reading takes no lock for writing
            return 0
        return database.execute(f"DELETE FROM {self.name} WHERE {self.damaged}").rowcount  # noqa: S608 (our own names)


def add_checksums(database: sqlite3.Connection) -> None:
    """Register the function of the generated columns: before anything else is done with ``database``."""
    database.create_function(FUNCTION, -1, _checksum, deterministic=True)


def structural_fault(database: sqlite3.Connection, tables: str) -> str | None:
    """What is wrong with the pages, indexes and table definitions of ``database``; None if nothing is.

    Args:
        database: a connection on which `add_checksums` has been called.
        tables: the statements that created its tables.

    Raises:
        sqlite3.DatabaseError: the file is so damaged that it cannot be read.
    """
    try:
        (fault,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    except UnicodeDecodeError as error:  # of a damaged definition of a table, in SQLite's message
        raise sqlite3.DatabaseError(f"damaged: {error}") from error
    if fault != "ok":
        return str(fault).splitlines()[-1]
    with closing(sqlite3.connect(":memory:")) as fresh:
        add_checksums(fresh)
        fresh.executescript(tables)
        expected = _definitions(fresh)
    found = _definitions(database)
    changed = sorted(name for name, definition in expected.items() if found.get(name) != definition)
    return f"the definition of {changed[0]} has changed" if changed else None


def find_damage(path: Path, tables: str, checked: Sequence[CheckedTable], version: int) -> list[str] | None:
    """What is damaged in the database at ``path``, as sentences.

    Args:
        path: an existing file.
        tables: the statements that create its tables.
        checked: those with checksums.
        version: of the tables.

    Returns:
        None if it has another version: one without checksums.

    Raises:
        sqlite3.OperationalError: it cannot be opened, or a process is using it.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as database:
            add_checksums(database)
            if database.execute("PRAGMA user_version").fetchone()[0] != version:
                return None
            fault = structural_fault(database, tables)
            if fault is not None:
                return [fault]
            counts = {table.name: table.count_damaged(database) for table in checked}
            return [f"{count} rows of the table {name}" for name, count in counts.items() if count]
    except sqlite3.OperationalError:
        raise
    except DAMAGED as error:
        return [str(error)]


def _definitions(database: sqlite3.Connection) -> dict[str, str]:
    rows = database.execute("SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM sqlite_master WHERE sql IS NOT NULL")
    return {name.decode(errors="replace"): sql.decode(errors="replace") for name, sql in rows}


def _checksum(*values: str | bytes | None) -> int:
    """CRC-32 of the types and the bytes of a row's values."""
    found = 0
    for value in values:
        data = value.encode() if isinstance(value, str) else value or b""
        found = zlib.crc32(data, zlib.crc32(b"%d " % len(data), found))
    return found
