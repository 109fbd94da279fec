"""After a power failure at any moment, the same command gives the same files: nothing becomes visible before its fsync.

The first test always runs, the others need strace. They record the system calls of all writers of the pipeline, check
the order of syncs and renames, and repeat the commands in states that a power failure may leave.
"""

import os
import random
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from atlas_model.core import files
from atlas_model.core.errors import AtlasError
from tests.support.durable_jobs import JOBS, SMALL, prepare
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT
from tests.support.power_cut import Disk, write_state
from tests.support.small_shop import SmallProject, small_shop
from tests.support.strace import Call, read_calls, record, strace_missing

WITHOUT_STRACE = strace_missing()
needs_strace = pytest.mark.skipif(bool(WITHOUT_STRACE), reason=WITHOUT_STRACE or "strace is there")
FEW, MANY = 4, 300  # states of each job
OTHERS = ("in", "out")  # folders of a job besides work in progress
# Losing them costs nothing: locks, logs, files that SQLite makes anew, and a note that params.yaml was found valid.
HARMLESS = ("lock", "flow.lock", "log.txt", "checked-params", "journal.sqlite-shm", "index.sqlite-shm")
LOGS = ".atlas/logs/"  # of the stages of a flow
# DVC and git write these. DVC replaces a single file among the outputs by a copy of its own.
NOT_OURS = (".git/", ".dvc/", "dvc.lock")
WHOLE = (
    ("dvc", "repro"),
    ("flows.cli.main", "promote"),
    ("flows.prefect_app.flow",),
    ("flows.cli.main", "rollback"),
)
OF_DVC = re.compile(r"\.[\w-]{22}\.tmp")  # its copy, before it has the name of the output


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, setting, value in SMALL:
        monkeypatch.setattr(module, setting, value)


def outputs(folder: Path) -> dict[str, bytes]:
    # Temporary files of processes that ended are removed elsewhere: `test_crash` tries that.
    found = (path.relative_to(folder) for path in (folder / "out").rglob("*") if path.is_file())
    kept = (path for path in found if not any(part.endswith(".tmp") for part in path.parts))
    return {str(path): (folder / path).read_bytes() for path in kept}


class Watch:
    """Compares each file at its rename with what was synced, in this process: also writes of C++ libraries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.faults: list[str] = []
        self.renames = 0
        self._root = root
        self._synced: dict[tuple[int, int], tuple[int, int]] = {}
        fsync, replace = os.fsync, os.replace

        def watched_fsync(descriptor: int) -> None:
            fsync(descriptor)
            self._synced[self._id(os.fstat(descriptor))] = self._state(os.fstat(descriptor))

        def watched_replace(source: Path, target: Path, **others: object) -> None:
            self._check(Path(source), Path(target))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "replace", watched_replace)

    def _check(self, source: Path, target: Path) -> None:
        if not target.is_relative_to(self._root) or target.name.endswith(".tmp"):
            return
        self.renames += 1
        for path in [source, *source.rglob("*")]:
            found = path.stat()
            if self._synced.get(self._id(found)) != self._state(found):
                self.faults.append(f"{path} -> {target}")

    @staticmethod
    def _id(found: os.stat_result) -> tuple[int, int]:
        return found.st_dev, found.st_ino

    @staticmethod
    def _state(found: os.stat_result) -> tuple[int, int]:
        return found.st_size, found.st_mtime_ns


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Watch:
    return Watch(monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in JOBS if name != "review"])  # a review only appends
def test_each_file_is_synced_before_it_gets_its_name(name: str, tmp_path: Path, watch: Watch) -> None:
    prepare(tmp_path)
    JOBS[name](tmp_path / name)
    assert watch.renames > 0
    assert watch.faults == []


def test_the_watch_finds_a_missing_fsync(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_sync_file", lambda path: None)
    files.write_text(tmp_path / "a.txt", "a")
    with files.replacing_folder(tmp_path / "b") as folder:
        (folder / "c").mkdir()
        (folder / "c/d.txt").write_text("d")
    assert [fault.partition(" -> ")[2] for fault in watch.faults] == [str(tmp_path / "a.txt"), str(tmp_path / "b")]


@dataclass(frozen=True)
class Recorded:
    """A run of all jobs: the folder of their inputs, the one in which they ran, and the calls of each."""

    before: Path
    root: Path
    calls: dict[str, list[Call]]

    def disk(self, name: str) -> Disk:
        """The disk before the job ``name``, under the paths of its calls."""
        disk = Disk(self.before / name)
        disk.root = str(self.root / name)
        return disk


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """All jobs, recorded in one process."""
    folder = tmp_path_factory.mktemp("recorded")
    prepare(folder / "before")
    shutil.copytree(folder / "before", folder / "root")
    command = [sys.executable, "-m", "tests.support.durable_jobs", str(folder / "root")]
    done = record(command, folder / "trace", cwd=ROOT, env=os.environ)
    assert done.returncode == 0, done.stderr
    calls: dict[str, list[Call]] = {name: [] for name in JOBS}
    for call in read_calls(folder / "trace", folder / "root", ROOT):
        calls[Path(call.path).relative_to(folder / "root").parts[0]].append(call)
    return Recorded(folder / "before", folder / "root", calls)


def lost(disk: Disk) -> list[str]:
    """What a power failure may still take, and should not."""
    return [path for path in disk.unsynced() if Path(path).name not in HARMLESS]


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("name", list(JOBS))
def test_all_writes_of_a_job_are_synced_in_order(name: str, recorded: Recorded) -> None:
    disk = recorded.disk(name)
    for call in recorded.calls[name]:
        disk.apply(call)
    after = {path: data for path, data in disk.now().items() if not path.endswith("/")}
    root = recorded.root / name
    assert after == {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}, (
        "the model of the disk is the disk"
    )
    assert disk.faults == []
    assert lost(disk) == []
    durable = outputs(root)
    for seed in range(20):
        state = disk.after_power_cut(random.Random(seed))
        assert {path: state.get(path) for path in durable} == durable, "a power failure after the end loses nothing"


@needs_strace
@pytest.mark.slow
def test_the_recording_finds_a_missing_fsync(recorded: Recorded) -> None:
    for name in JOBS:
        disk = recorded.disk(name)
        for call in recorded.calls[name]:
            if call.name != "sync":
                disk.apply(call)
        assert lost(disk), name
        assert disk.faults or name == "review"


@needs_strace
@pytest.mark.parametrize(
    "states", [pytest.param(FEW, marks=pytest.mark.slow), pytest.param(MANY, marks=pytest.mark.soak)]
)
@pytest.mark.parametrize("name", list(JOBS))
def test_the_same_command_after_a_power_failure_gives_the_same_files(
    name: str, states: int, recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, expected = recorded.calls[name], outputs(recorded.root / name)
    chance = random.Random(name)
    ends = sorted(chance.randrange(len(calls)) for _ in range(states))
    disk, applied = recorded.disk(name), 0
    for number, end in enumerate(ends):
        for call in calls[applied:end]:
            disk.apply(call)
        applied = end
        state = disk.after_power_cut(random.Random(f"{name} {number}"))
        write_state(state, tmp_path / "again")
        JOBS[name](tmp_path / "again")
        assert outputs(tmp_path / "again") == expected, f"state {number}, after call {end} of {len(calls)}"
        assert "damaged" not in capsys.readouterr().err, "what is lost is missing, not damaged"


def is_work(path: Path) -> bool:
    """Whether the relative ``path`` in the folder of a job is work in progress."""
    return path.parts[0] not in OTHERS or "predictions.parquet.parts" in path.parts


@needs_strace
@pytest.mark.parametrize(
    "flips", [pytest.param(FEW, marks=pytest.mark.slow), pytest.param(MANY, marks=pytest.mark.soak)]
)
@pytest.mark.parametrize("name", [name for name in JOBS if name != "review"])  # its only file is its output
def test_a_flipped_byte_in_work_in_progress_reaches_no_output(
    name: str, flips: int, recorded: Recorded, tmp_path: Path
) -> None:
    calls, expected = recorded.calls[name], outputs(recorded.root / name)
    chance = random.Random(name)
    ends = sorted(chance.randrange(len(calls) // 2, len(calls)) for _ in range(flips))
    disk, applied = recorded.disk(name), 0
    for end in ends:
        for call in calls[applied:end]:
            disk.apply(call)
        applied = end
        again = tmp_path / "again"
        write_state(disk.now(), again)
        paths = sorted(path for path in again.rglob("*") if is_work(path.relative_to(again)) and path.is_file())
        found = [path for path in paths if path.stat().st_size]
        if not found:  # all of it has been removed
            continue
        path = chance.choice(found)
        content = bytearray(path.read_bytes())
        place = chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            JOBS[name](again)
        except AtlasError:  # it says so, and the same command goes on
            JOBS[name](again)
        assert outputs(again) == expected, f"{path}: byte {place}, after call {end}"


@needs_strace
@pytest.mark.soak
def test_all_writes_of_the_whole_pipeline_are_synced_in_order(
    tmp_path: Path, copy_project: Callable[[Path], Path], git_env: dict[str, str]
) -> None:
    with small_shop(4) as shop:
        project = SmallProject(copy_project(tmp_path / "project"), shop, git_env)
        project.set({"promote": {"margin": 1.0, "category_margin": 1.0}, "pipeline": {"commit": True}})
        commit_all(project.root, git_env)
        disk = Disk(project.root, kept=lambda path: path.startswith(NOT_OURS) or "__pycache__" in path)
        by_dvc = set()
        for number, command in enumerate(WHOLE):
            trace = tmp_path / f"trace-{number}"
            done = record([sys.executable, "-m", *command], trace, cwd=project.root, env=project.env, timeout_s=6000)
            assert done.returncode == 0, done.stdout + done.stderr
            for call in read_calls(trace, project.root, project.root):
                if call.name == "rename" and OF_DVC.fullmatch(Path(call.path).name):
                    by_dvc.add(str(Path(call.other).relative_to(project.root)))
                disk.apply(call)
            project.set({"train": {"seed": 2}})  # the flow trains and promotes another model
    assert "data/raw/products.parquet" in by_dvc, "DVC's copies are told apart"
    assert [fault for fault in disk.faults if fault.target not in by_dvc] == []
    assert [path for path in lost(disk) if path not in by_dvc and not path.startswith(LOGS)] == []
