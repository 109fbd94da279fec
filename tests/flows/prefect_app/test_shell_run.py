"""A bare `dvc repro` in Prefect's UI, and where there is no UI."""

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.prefect_app import shell_run
from flows.prefect_app.ui.reporter import Api
from tests.support.flow_projects import STAGE, RunInUi, run_dvc, runs_of, started
from tests.support.prefect_server import PrefectServer
from tests.support.waiting import TIMEOUT_S, wait_until

STAGES = ["crawl", "zoom_train", "split"]


@pytest.fixture
def project(mini_project: Path) -> Path:
    (mini_project / "stage.py").write_text(STAGE)
    return mini_project


@pytest.fixture
def repro(project: Path, tmp_path: Path, prefect_server: PrefectServer) -> Callable[..., RunInUi]:
    """A function that runs `dvc repro` to its end; its run, when the last word on it has been said."""

    def run(*options: str) -> RunInUi:
        log = tmp_path / "log"
        with started(["dvc", "repro", *options], project, log, PREFECT_API_URL=prefect_server.url) as dvc:
            dvc.wait(timeout=TIMEOUT_S)

            def ended() -> RunInUi | None:
                of_shells = {"flow_runs": {"name": {"like_": f", pid {dvc.pid}"}}}
                (run,) = prefect_server.ask("/flow_runs/filter", of_shells)
                found = RunInUi(prefect_server, run)
                return found if found.state != "Running" else None

            wait_until(lambda: not list((project / ".atlas/shell-runs").iterdir()), log.read_text)  # the closer's end
            found: RunInUi = wait_until(ended)
        return found

    return run


@pytest.mark.slow
def test_dvc_repro_is_shown_as_flow_run(project: Path, repro: Callable[..., RunInUi]) -> None:
    run = repro()
    assert sorted(runs_of(project)) == sorted(STAGES)
    assert (run.state, run.states()) == ("Completed", dict.fromkeys(runs_of(project), "Completed"))
    assert set(run.graph()) == set(STAGES), "one tree"
    assert re.fullmatch(r"dvc repro \d{4}-\d\d-\d\d \d\d:\d\d, pid \d+", run.name)
    assert run.message == f"ran {', '.join(runs_of(project))}"
    for stage in STAGES:
        assert f"{stage} is at work" in run.lines(stage)
    assert wait_until(lambda: run.artifacts("split"))[0]["data"] == 100


@pytest.mark.slow
def test_shows_final_state_of_each_stage(project: Path, repro: Callable[..., RunInUi]) -> None:
    (project / "kill-crawl").touch()
    (project / "fail-zoom_train").write_text("ZeroDivisionError")
    run = repro("--keep-going")
    assert run.states() == {"crawl": "Crashed", "zoom_train": "Failed"}, "a killed stage does not run for ever"
    assert run.state == "Failed"
    assert "stage crawl: its process was killed" not in run.message, "the worst comes first, alone"
    assert "stage zoom_train: ZeroDivisionError" in run.message
    trace = run.lines("zoom_train", logging.ERROR)
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1].strip() == "- and its place" or any("ZeroDivisionError: a fault" in line for line in trace)

    (project / "fail-zoom_train").write_text("InputError")
    (project / "kill-crawl").unlink()
    run = repro("--keep-going")
    assert run.states() == {"crawl": "Completed", "zoom_train": "Failed"}
    assert run.lines("zoom_train", logging.ERROR) == ["error: a fault", "  - and its place"]


@pytest.mark.slow
def test_without_server_prints_one_line(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    done = run_dvc(project, "repro", PREFECT_API_URL=url)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: ") == 1, "the next stages do not even try"
    assert len(runs_of(project)) == 3
    wait_until(lambda: not list((project / ".atlas/shell-runs").iterdir()))  # nothing is left, and nobody
    with deaf() as url:
        done = run_dvc(project, "repro", "--force", PREFECT_API_URL=url)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("warning: ") == 1, "the next stages do not wait"
        end_closers(project)
    done = run_dvc(project, "repro", "--force")
    assert "warning: " not in done.stderr


@contextmanager
def deaf() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def end_closers(project: Path) -> None:
    """They would go on trying for a while."""
    for folder in (project / ".atlas/shell-runs").iterdir():
        pid, _, birth = folder.name.partition("-")
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.cmdline()[1:] == ["-m", "flows.prefect_app.shell_run", pid, birth]:
                    process.terminate()


class RecordingApi(Api):
    """Answers as a server would that knows of one task run."""

    def __init__(self, states: dict[str, str]) -> None:
        super().__init__("http://127.0.0.1:1/api")
        self.states = states
        self.told: list[tuple[str, Any]] = []

    def request(self, method: str, path: str, body: Any) -> Any:
        if path == "/task_runs/filter":
            runs = [{"id": name, "name": name, "state": {"type": t, "message": "m"}} for name, t in self.states.items()]
            return runs
        if path == "/task_runs/":
            self.states.setdefault(body["name"], "RUNNING")
            return {"id": body["name"]}
        self.told.append((path, body))
        return {"id": "x"}


def test_closer_sends_what_stages_left_in_the_queue(tmp_path: Path) -> None:
    line = ["2026-01-01T00:00:00+00:00", logging.INFO, "a line"]
    told = {"stage": "split", "state": {"type": "COMPLETED", "message": "done"}, "lines": [line]}
    (tmp_path / "1.json").write_text(json.dumps(told))
    api = RecordingApi({"crawl": "COMPLETED", "fetch": "RUNNING"})
    shell_run._set_final_states(api, "run", tmp_path)
    states = {path: body["state"]["type"] for path, body in api.told if path.endswith("/set_state")}
    assert states == {
        "/task_runs/fetch/set_state": "CRASHED",
        "/task_runs/split/set_state": "COMPLETED",
        "/flow_runs/run/set_state": "CRASHED",
    }
    assert [entry["message"] for path, body in api.told if path == "/logs/" for entry in body] == ["a line"]
    shell_run._set_final_states(api, "run", tmp_path)
    assert len([path for path, _ in api.told if path == "/logs/"]) == 1, "each line once, also in a second attempt"
