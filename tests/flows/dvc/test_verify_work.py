"""Work in progress that cannot be read, or that a process uses, is told apart from damage."""

import errno
import fcntl
import os
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from atlas_model.core import row_checksums
from atlas_model.core.checksums import replacing_with_checksum, write_json_with_checksum
from atlas_model.core.errors import MachineError
from atlas_model.core.files import locked
from crawlers.crawl.journal import PRODUCT, Journal, JournalPage
from crawlers.fetch import blobs, tables
from flows.dvc import verify_work as verify_work_module
from flows.dvc.verify_work import WorkFaults, verify_work
from tests.support.unreadable import unreadable

JOURNAL = Path(".atlas/crawl/shops/journal.sqlite")
PIXELS, HEALTH = Path(".atlas/pixels/val.npy"), Path(".atlas/crawl/shops/health.json")
CHECKPOINT, ACTIVATIONS = Path(".atlas/train/key/categorizer.safetensors"), Path(".atlas/activations/val-key.npy")
TRAINED = Path(".atlas/trained/checksums.json")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_journal() -> None:
    with locked(JOURNAL.parent, "crawl"), Journal(JOURNAL) as journal:
        journal.begin("one", ["reader"])
        for number in range(20):
            journal.put(PRODUCT, f"https://a.test/{number}", JournalPage(item="{}", reader="reader"))


def make_files() -> list[Path]:
    """A cache, a JSON file, a checkpoint and activations; the last two have no content."""
    with replacing_with_checksum(PIXELS) as temporary:
        temporary.write_bytes(b"pixels")
    write_json_with_checksum(HEALTH, {"a.test": {"products": 12}})
    for path in (CHECKPOINT, ACTIVATIONS, TRAINED):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"damaged")
    return [PIXELS, HEALTH, CHECKPOINT, ACTIVATIONS, TRAINED]


def kinds(found: WorkFaults) -> dict[Path, str]:
    return {path: kind for path, (kind, _) in found.unread.items()}


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, "unreadable"), (errno.EACCES, "denied")])
def test_files_that_cannot_be_read_are_not_damaged(number: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make_files()
    with unreadable(monkeypatch, number, *paths):
        found = verify_work()
    assert kinds(found) == {path if path != TRAINED else TRAINED.parent: kind for path in paths}
    assert found.damaged == {}
    if kind == "denied":
        assert all(remedy.startswith("chmod ") for _, remedy in found.unread.values())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("path", [CHECKPOINT, HEALTH, TRAINED])
def test_errors_of_the_machine_are_no_damage(number: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files()
    with unreadable(monkeypatch, number, path), pytest.raises(MachineError):
        verify_work()


def test_files_that_a_training_removes_meanwhile_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    make_files()
    with unreadable(monkeypatch, errno.ENOENT, ACTIVATIONS, CHECKPOINT):
        found = verify_work()
    assert {ACTIVATIONS, CHECKPOINT} <= set(found.busy)
    assert not {ACTIVATIONS, CHECKPOINT} & found.damaged.keys()

    from atlas_model.train import feature_cache

    def is_sound(path: Path) -> bool:
        path.unlink()
        return False

    monkeypatch.setattr(feature_cache, "is_sound", is_sound)
    assert ACTIVATIONS in verify_work().busy


def test_a_bad_sector_in_an_image_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other files of images are read, and no descriptor stays open."""

    folder = Path(".atlas/fetch/shops")
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "index.sqlite", isolation_level=None)) as database:
        row_checksums.add_checksums(database)
        database.executescript(tables.TABLES)
        for number in (1, 2):
            (folder / blobs.NAME.format(number)).write_bytes(b"ab")
            for offset in (0, 1):
                database.execute(
                    "INSERT INTO images (image_id, file, offset, size, width, height, format, mode, orientation, "
                    "n_frames) VALUES (?, ?, ?, 1, 1, 1, 'PNG', 'L', 1, 1)",
                    (f"{number}{offset}", number, offset),
                )
    real, calls = os.pread, []

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        calls.append(offset)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = verify_work()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert kinds(found) == {folder / "000001.blob": "unreadable"}
    assert {path: what for path, (what, _) in found.damaged.items()} == {folder / "000002.blob": "2 images"}


def test_a_crawl_can_start_while_its_journal_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    make_journal()

    def crawl(*arguments: Any) -> list[str] | None:
        with locked(JOURNAL.parent, "crawl"):
            return row_checksums.find_damage(*arguments)

    monkeypatch.setattr(verify_work_module, "find_damage", crawl)
    found = verify_work()
    assert (found.damaged, found.busy, found.files) == ({}, [], 1)
    assert not list(JOURNAL.parent.glob("*-wal"))


def test_a_journal_in_use_is_not_read() -> None:
    make_journal()
    with locked(JOURNAL.parent, "crawl"):
        assert verify_work().busy == [JOURNAL]
    assert verify_work().busy == []


def test_a_journal_that_a_crawl_changes_meanwhile_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    make_journal()
    with (JOURNAL.parent / "lock").open("a+") as lock:

        def begin(*_arguments: object) -> list[str]:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return ["3 rows of the table pages"]

        monkeypatch.setattr(verify_work_module, "find_damage", begin)
        found = verify_work()
    assert (found.damaged, found.busy) == ({}, [JOURNAL])


def test_a_journal_on_a_read_only_disk_is_read() -> None:
    make_journal()
    mount = "mount --bind . . && mount -o remount,bind,ro . && cd . && ! touch x 2>/dev/null"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    program = (
        f"import os; os.chdir({str(Path.cwd())!r}); from flows.dvc.verify_work import verify_work as v; print(v())"
    )
    command = f"{mount} && exec {shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], check=False, capture_output=True, text=True)
    assert done.stdout == f"{WorkFaults(files=1)}\n", done.stderr


@pytest.mark.parametrize(
    ("code", "kind"), [(sqlite3.SQLITE_IOERR_READ, "unreadable"), (sqlite3.SQLITE_CANTOPEN, "denied")]
)
def test_a_database_that_cannot_be_read_is_not_in_use(code: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_journal()

    def fail(*_arguments: object) -> None:
        error = sqlite3.OperationalError("disk I/O error" if kind == "unreadable" else "unable to open database file")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(verify_work_module, "find_damage", fail)
    found = verify_work()
    assert found.busy == []
    assert kinds(found) == {JOURNAL: kind}
