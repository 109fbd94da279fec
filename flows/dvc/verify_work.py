"""Compares work in progress and caches in ``.atlas``, and the records of reviews, with their own checksums.

DVC and git do not track these files. Each kind has checksums that its reader compares, too: a damaged cache is made
anew, and a damaged row of a journal is requested again. Here they are compared without using them.
"""

import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from atlas_model.core.checksums import SUFFIX, read_json_with_checksum, state_of
from atlas_model.core.errors import AtlasError, CheckpointError
from atlas_model.core.files import locked
from atlas_model.core.row_checksums import find_damage
from flows.paths import REVIEWS, WORK

INDEX, JOURNAL = "index.sqlite", "journal.sqlite"
CACHES = ("pixels", "promote", "engines", "snapshots")  # folders of files with a checksum beside them


@dataclass
class WorkFaults:
    """What was found.

    Attributes:
        files: number of files whose bytes were read.
        damaged: file -> what is damaged, and the remedy.
        unchecked: files of an earlier version, which have no checksum.
        busy: files that a running process uses, which were not read.
    """

    files: int = 0
    damaged: dict[Path, tuple[str, str]] = field(default_factory=dict)
    unchecked: list[Path] = field(default_factory=list)
    busy: list[Path] = field(default_factory=list)


def verify_work() -> WorkFaults:
    """Read all files with checksums of their own in the current folder."""
    found = WorkFaults()
    for check in (_journals, _spools, _caches, _json, _activations, _checkpoints, _trained, _models, _reviews):
        check(found)
    return found


def _journals(found: WorkFaults) -> None:
    from crawlers.crawl.journal import CHECKED_TABLES, TABLES, VERSION

    for path in WORK.rglob(JOURNAL):
        try:
            with locked(path.parent, "crawl"):
                faults = find_damage(path, TABLES, CHECKED_TABLES, VERSION)
        except (AtlasError, sqlite3.OperationalError):
            found.busy.append(path)
            continue
        _add(found, path, faults, "nothing to do: the next crawl requests these pages again")


def _spools(found: WorkFaults) -> None:
    from crawlers.fetch.tables import CHECKED_TABLES, TABLES, VERSION

    for path in WORK.rglob(INDEX):
        try:
            faults = find_damage(path, TABLES, CHECKED_TABLES, VERSION)
            _add(found, path, faults, "nothing to do: the next `dvc repro fetch` requests these URLs again")
            if faults == []:
                _blobs(found, path)
        except sqlite3.OperationalError:
            found.busy.append(path)


def _blobs(found: WorkFaults, index: Path) -> None:
    from crawlers.fetch.blobs import damaged_images

    with closing(sqlite3.connect(index)) as database:
        places = database.execute(
            "SELECT image_id, file, offset, size FROM images WHERE file > 0 ORDER BY file, offset"
        )
        damaged = damaged_images(index.parent, places)
    for path, count in damaged.items():
        found.files += 1
        if count:
            found.damaged[path] = (f"{count} images", "nothing to do: the next `dvc repro fetch` requests them again")


def _caches(found: WorkFaults) -> None:
    for path in _files(*(WORK / name for name in CACHES)):
        if path.suffix == SUFFIX or path.name.startswith("."):
            continue
        state = state_of(path)
        _add(found, path, {"sound": [], "damaged": ["its content"], "unchecked": None}[state], _delete(path))


def _json(found: WorkFaults) -> None:
    for path in [*WORK.glob("profiles/*.json"), *WORK.glob("crawl/*/health.json")]:
        _check(found, path, lambda path=path: read_json_with_checksum(path), _delete(path))  # type: ignore[misc]


def _activations(found: WorkFaults) -> None:
    files = list(WORK.glob("activations/*.npy"))
    if files:
        from atlas_model.train.feature_cache import is_sound  # torch, which takes seconds
    for path in files:
        _add(found, path, [] if is_sound(path) else ["its content or its checksums"], _delete(path))


def _checkpoints(found: WorkFaults) -> None:
    files = list(WORK.glob("train/*/*.safetensors"))
    if files:
        from atlas_model.train.state import check_state
    for path in files:
        _check(found, path, lambda path=path: check_state(path), _delete(path))  # type: ignore[misc]


def _trained(found: WorkFaults) -> None:
    folder = WORK / "trained"
    if folder.is_dir():
        from atlas_model.train.renaming import is_sound

        _add(found, folder, [] if is_sound(folder) else ["a file in it"], _delete(folder))


def _models(found: WorkFaults) -> None:
    folders = [path for path in WORK.glob("last-model/*") if path.is_dir()]
    if folders:
        from atlas_model.core.checkpoint import load_model, read_description
    for folder in folders:
        _check(
            found,
            folder,
            lambda folder=folder: load_model(folder, str(read_description(folder).get("kind"))),  # type: ignore[misc]
            _delete(folder),
        )


def _reviews(found: WorkFaults) -> None:
    files = list(REVIEWS.glob("*.jsonl"))
    if files:
        from atlas_model.data.reviews import damaged_lines
    for path in files:
        lines = damaged_lines(path)
        named = [f"line {number}" for number in lines]
        _add(found, path, named, f"compare it with git, and restore these lines: git diff -- {shlex.quote(str(path))}")


def _add(found: WorkFaults, path: Path, faults: list[str] | None, remedy: str) -> None:
    found.files += 1
    if faults is None:
        found.unchecked.append(path)
    elif faults:
        found.damaged[path] = ("; ".join(faults), remedy)


def _check(found: WorkFaults, path: Path, read: Callable[[], object], remedy: str) -> None:
    try:
        read()
    except (OSError, ValueError, CheckpointError) as error:
        _add(found, path, [str(error)], remedy)
    else:
        _add(found, path, [], remedy)


def _files(*folders: Path) -> Iterator[Path]:
    return (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())


def _delete(path: Path) -> str:
    return f"rm -r {shlex.quote(str(path))} (it is made anew, or read from DVC, when it is needed)"
