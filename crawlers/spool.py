"""What a crawl has learnt so far, on disk, so that a killed one goes on where it was: append-only JSON lines.

A line is written whole or, after a kill or a power cut, lost; what is lost is fetched again. Knows nothing of what
is in a record but its URL.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from atlas_model.errors import AtlasError

SYNC_EVERY = 100  # records

Record = dict[str, Any]


class SpoolWriter:
    """Appends records to the file at ``path``; ``urls`` are those already in it. Use as a context manager.

    Raises:
        AtlasError: another process is writing to it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise AtlasError(f"{path}: another crawl is writing to it. Wait for its end, or stop it") from None
        _cut_torn_line(path)
        self.urls: set[str] = {record["url"] for record in read_spool(path)}
        self._unsynced = 0

    def append(self, record: Record) -> None:
        """Add ``record``; once this returns, only a power cut can lose it."""
        self.urls.add(record["url"])
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        self._unsynced += 1
        if self._unsynced >= SYNC_EVERY:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sync()
        self._file.close()


def read_spool(path: Path) -> Iterator[Record]:
    """The records at ``path``, in order; a line that a power cut damaged is left out."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("url"), str):
                yield record


def _cut_torn_line(path: Path) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        os.truncate(path, whole)
