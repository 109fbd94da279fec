"""Writing files so that nothing already written is lost: a temporary name, fsync, rename.

Knows nothing of what is in the files.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atlas_model.core.errors import AtlasError


def sync_directory(folder: Path) -> None:
    """Make the names in ``folder`` durable (a rename is one only after this)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes its name, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync_file(temporary)
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it takes the name (and the place) of ``path``.

    Where ``path`` is a link to a folder it stays one, and that folder is replaced.

    Raises:
        AtlasError: ``path`` is a link that leads to itself.
    """
    if path.is_symlink():
        try:
            path = path.resolve()
        except (OSError, RuntimeError) as error:
            raise AtlasError(f"{path}: expected a folder or a link to one, got a link that leads nowhere") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            _sync_file(file)
        sync_directory(temporary)
        if path.exists():
            path.replace(old)  # a folder cannot take the name of another: between these two lines neither has it
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: Path, holder: str) -> Iterator[int]:
    """Keep other processes out of ``folder``; yields the lock's descriptor, for a child that shares the lock.

    Args:
        folder: made if it is not there.
        holder: what the one is that works there, for the error.

    Raises:
        AtlasError: another one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AtlasError(f"{folder}: another {holder} is at work there. Wait for its end, or stop it") from None
        yield lock.fileno()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8), whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline; NaN is refused, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
