"""A flipped byte in work in progress, in a cache or in a record: `verify_work` finds it, and no load uses it."""

import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from atlas_model.core.row_checksums import add_checksums
from crawlers.crawl import journal
from crawlers.fetch import tables
from flows.dvc.verify_work import verify_work
from tests.support.durable_jobs import SMALL
from tests.support.work_files import make_work

FEW, MANY = 6, 1000  # flipped bytes of each kind, at least
KINDS = (
    *("journal", "index", "blobs", "health and profiles", "checkpoint", "model", "last training", "activations"),
    *("pixels", "snapshots", "engines", "reviews"),
)
TABLES = {
    "journal": journal.CHECKED_TABLES,
    "index": tables.CHECKED_TABLES,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """A project with a file of each kind, which is the current folder; kind -> files, relative."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        for module, setting, value in SMALL:
            patch.setattr(module, setting, value)
        made = make_work(root / ".atlas", root / "data/reviews", tmp_path_factory.mktemp("scratch") / "jobs")
    return made


@pytest.fixture
def files(sound: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Path]]:
    monkeypatch.chdir(next(iter(sound["reviews"])).parents[2])
    return {kind: [path.relative_to(Path.cwd()) for path in found] for kind, found in sound.items()}


def rows(kind: str, path: Path) -> list[list[tuple[object, ...]]]:
    """All that a database says in its checked tables, as a table and through its indexes."""
    with closing(sqlite3.connect(path)) as database:
        add_checksums(database)
        found = []
        for table in TABLES[kind]:
            columns = ", ".join(table.columns)
            found.append(database.execute(f"SELECT {columns} FROM {table.name} NOT INDEXED").fetchall())
            found.append(database.execute(f"SELECT {columns} FROM {table.name} ORDER BY {columns}").fetchall())
        return found


def test_sound_files_have_no_faults(files: dict[str, list[Path]]) -> None:
    found = verify_work()
    assert (found.damaged, found.unchecked, found.busy) == ({}, [], [])
    assert sorted(files) == sorted(KINDS)


@pytest.mark.parametrize(
    "flips", [pytest.param(FEW, marks=pytest.mark.slow), pytest.param(MANY, marks=pytest.mark.soak)]
)
def test_each_flipped_byte_that_is_used_is_found(flips: int, files: dict[str, list[Path]]) -> None:
    chance = random.Random(1)
    good = {kind: rows(kind, files[kind][0]) for kind in TABLES}
    found = Counter[str]()
    for number in range(2 * flips):
        # The images of a spool are only read if its index is sound: each is flipped in every second round.
        flipped = [kind for kind in KINDS if kind != ("index", "blobs")[number % 2]]
        kept = {kind: flip_one(chance, files[kind]) for kind in flipped}
        damaged = verify_work().damaged
        for kind, (path, content, place) in kept.items():
            named = [one for one in damaged if path.is_relative_to(one) or path.name.startswith(f"{one.name}.")]
            if not named and kind in TABLES:  # a byte that no row and no index has
                assert rows(kind, path) == good[kind], f"{path}: byte {place}"
            else:
                assert len(named) == 1, f"{path}: byte {place} of {len(content)}: {damaged}"
                found[kind] += 1
        for path, content, _ in kept.values():
            path.write_bytes(content)
            for beside in (f"{path}-wal", f"{path}-shm"):
                Path(beside).unlink(missing_ok=True)
    assert set(found) == set(KINDS)
    assert verify_work().damaged == {}


def flip_one(chance: random.Random, files: list[Path]) -> tuple[Path, bytes, int]:
    """Flip a bit of one of ``files``; returns that file, its content before, and the place."""
    path = chance.choice([path for path in files if path.stat().st_size])
    content = path.read_bytes()
    place = chance.randrange(len(content))
    flipped = bytearray(content)
    flipped[place] ^= 1 << chance.randrange(8)
    path.write_bytes(flipped)
    return path, content, place
