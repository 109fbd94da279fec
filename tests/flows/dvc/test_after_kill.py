"""What a killed DVC leaves is mended: its list of files in use, and a dvc.lock that was cut off at any place."""

import fcntl
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA, COMPILED_LOCKFILE_SCHEMA

from flows.dvc.after_kill import mend
from flows.dvc.stale_locks import DVC_TMP
from flows.dvc.worker import DvcChild
from flows.paths import LOCK_FILE
from tests.support.flow_projects import run_dvc
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT

PARTS = re.split(r"(?m)^(?=  \w+:$)", (ROOT / "dvc.lock").read_text())
WHOLE = "".join(part for part in PARTS if part.startswith(("schema", "  crawl", "  zoom:", "  evaluate", "  report")))
STAGES = yaml.safe_load(WHOLE)["stages"]
LINE_ENDS = [place + 1 for place, letter in enumerate(WHOLE[:-1]) if letter == "\n"]
WITHIN_INDENTATION = [end + 1 for end in LINE_ENDS[10:13]]
WITHIN_LINES = random.Random(15).sample(sorted({*range(31, len(WHOLE))}.difference(LINE_ENDS)), 40)


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_env: dict[str, str]) -> None:
    """A repository that has another crawl in its dvc.lock, and no stage `report`."""
    monkeypatch.chdir(tmp_path)
    stages = {name: stage for name, stage in STAGES.items() if name != "report"}
    stages["crawl"] = {**stages["crawl"], "cmd": "another"}
    LOCK_FILE.write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    commit_all(tmp_path, git_env)
    DVC_TMP.mkdir(parents=True)


def cut_off(size: int) -> dict[str, Any]:
    """What dvc.lock holds after only its first `size` characters were written, and it was mended; DVC accepts it."""
    LOCK_FILE.write_text(WHOLE[:size])
    mend()
    restored = yaml.safe_load(LOCK_FILE.read_text())
    COMPILED_LOCKFILE_SCHEMA(restored)
    for stage in restored["stages"].values():
        COMPILED_LOCK_FILE_STAGE_SCHEMA(stage)
    assert restored["schema"] == "2.0"
    return dict(restored["stages"])


def stages_before_last(size: int) -> list[str]:
    return [name for name in STAGES if f"\n  {name}:\n" in WHOLE[:size]][:-1]


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("size", [0, 1, 8, 30, *WITHIN_INDENTATION, *WITHIN_LINES, len(WHOLE) - 1])
def test_lock_file_cut_off_within_a_line_is_restored(size: int) -> None:
    restored = cut_off(size)
    whole = stages_before_last(size)
    for name in STAGES:
        if name in whole:
            assert restored[name] == STAGES[name], "what it still has"
        elif name == "crawl":
            assert restored[name]["cmd"] == "another", "as git has it"
        elif name != "report":
            assert restored[name] == STAGES[name]


@pytest.mark.usefixtures("committed")
def test_lock_file_cut_off_at_the_end_of_a_line_can_be_read() -> None:
    for size in random.Random(16).sample(LINE_ENDS, 20):
        restored = cut_off(size)
        for name in stages_before_last(size):
            assert restored[name] == STAGES[name], "what it still has"


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("place", ["zoom", "report"])
def test_conflict_of_a_merge_is_not_resolved(place: str) -> None:
    stage = f"\n  {place}:\n    cmd: "
    conflict = WHOLE.replace(stage, f"\n<<<<<<< HEAD\n{stage[1:]}mine\n=======\n{stage[1:]}theirs\n>>>>>>> a\n")
    LOCK_FILE.write_text(conflict)
    mend()
    assert LOCK_FILE.read_text() == conflict


@pytest.mark.usefixtures("committed")
def test_lock_file_is_not_touched_while_dvc_may_write_it() -> None:
    LOCK_FILE.write_text(WHOLE[:3000])
    with (DVC_TMP / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mend()
    assert LOCK_FILE.read_text() == WHOLE[:3000]


@pytest.mark.usefixtures("committed")
def test_whole_lock_file_stays_as_it_is() -> None:
    LOCK_FILE.write_text(WHOLE)
    mend()
    assert LOCK_FILE.read_text() == WHOLE


def test_empty_lock_file_without_git_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    DVC_TMP.mkdir(parents=True)
    LOCK_FILE.touch()
    mend()
    assert not LOCK_FILE.exists()


def test_nothing_happens_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    LOCK_FILE.touch()
    mend()
    assert list(tmp_path.iterdir()) == [tmp_path / LOCK_FILE]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["within a line", "at the end of a line"])
def test_dvc_works_again_without_running_a_stage(
    place: str, mini_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mini_project)
    assert run_dvc(mini_project, "repro").returncode == 0
    whole = LOCK_FILE.read_text()
    size = whole.rindex("outs:") + len("outs:\n") if place == "at the end of a line" else len(whole) // 2
    LOCK_FILE.write_text(whole[:size])
    (DVC_TMP / "rwlock").write_text('{"write": {"')
    assert run_dvc(mini_project, "repro").returncode != 0, "DVC itself refuses"
    with DvcChild() as child:
        child.inspect()
    done = run_dvc(mini_project, "repro")
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout
    assert LOCK_FILE.read_text() == whole
