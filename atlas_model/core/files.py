"""Atomic writes of files and folders: a temporary name, fsync, rename. And locks on folders."""

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
    """Sync ``folder`` to disk; only then is a rename in it durable."""
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
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on failure."""
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
    """Yield an empty temporary folder; on success it replaces ``path``.

    If ``path`` is a link to a folder, the folder is replaced and the link is kept.

    Raises:
        AtlasError: ``path`` is a link to itself.
    """
    if path.is_symlink():
        real = Path(os.path.realpath(path))  # Path.resolve treats loops differently by Python version
        if real.is_symlink():
            raise AtlasError(f"{path}: expected a folder or a link to one, got a link in a loop")
        path = real
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
            path.replace(old)  # a rename cannot replace a folder: between these two lines there is none
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: Path, holder: str) -> Iterator[int]:
    """Hold an exclusive lock on ``folder``; yields its file descriptor, which a child process may inherit.

    Args:
        folder: made if it is missing.
        holder: what holds the lock ("crawl"), for the error message.

    Raises:
        AtlasError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AtlasError(f"{folder}: another {holder} is running there. Wait until it ends, or stop it") from None
        yield lock.fileno()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON with a final newline; NaN is an error, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
