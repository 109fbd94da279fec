"""DVC's notes of who works with which files: who has ended is crossed out."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.dvc.stale_locks import DVC_TMP, remove_stale_locks

NOTES = DVC_TMP / "rwlock"
WE: dict[str, Any] = {"pid": os.getpid(), "cmd": "repro"}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    DVC_TMP.mkdir(parents=True)


def after(**noted: Any) -> Any:
    NOTES.write_text(json.dumps(noted))
    remove_stale_locks()
    return json.loads(NOTES.read_text())


def test_removes_locks_of_zombie_processes() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        dead = {**WE, "pid": child.pid}
        assert after(write={"/a": dead, "/b": WE}, read={"/c": [dead, WE]}) == {
            "write": {"/b": WE},
            "read": {"/c": [WE]},
        }


def test_removes_locks_after_pid_reuse() -> None:
    NOTES.write_text(json.dumps({"write": {"/a": WE}}))
    os.utime(NOTES, (1, 1))
    remove_stale_locks()
    assert json.loads(NOTES.read_text()) == {"write": {}, "read": {}}


def test_ignores_truncated_lock_files() -> None:
    NOTES.write_text('{"wri')
    remove_stale_locks()
    assert json.loads(NOTES.read_text()) == {"write": {}, "read": {}}
    NOTES.unlink()
    remove_stale_locks()
    assert not NOTES.exists()
