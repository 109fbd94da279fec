"""Whose turn it is: flows wait, stages of a shell end at once."""

import os
import select
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from atlas_model.core.errors import RetryError
from atlas_model.core.processes import Process, ancestor_without
from flows.dvc.pipeline_lock import LOCK, POLL_S, flow_lock, is_pipeline_running, stage_lock

WAITING = "import flows.dvc.pipeline_lock as t\nwith t.flow_lock(lambda line: print(line, flush=True)): print('mine')"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def waiting_flow() -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True)


def its_turn_comes(flow: "subprocess.Popen[str]") -> None:
    with flow:
        assert flow.stdout is not None
        assert flow.stdout.read() == "mine\n"
    assert flow.returncode == 0


def test_flow_waits_for_another_flow_and_names_it() -> None:
    with flow_lock(pytest.fail):
        other = waiting_flow()
        assert other.stdout is not None
        assert f"(pid {os.getpid()}: " in other.stdout.readline()
        assert other.poll() is None
    its_turn_comes(other)
    with flow_lock(pytest.fail):
        pass


def test_flow_waits_for_dvc_between_two_stages() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as dvc:
        with stage_lock(Process.of(dvc.pid)):
            pass
        other = waiting_flow()
        assert other.stdout is not None
        assert f"(pid {dvc.pid}: " in other.stdout.readline()
        dvc.communicate(b"\n")
        its_turn_comes(other)


def test_process_waited_for_is_told_once_though_its_name_is_written_anew() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as dvc:
        with stage_lock(Process.of(dvc.pid)):
            other = waiting_flow()
            assert other.stdout is not None
            assert f"(pid {dvc.pid}: " in other.stdout.readline()
            LOCK.write_text("")
            assert other.stdout.fileno() not in select.select([other.stdout.fileno()], [], [], 5 * POLL_S)[0]
        dvc.communicate(b"\n")
        its_turn_comes(other)


def test_shell_stage_fails_at_once_while_flow_runs() -> None:
    with (
        flow_lock(pytest.fail),
        pytest.raises(RetryError, match=rf"pid {os.getpid()}: .* Run again when it has ended"),
        stage_lock(None),
    ):
        pytest.fail("not its turn")


def test_shell_stages_do_not_lock_each_other() -> None:
    with stage_lock(None), stage_lock(None):
        pass


def test_a_look_at_the_lock_changes_nothing() -> None:
    assert not is_pipeline_running()
    assert not LOCK.exists()
    with flow_lock(pytest.fail):
        assert is_pipeline_running()
    assert not is_pipeline_running()
    with stage_lock(Process.current()):
        assert is_pipeline_running()
    assert is_pipeline_running(), "its dvc process has further stages"
    LOCK.write_text("1 another process")
    assert not is_pipeline_running()


def test_lock_of_killed_flow_is_stale() -> None:
    program = "import os, flows.dvc.pipeline_lock as t\nwith t.flow_lock(print): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    with flow_lock(pytest.fail):
        pass


def test_process_identity_survives_pid_reuse() -> None:
    code = "print('begun', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # since Python 3.13 Popen may come back before the child has its command line
        process = Process.of(child.pid)
        assert process is not None
        assert process == Process.of(child.pid)
        assert process != Process(child.pid, "1")
        assert "input()" in process.command
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Process.of(child.pid) is None, "it has ended, and is only not fetched"
    assert Process.of(child.pid) is None
    assert Process(child.pid, "1").command == ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil counts from another start")
def test_process_identity_does_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before, started_s, booted_s = Process.current(), psutil.Process().create_time(), psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted_s + 3600)
    assert psutil.Process().create_time() == pytest.approx(started_s + 3600), "which psutil tells by the clock"
    assert Process.current() == before


def test_unknown_processes() -> None:
    assert Process.of(2**22) is None
    assert Process(2**22, "1").command == ""
    assert ancestor_without("NEVER_SET") == Process.of(os.getppid())


def test_prints_commands_that_are_not_utf8() -> None:
    program = "print(flush=True), input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, b"\xff"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()  # while a process starts, it has no command line
        process = Process.of(child.pid)
        assert process is not None
        assert process.command.endswith(f"{program} ?")
        child.kill()


def test_finds_dvc_behind_the_shell_that_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = "import os, atlas_model.core.processes as p; print(p.ancestor_without('OF_A_STAGE').pid)"
    command = f"true; '{sys.executable}' -c \"{ask}\"; true"  # the shell stays
    found = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**os.environ, "OF_A_STAGE": "train"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout) == os.getpid()
