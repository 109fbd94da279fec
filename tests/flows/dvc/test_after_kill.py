"""What a killed DVC leaves is mended: its list of files in use, and a dvc.lock that was cut off at any place."""

import random
from pathlib import Path

import pytest
import yaml

from flows.dvc.after_kill import LOCK_FILE, mend
from flows.dvc.stale_locks import FOLDER
from flows.dvc.worker import DvcChild
from tests.support.flow_projects import run_dvc
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT

WHOLE = (ROOT / "dvc.lock").read_text()
STAGES = yaml.safe_load(WHOLE)["stages"]


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_env: dict[str, str]) -> None:
    """A repository that has another crawl in its dvc.lock, and no stage `report`."""
    monkeypatch.chdir(tmp_path)
    stages = {name: stage for name, stage in STAGES.items() if name != "report"}
    stages["crawl"] = {**stages["crawl"], "cmd": "another"}
    LOCK_FILE.write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    commit_all(tmp_path, git_env)
    FOLDER.mkdir(parents=True)


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("size", [0, 1, 8, 30, *random.Random(15).sample(range(31, len(WHOLE)), 40), len(WHOLE) - 1])
def test_lock_file_cut_off_anywhere_is_restored(size: int) -> None:
    LOCK_FILE.write_text(WHOLE[:size])
    mend()
    restored = yaml.safe_load(LOCK_FILE.read_text())
    assert restored["schema"] == "2.0"
    whole = [name for name in STAGES if f"\n  {name}:\n" in WHOLE[:size]][:-1]
    for name in STAGES:
        if name in whole:
            assert restored["stages"][name] == STAGES[name], "what it still has"
        elif name == "crawl":
            assert restored["stages"][name]["cmd"] == "another", "as git has it"
        elif name != "report":
            assert restored["stages"][name] == STAGES[name]


@pytest.mark.usefixtures("committed")
def test_whole_lock_file_stays_as_it_is() -> None:
    LOCK_FILE.write_text(WHOLE)
    mend()
    assert LOCK_FILE.read_text() == WHOLE


def test_empty_lock_file_without_git_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    LOCK_FILE.touch()
    mend()
    assert not LOCK_FILE.exists()


def test_nothing_happens_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    LOCK_FILE.touch()
    mend()
    assert list(tmp_path.iterdir()) == [tmp_path / LOCK_FILE]


@pytest.mark.slow
def test_dvc_works_again_without_running_a_stage(mini_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mini_project)
    assert run_dvc(mini_project, "repro").returncode == 0
    whole = LOCK_FILE.read_text()
    LOCK_FILE.write_text(whole[: len(whole) // 2])
    (FOLDER / "rwlock").write_text('{"write": {"')
    assert run_dvc(mini_project, "repro").returncode != 0, "DVC itself refuses"
    with DvcChild() as child:
        child.inspect()
    done = run_dvc(mini_project, "repro")
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout
    assert LOCK_FILE.read_text() == whole
