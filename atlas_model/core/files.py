"""Atomic writes of files and folders: a temporary name, fsync, rename. And locks on folders."""

import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from atlas_model.core.errors import AtlasError
from atlas_model.core.processes import Process

OLD = "old.tmp"  # end of the name of a folder that is being replaced


def sync_directory(folder: Path) -> None:
    """Sync ``folder`` to disk; only then is a rename in it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create the folder ``path`` and its missing parents durably: files that are synced in it stay in it."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_directory(folder.parent)


def sync_tree(folder: Path) -> None:
    """Sync all files and folders in ``folder`` to disk."""
    for inside in folder.rglob("*"):
        if inside.is_file():
            _sync_file(inside)
        elif inside.is_dir():
            sync_directory(inside)
    sync_directory(folder)


def _sync_file(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _remove_leftovers(path: Path) -> None:
    """Remove what processes left beside ``path`` that were killed while they replaced it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid, _, rest = left.name.removeprefix(f".{path.name}.").partition(".")
        if not pid.isdecimal() or _is_running(int(pid)):
            continue
        if rest == OLD and not path.exists():  # killed between the two renames of `replacing_folder`
            left.replace(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # it is somebody else's
        pass
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on failure."""
    make_folder(path.parent)
    _remove_leftovers(path)
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
    make_folder(path.parent)
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.{OLD}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
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
    make_folder(folder)
    with (folder / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            who = lock.read()
            raise AtlasError(
                f"{folder}: another {holder} is running there. Wait until it ends, or stop it{who and f' ({who})'}"
            ) from None
        with suppress(OSError):  # a full disk: then the message lacks the process
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), Process.current().description.encode())
        yield lock.fileno()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON with a final newline; NaN is an error, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
