"""Faults of the Prefect server in the middle of a run, and several runs at once: real servers, flows and DVC.

In each case of an outage the data run must finish with exit code 0 and the outputs of a quiet run, and print one
warning; what the server missed is sent to it when it answers again, or by the next run.
"""

import contextlib
import hashlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.faulty_server import FaultyServer, Proxy, faulty_server, http, proxy
from tests.support.flow_projects import STAGE, RunInUi, environment, run_dvc, run_flow, runs_of, started
from tests.support.prefect_server import PrefectServer
from tests.support.waiting import wait_until

FLOW = ["flows.prefect_app.flow"]
OUTPUTS = ("data/raw", "data/labelled", "data/splits", "metrics", "dvc.lock")
LONG_S = 900  # of each wait in the soak: the machine may be busy
LOCKED_S = 40  # longer than the server waits for its database

Fault = Callable[[FaultyServer, Proxy], None]


@pytest.fixture
def project(mini_project: Path) -> Path:
    (mini_project / "stage.py").write_text(STAGE)
    return mini_project


@pytest.fixture
def server(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[FaultyServer]:
    """A server of this test alone, whose database is the empty one that the fixture `prefect_server` left."""
    with faulty_server(tmp_path / "server", Path(os.environ["PREFECT_HOME"]) / "prefect.db") as found:
        yield found


def hashes(project: Path) -> dict[str, str]:
    paths = [project / name for name in OUTPUTS]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(project)): hashlib.md5(file.read_bytes()).hexdigest() for file in sorted(files)}


def reset(project: Path) -> None:
    """Remove what runs have left in ``project``, also in DVC's run cache."""
    for name in ("data", "metrics", "ran", ".atlas", ".dvc/cache", ".dvc/tmp", "dvc.lock"):
        subprocess.run(["rm", "-rf", name], cwd=project, check=True)


@contextlib.contextmanager
def flow_in(stage: str, project: Path, log: Path, url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A flow that is in the middle of ``stage``, until ``hang-<stage>`` is deleted."""
    (project / f"hang-{stage}").touch()
    with started(FLOW, project, log, PREFECT_API_URL=url) as flow:
        wait_until(lambda: stage in runs_of(project) or flow.poll() is not None, log.read_text, timeout_s=LONG_S)
        assert flow.poll() is None, log.read_text()
        yield flow


def finish(project: Path, flow: "subprocess.Popen[bytes]", log: Path) -> str:
    """Let a flow end, which must succeed; returns what it printed."""
    for file in project.glob("hang-*"):
        file.unlink()
    assert flow.wait(timeout=LONG_S) == 0, log.read_text()
    return log.read_text()


def assert_told_once(said: str, *, may_be_silent: bool = False) -> None:
    """One line of warning about the server, no traceback, and nothing that Prefect's own senders print."""
    warnings = [line for line in said.splitlines() if re.search("warning|error|exception|failed|unable", line, re.I)]
    assert len(warnings) <= 1, said
    assert may_be_silent or len(warnings) == 1, said
    assert all("does not answer as expected" in line for line in warnings), said
    assert "Traceback" not in said
    assert "Error logging to API" not in said


def run_in(server: FaultyServer, said: str) -> RunInUi:
    """The run of which a flow's output speaks, as the server shows it."""
    (run,) = re.findall(r"/runs/flow-run/([0-9a-f-]+)", said)
    asked = PrefectServer(server.url, server.log)
    return RunInUi(asked, asked.flow_run(id=[run]))


@pytest.mark.slow
def test_server_is_killed_and_the_next_run_tells_it_what_it_missed(
    project: Path, server: FaultyServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with flow_in("crawl", project, log, server.url) as flow:
        server.kill()
        said = finish(project, flow, log)
    assert_told_once(said)
    assert sorted(runs_of(project)) == ["crawl", "split", "zoom_train"]
    done = run_dvc(project, "status")
    assert "up to date" in done.stdout

    server.start()
    assert run_in(server, said).state == "Running", "as far as it knows"
    again = run_flow(project, PREFECT_API_URL=server.url)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("what it missed of 1 earlier run") == 1
    wait_until(lambda: set(run_in(server, said).states().values()) == {"Completed"})
    shown = run_in(server, said)
    assert (shown.state, shown.message) == ("Completed", "ran crawl, zoom_train, split")
    assert "split is at work" in shown.lines("split")
    assert not list((project / ".atlas/unsent").iterdir())


@pytest.mark.slow
def test_server_of_another_version_stops_the_run_with_one_line(project: Path) -> None:
    with contextlib.closing(Proxy(0)) as old:
        for version in (b'"2.20.4"', b'"4.0.0"', b"<html>", b'{"detail": "no"}'):
            old.set(http("200 OK", version))
            done = run_flow(project, PREFECT_API_URL=old.url)
            assert done.returncode == 1
            assert done.stderr.startswith(f"error: PREFECT_API_URL: expected a Prefect server at {old.url}, got: ")
            assert done.stderr.count("\n") == 1, done.stderr
    assert not runs_of(project)


def kill(server: FaultyServer, _: Proxy) -> None:
    server.kill()


def pause(server: FaultyServer, _: Proxy) -> None:
    server.pause()


def pause_for_a_while(server: FaultyServer, _: Proxy) -> None:
    server.pause()
    time.sleep(15)
    server.resume()


def restart(server: FaultyServer, _: Proxy) -> None:
    server.kill()
    time.sleep(5)
    server.start()


def lock_database(server: FaultyServer, _: Proxy) -> None:
    locked = threading.Event()

    def lock() -> None:
        with contextlib.closing(sqlite3.connect(server.database, isolation_level=None, timeout=60)) as database:
            database.execute("BEGIN EXCLUSIVE")
            locked.set()
            time.sleep(LOCKED_S)
            database.rollback()

    threading.Thread(target=lock, daemon=True).start()
    assert locked.wait(60)


def fill_disk(server: FaultyServer, _: Proxy) -> None:
    server.fill_disk()


def answering(status: str, body: bytes, *headers: str) -> Fault:
    return lambda _, between: between.set(http(status, body, *headers))


FAULTS: dict[str, Fault] = {
    "killed": kill,
    "stopped": pause,
    "stopped and continued": pause_for_a_while,
    "restarted": restart,
    "database locked": lock_database,
    "disk full": fill_disk,
    "500": answering("500 Internal Server Error", b'{"exception_message": "Internal Server Error"}'),
    "503": answering("503 Service Unavailable", b""),
    "429": answering("429 Too Many Requests", b"slow down", "Retry-After: 3"),
    "404": answering("404 Not Found", b'{"detail": "Not Found"}'),
    "a page": answering("200 OK", b"<html>a page</html>", "Content-Type: text/html"),
    "no HTTP": lambda _, between: between.set(b"\x00\x01 nonsense\r\n"),
    "no answer": lambda _, between: between.set(b""),
}
PASSES = {"stopped and continued", "restarted", "database locked"}  # the run may not notice


@pytest.fixture(scope="module")
def quiet_hashes() -> dict[str, str]:
    """The outputs of a run without faults; filled by the first test."""
    return {}


@pytest.mark.soak
@pytest.mark.parametrize("stage", ["crawl", "zoom_train", "split"])
@pytest.mark.parametrize("name", FAULTS)
def test_run_survives_every_fault_of_the_server(
    name: str, stage: str, project: Path, server: FaultyServer, tmp_path: Path, quiet_hashes: dict[str, str]
) -> None:
    if not quiet_hashes:
        done = run_dvc(project, "repro")
        assert done.returncode == 0, done.stderr
        quiet_hashes.update(hashes(project))
        reset(project)
    log = tmp_path / "log"
    with proxy(server) as between:
        with flow_in(stage, project, log, between.url) as flow:
            FAULTS[name](server, between)
            begun = time.monotonic()
            said = finish(project, flow, log)
            took = time.monotonic() - begun
        assert_told_once(said, may_be_silent=name in PASSES)
        assert hashes(project) == quiet_hashes
        assert took < LONG_S / 3, "no minutes for each of its messages"

        between.answer = None
        if server.process is not None and server.process.poll() is None:
            server.resume()
        if name in {"killed", "disk full"}:
            server.close()
            server.start()
        again = run_flow(project, PREFECT_API_URL=between.url)
        assert again.returncode == 0, again.stderr
        assert "Traceback" not in again.stderr
        if name != "404":  # which says that there is no such run
            wait_until(lambda: run_in(server, said).state == "Completed", timeout_s=LONG_S)
            assert not list((project / ".atlas").glob("unsent/*.json"))


@pytest.mark.soak
@pytest.mark.parametrize("how", ["nothing listens", "stopped", "500", "a page"])
def test_server_that_is_away_at_the_start_stops_the_run_with_one_line(
    how: str, project: Path, server: FaultyServer
) -> None:
    url = server.url
    with proxy(server) as between:
        if how == "nothing listens":
            with socket.create_server(("127.0.0.1", 0)) as listener:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        elif how == "stopped":
            server.pause()
        else:
            FAULTS[how](server, between)
            url = between.url
        done = run_flow(project, PREFECT_API_URL=url)
    server.resume()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: PREFECT_API_URL: expected a Prefect server at {url}, got: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not runs_of(project)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["killed", "stopped", "database locked", "500"])
def test_dvc_of_a_shell_survives_faults_of_the_server(
    name: str, project: Path, server: FaultyServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    (project / "hang-crawl").touch()
    with proxy(server) as between, started(["dvc", "repro"], project, log, PREFECT_API_URL=between.url) as shell:
        wait_until(lambda: runs_of(project), log.read_text, timeout_s=LONG_S)
        FAULTS[name](server, between)
        (project / "hang-crawl").unlink()
        assert shell.wait(timeout=LONG_S) == 0, log.read_text()
        server.resume()
    assert log.read_text().count("warning: ") <= 1, log.read_text()
    assert "Traceback" not in log.read_text()
    check_rerun(project)


def check_rerun(project: Path) -> None:
    """The outputs are those of a run without faults."""
    found = hashes(project)
    reset(project)
    assert run_dvc(project, "repro").returncode == 0
    assert hashes(project) == found


def outcome(command: "subprocess.Popen[bytes]", log: Path) -> tuple[int, str]:
    return command.wait(timeout=LONG_S), log.read_text()


@pytest.mark.soak
@pytest.mark.parametrize("kill_first", [False, True], ids=["ends", "killed"])
@pytest.mark.parametrize("second", ["flow", "dvc"])
@pytest.mark.parametrize("first", ["flow", "dvc"])
def test_two_runs_at_once_wait_or_stop_with_a_sentence(
    first: str, second: str, kill_first: bool, project: Path, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    commands = {"flow": FLOW, "dvc": ["dvc", "repro"]}
    logs = [tmp_path / "first", tmp_path / "second"]
    url = {"PREFECT_API_URL": prefect_server.url}
    (project / "hang-crawl").touch()
    with started(commands[first], project, logs[0], **url) as one:
        wait_until(lambda: runs_of(project), logs[0].read_text, timeout_s=LONG_S)
        with started(commands[second], project, logs[1], **url) as two:
            waits = second == "flow"
            wait_until(lambda: "pid " in logs[1].read_text().lower() or two.poll() is not None, timeout_s=LONG_S)
            if not waits:
                two.wait(timeout=LONG_S)
            assert (two.poll() is None) == waits, logs[1].read_text()
            if waits:
                time.sleep(5)
                told = [line for line in logs[1].read_text().splitlines() if "waiting for its end" in line]
                assert len(told) == 1, logs[1].read_text()
                assert re.search(rf"\(pid {one.pid}: .*, since 20\d\d-\d\d-\d\d \d\d:\d\d\)", told[0]), told
            else:
                code, said = outcome(two, logs[1])
                assert code != 0
                named = re.findall(r"\(pid (\d+)\)?: ", said, re.I)  # DVC names the process in which it runs
                assert {os.getsid(int(pid)) for pid in named} == {one.pid}, said
                assert "Traceback" not in said
            if kill_first:
                children = psutil.Process(one.pid).children(recursive=True)
                os.killpg(one.pid, signal.SIGKILL)
                one.wait()
                # DVC takes a zombie for alive; `atlas check` and flows do not.
                psutil.wait_procs(children, timeout=LONG_S)
            (project / "hang-crawl").unlink()
            if not kill_first:
                assert outcome(one, logs[0])[0] == 0, logs[0].read_text()
            if waits:
                assert outcome(two, logs[1])[0] == 0, logs[1].read_text()
    done = run_dvc(project, "repro")
    assert done.returncode == 0, f"no lock needs a hand: {done.stderr}"
    assert sorted(set(runs_of(project))) == ["crawl", "split", "zoom_train"]
    assert len(runs_of(project)) == 3 + kill_first, "nothing ran twice but the stage that was killed"
    check_rerun(project)


@pytest.mark.soak
def test_crash_automation_lets_finished_runs_alone(project: Path, server: FaultyServer, tmp_path: Path) -> None:
    """No event of a failed action: a heartbeat that arrives after the end of a run would start its clock again."""
    create = "import asyncio; from flows.prefect_app.deployment import create_crash_automation as c; asyncio.run(c())"
    made = subprocess.run([sys.executable, "-c", create], env=environment(PREFECT_API_URL=server.url), check=False)
    assert made.returncode == 0
    for _ in range(3):
        done = run_flow(project, PREFECT_HOME=str(tmp_path / "home"), **HEARTBEATS, PREFECT_API_URL=server.url)
        assert done.returncode == 0, done.stderr
    time.sleep(150)
    asked = PrefectServer(server.url, server.log)
    events = asked.ask("/events/filter", {"filter": {"event": {"prefix": ["prefect.automation"]}}, "limit": 50})
    names = [event["event"] for event in events["events"]]
    assert not [name for name in names if "action" in name or "triggered" in name], names


HEARTBEATS = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
