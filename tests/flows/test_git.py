"""Locks of git that a killed process left, and those of a running one."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from atlas_model.core.errors import InputError
from flows import git
from flows.git import run_git
from tests.support.git_repo import commit_all


@pytest.fixture(autouse=True)
def _repository(tmp_path: Path, git_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(git, "ABANDONED_S", 0.3)
    Path("a").touch()
    commit_all(tmp_path, git_env)


def not_running(monkeypatch: pytest.MonkeyPatch, running: bool = False) -> None:
    monkeypatch.setattr(git, "_git_is_running", lambda: running)  # other tests run git at the same time


@pytest.mark.parametrize(
    ("lock", "arguments"),
    [("index.lock", ["add", "a"]), ("refs/heads/accepted.lock", ["update-ref", "refs/heads/accepted", "HEAD"])],
)
def test_lock_of_a_killed_git_is_removed(
    lock: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    not_running(monkeypatch)
    Path(".git", lock).touch()
    run_git(*arguments)
    assert f"{lock}, which a git process that was killed had left" in capsys.readouterr().err
    assert not Path(".git", lock).exists()


def test_lock_of_a_running_git_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    not_running(monkeypatch, running=True)
    monkeypatch.setattr(git, "BUSY_S", 0.5)
    Path(".git/index.lock").touch()
    with pytest.raises(InputError, match=r"index\.lock': File exists"):
        run_git("add", "a")
    assert Path(".git/index.lock").exists()


@pytest.mark.parametrize(
    ("name", "command", "running"),
    [
        ("git", ["git", "commit"], True),
        ("git", ["git", "fsmonitor--daemon", "run"], False),
        ("gitea", ["gitea", "web"], False),
        ("git", None, True),  # of another user
    ],
)
def test_daemons_and_other_programs_hold_no_locks(
    name: str, command: list[str] | None, running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = SimpleNamespace(info={"name": name, "cmdline": command})
    monkeypatch.setattr(psutil, "process_iter", lambda names: [process])
    assert git._git_is_running() is running


def test_lock_that_is_released_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    not_running(monkeypatch)
    monkeypatch.setattr(git, "ABANDONED_S", 60)
    lock = Path(".git/index.lock")
    lock.touch()
    with subprocess.Popen([sys.executable, "-c", f"import time, os; time.sleep(1); os.unlink({str(lock)!r})"]):
        run_git("add", "a")


def test_running_git_is_found() -> None:
    with subprocess.Popen(["git", "cat-file", "--batch"], stdin=subprocess.PIPE) as running:
        assert git._git_is_running()
        assert running.stdin is not None
