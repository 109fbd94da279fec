"""The real flow, with its own temporary server, on a small DVC project."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from flows.log_lines import relay_to
from flows.pipeline import NETWORK_STAGES, task_of
from flows.turns import turn_of_flow

TIMEOUT_S = 120


def run_flow(folder: Path, program: str | None = None) -> subprocess.CompletedProcess[str]:
    how = ["-m", "flows.pipeline"] if program is None else ["-c", program]
    return subprocess.run(
        [sys.executable, *how], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The final state's name of each task run and of the flow run, in order."""
    found = re.findall(r"(?:Task run '(\w+)'|Flow run '[\w-]+') +- Finished in state (\w+)", done.stderr)
    return {task or "the flow": state for task, state in found}


def runs_of(folder: Path) -> list[str]:
    log = folder / "ran"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.slow
def test_a_run_then_nothing_to_do_then_a_failure(mini_project: Path) -> None:
    done = run_flow(mini_project)
    assert done.returncode == 0, done.stderr
    assert sorted(runs_of(mini_project)) == ["crawl", "split", "zoom_train"]
    assert states(done) == dict.fromkeys([*runs_of(mini_project), "the flow"], "Completed")
    assert re.search(r"INFO +\| Task run 'split' - split is at work", done.stderr), "lines come as logs"

    done = run_flow(mini_project)
    assert done.returncode == 0, done.stderr
    assert len(runs_of(mini_project)) == 3, "nothing ran"
    assert states(done) == {"crawl": "Cached", "zoom_train": "Cached", "split": "Cached", "the flow": "Completed"}

    params = (mini_project / "params.yaml").read_text()
    (mini_project / "params.yaml").write_text(params.replace("snapshot: sample-1", "snapshot: sample-2"))
    (mini_project / "fail-crawl").write_text("InputError")
    done = run_flow(mini_project)
    assert done.returncode == 2, done.stderr
    assert states(done) == {"crawl": "Refused", "the flow": "Refused"}, "later stages do not run, nor is it repeated"
    assert re.search(
        r"ERROR +\| Task run 'crawl' - error: a fault\n.*ERROR +\| Task run 'crawl' - +- and its place", done.stderr
    )
    assert "\nerror: stage crawl refused its input: a fault\n  - and its place\nMend that" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_network_gets_another_chance(mini_project: Path) -> None:
    (mini_project / "fail-crawl").write_text("RetryError")
    program = "import sys, flows.pipeline as p; p.RETRY_DELAYS_S = (0.1, 0.1); sys.exit(p.main())"
    done = run_flow(mini_project, program)
    assert done.returncode == 1, done.stderr
    assert runs_of(mini_project) == ["crawl"] * 3
    assert states(done) == {"crawl": "Failed", "the flow": "Failed"}
    assert "\nerror: stage crawl failed: a fault" in done.stderr


@contextmanager
def started_flow(folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The flow in a session of its own, so that a signal can go to all of its processes, as Ctrl-C does."""
    command = [sys.executable, "-m", "flows.pipeline"]
    with log.open("wb") as stderr, subprocess.Popen(command, cwd=folder, stderr=stderr, start_new_session=True) as flow:
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while not (folder / "ran").exists():
                assert flow.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield flow
        finally:
            kill_session(flow.pid)


def kill_session(session: int) -> None:
    try:
        os.killpg(session, signal.SIGKILL)
    except ProcessLookupError:
        return


def processes_of(session: int) -> list[str]:
    """Command lines of the processes in ``session``, from /proc (the program `ps` need not be installed)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc and dying with the parent are Linux's")
@pytest.mark.parametrize(
    ("number", "to_all", "exit_code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)],
    ids=["ctrl-c", "term"],
)
def test_an_interrupted_run_leaves_nothing_behind(
    mini_project: Path, tmp_path: Path, number: signal.Signals, to_all: bool, exit_code: int
) -> None:
    (mini_project / "hang-crawl").touch()
    with started_flow(mini_project, tmp_path / "log") as flow:
        (os.killpg if to_all else os.kill)(flow.pid, number)
        assert flow.wait(timeout=30) == exit_code
        assert processes_of(flow.pid) == []
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert re.search(r"Flow run '[\w-]+' - Finished in state (Crashed|Cancelled)", log)


def test_bad_parameters_are_told_at_once(mini_project: Path) -> None:
    params = (mini_project / "params.yaml").read_text()
    (mini_project / "params.yaml").write_text(params.replace("epochs: 20", "epochs: 0\n  epoch: 1"))
    done = run_flow(mini_project)
    assert done.returncode == 2
    assert "2 faults" in done.stderr
    assert "zoom_train.epochs" in done.stderr
    assert "zoom_train.epoch: unknown key" in done.stderr
    assert "Starting" not in done.stderr, "no server for that"


def test_only_the_network_is_tried_again() -> None:
    assert {"crawl", "fetch"} == NETWORK_STAGES
    assert task_of("crawl").retries == task_of("fetch").retries == 2
    assert task_of("train").retries == 0
    assert task_of("train").name == "train"


def test_lines_become_logs_at_their_level() -> None:
    lines = [
        "hello",
        "error: two faults",
        "  - one",
        "WARNING slow: shop",
        "ERROR: failed",
        "Traceback (most recent call last):",
        "  File",
        "ValueError: no",
        "100 % done",
        "errors are rare",
    ]
    logged: list[tuple[int, str]] = []
    relay = relay_to(lambda level, line: logged.append((level, line)))
    for line in lines:
        relay(line)
    info, warning, error = logging.INFO, logging.WARNING, logging.ERROR
    assert logged == list(
        zip([info, error, error, warning, error, error, error, error, info, info], lines, strict=True)
    )


def test_two_runs_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = "import flows.turns as t\nwith t.turn_of_flow(lambda line: print(line, flush=True)): print('mine')"
    with turn_of_flow(lambda line: None):
        other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert f"(pid {os.getpid()}: " in other.stdout.readline()
        assert other.poll() is None
    assert other.communicate(timeout=TIMEOUT_S)[0] == "mine\n"
    assert other.returncode == 0
