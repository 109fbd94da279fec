"""Compares work in progress and caches in ``.atlas``, and the records of reviews, with their own checksums.

DVC and git do not track these files. Each kind has checksums that its reader compares, too: a damaged cache is made
anew, and a damaged row of a journal is requested again. Here they are compared without using them.
"""

import fcntl
import os
import shlex
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from atlas_model.core.checksums import SUFFIX, read_json_with_checksum, state_of
from atlas_model.core.errors import CheckpointError
from atlas_model.core.machine import check_machine
from atlas_model.core.row_checksums import CheckedTable, find_damage
from flows.dvc.unread import Unread, permit, why_unread
from flows.paths import REVIEWS, WORK

INDEX, JOURNAL = "index.sqlite", "journal.sqlite"
CACHES = ("pixels", "promote", "engines", "snapshots")  # folders of files with a checksum beside them
CHUNK_BYTES = 2**20
FETCHED_AGAIN = "nothing to do: the next `dvc repro fetch` requests them again"


@dataclass
class WorkFaults:
    """What was found.

    Attributes:
        files: number of files whose bytes were read.
        damaged: file -> what is damaged, and the remedy.
        unread: file -> why it cannot be read, and the remedy.
        unchecked: files of an earlier version, which have no checksum.
        busy: files that a running process uses, which were not read.
    """

    files: int = 0
    damaged: dict[Path, tuple[str, str]] = field(default_factory=dict)
    unread: dict[Path, tuple[Unread, str]] = field(default_factory=dict)
    unchecked: list[Path] = field(default_factory=list)
    busy: list[Path] = field(default_factory=list)


def verify_work() -> WorkFaults:
    """Read all files with checksums of their own in the current folder.

    Raises:
        MachineError: memory or open files ran out.
    """
    found = WorkFaults()
    for check in (_journals, _spools, _caches, _json, _activations, _checkpoints, _trained, _models, _reviews):
        check(found)
    return found


def _journals(found: WorkFaults) -> None:
    from crawlers.crawl.journal import CHECKED_TABLES, TABLES, VERSION

    for path in WORK.rglob(JOURNAL):
        if _is_crawling(path.parent):
            found.busy.append(path)
            continue
        # Without the lock of crawls, so that one can start meanwhile: SQLite shows a reader one state of the file.
        remedy = "nothing to do: the next crawl requests these pages again"
        faults = _database(found, path, TABLES, CHECKED_TABLES, VERSION, remedy)
        if faults and _is_crawling(path.parent):
            del found.damaged[path]
            found.busy.append(path)


def _is_crawling(folder: Path) -> bool:
    """Whether a crawl holds the lock of ``folder`` (`files.locked`): only a look, which writes nothing."""
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:  # no crawl has run here
        check_machine(error)
    return False


def _spools(found: WorkFaults) -> None:
    from crawlers.fetch.tables import CHECKED_TABLES, TABLES, VERSION

    for path in WORK.rglob(INDEX):
        remedy = "nothing to do: the next `dvc repro fetch` requests these URLs again"
        if _database(found, path, TABLES, CHECKED_TABLES, VERSION, remedy) == []:
            with _databases_in_use(found, path, _delete(path)), _openable(path) as copy:
                _blobs(found, path.parent, copy)


def _database(  # noqa: PLR0917 - the last four are of one kind of file
    found: WorkFaults, path: Path, tables: str, checked: tuple[CheckedTable, ...], version: int, remedy: str
) -> list[str] | None:
    """What is damaged in a database; None if it is of an earlier version or could not be read."""
    faults = None
    with _databases_in_use(found, path, _delete(path)), _reading(found, path, _delete(path)), _openable(path) as copy:
        faults = find_damage(copy, tables, checked, version)
        _add(found, path, faults, remedy)
    return faults


@contextmanager
def _databases_in_use(found: WorkFaults, path: Path, remedy: str) -> Iterator[None]:
    """Note a database that cannot be read, and why."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = error.sqlite_errorcode & 0xFF  # the other bits are details
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            found.busy.append(path)
        elif code == sqlite3.SQLITE_IOERR:
            found.unread[path] = ("unreadable", remedy)
        else:
            check_machine(error)
            with _reading(found, path, remedy):
                _read_through(path)  # says which permission, or which limit of the machine, is missing
                found.unread[path] = ("denied", permit(path.parent, "u+rwX"))  # SQLite writes beside the file


@contextmanager
def _openable(path: Path) -> Iterator[Path]:
    """The database ``path``; a copy if its folder is read-only, because SQLite writes beside a file that it reads."""
    if os.access(path.parent, os.W_OK):
        yield path
        return
    with TemporaryDirectory() as folder:
        for name in (path.name, f"{path.name}-wal"):
            if (path.parent / name).exists():
                shutil.copyfile(path.parent / name, Path(folder, name))
        yield Path(folder, path.name)


def _blobs(found: WorkFaults, folder: Path, index: Path) -> None:
    from crawlers.fetch.blobs import NAME, damaged_images

    with closing(sqlite3.connect(index)) as database:
        places = database.execute(
            "SELECT image_id, file, offset, size FROM images WHERE file > 0 ORDER BY file, offset"
        )
        for number, of_file in groupby(places, key=itemgetter(1)):
            with _reading(found, folder / NAME.format(number), FETCHED_AGAIN):
                for path, count in damaged_images(folder, of_file).items():
                    _add(found, path, [f"{count} images"] if count else [], FETCHED_AGAIN)


def _caches(found: WorkFaults) -> None:
    for path in _files(*(WORK / name for name in CACHES)):
        if path.suffix == SUFFIX or path.name.startswith("."):
            continue
        with _reading(found, path, _delete(path)):
            state = state_of(path)
            _add(found, path, {"sound": [], "damaged": ["its content"], "unchecked": None}[state], _delete(path))


def _json(found: WorkFaults) -> None:
    for path in [*WORK.glob("profiles/*.json"), *WORK.glob("crawl/*/health.json")]:
        _check(found, path, partial(read_json_with_checksum, path), _delete(path))


def _activations(found: WorkFaults) -> None:
    files = list(WORK.glob("activations/*.npy"))
    if files:
        from atlas_model.train.feature_cache import is_sound  # torch, which takes seconds
    for path in files:
        with _reading(found, path, _delete(path)):
            if is_sound(path):
                _add(found, path, [], "")
            else:
                path.stat()  # a training that removes it removes its checksums first, or last
                _add(found, path, ["its content or its checksums"], _delete(path))


def _checkpoints(found: WorkFaults) -> None:
    files = list(WORK.glob("train/*/*.safetensors"))
    if files:
        from atlas_model.train.state import check_state
    for path in files:
        _check(found, path, partial(check_state, path), _delete(path))


def _trained(found: WorkFaults) -> None:
    folder = WORK / "trained"
    if folder.is_dir():
        from atlas_model.train.renaming import is_sound

        with _reading(found, folder, _delete(folder)):
            for path in _files(folder):
                _read_through(path)  # `is_sound` says "damaged" of a file that cannot be read
            _add(found, folder, [] if is_sound(folder) else ["a file in it"], _delete(folder))


def _models(found: WorkFaults) -> None:
    folders = [path for path in WORK.glob("last-model/*") if path.is_dir()]
    if folders:
        from atlas_model.core.checkpoint import load_model, read_description

        def load(folder: Path) -> object:
            return load_model(folder, str(read_description(folder).get("kind")))

    for folder in folders:
        _check(found, folder, partial(load, folder), _delete(folder))


def _reviews(found: WorkFaults) -> None:
    files = list(REVIEWS.glob("*.jsonl"))
    if files:
        from atlas_model.data.reviews import damaged_lines
    for path in files:
        remedy = f"compare it with git, and restore these lines: git diff -- {shlex.quote(str(path))}"
        with _reading(found, path, remedy):
            _add(found, path, [f"line {number}" for number in damaged_lines(path)], remedy)


def _add(found: WorkFaults, path: Path, faults: list[str] | None, remedy: str) -> None:
    found.files += 1
    if faults is None:
        found.unchecked.append(path)
    elif faults:
        found.damaged[path] = ("; ".join(faults), remedy)


def _check(found: WorkFaults, path: Path, read: Callable[[], object], remedy: str) -> None:
    with _reading(found, path, remedy):
        for file in _files(path) if path.is_dir() else [path]:
            _read_through(file)
        try:
            read()
        except (ValueError, CheckpointError) as error:
            check_machine(error)
            _add(found, path, [str(error)], remedy)
        else:
            _add(found, path, [], remedy)


@contextmanager
def _reading(found: WorkFaults, path: Path, remedy: str) -> Iterator[None]:
    """Note a file that cannot be read, and why; others are read on."""
    try:
        yield
    except FileNotFoundError:  # a process has renamed or removed it since it was listed
        found.busy.append(path)
    except OSError as error:
        kind = why_unread(error)
        if kind is None:  # such as a folder in the place of a file
            _add(found, path, [str(error)], remedy)
        else:
            found.unread[path] = (kind, permit(path) if kind == "denied" else remedy)


def _read_through(path: Path) -> None:
    """Read a file: a bad sector is then an error with a number; in a mapped file it ends the process (SIGBUS)."""
    with path.open("rb") as file:
        while file.read(CHUNK_BYTES):
            pass


def _files(*folders: Path) -> Iterator[Path]:
    return (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())


def _delete(path: Path) -> str:
    return f"rm -r {shlex.quote(str(path))} (it is made anew, or read from DVC, when it is needed)"
