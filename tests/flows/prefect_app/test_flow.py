"""The real flow with a real Prefect server, on a small DVC project; what it did is asked of the server."""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.prefect_app.flow import NETWORK_STAGES, make_task
from tests.support.flow_projects import STAGE, RunInUi, processes_of, run_dvc, run_flow, run_in_ui, runs_of, started
from tests.support.prefect_server import PrefectServer
from tests.support.waiting import TIMEOUT_S, wait_until

FLOW = ["flows.prefect_app.flow"]


@pytest.fixture
def project(mini_project: Path) -> Path:
    (mini_project / "stage.py").write_text(STAGE)
    return mini_project


@pytest.fixture
def flow_run(prefect_server: PrefectServer) -> Callable[[str], RunInUi]:
    """A function that finds the run of which a flow's output speaks."""
    return lambda output: run_in_ui(prefect_server, output)


def all_nodes(name: str) -> dict[str, str]:
    return dict.fromkeys(["crawl", "zoom_train", "split"], name)


@pytest.mark.slow
def test_flow_runs_then_is_up_to_date_then_fails_on_input_error(
    project: Path, prefect_server: PrefectServer, flow_run: Callable[[str], RunInUi]
) -> None:
    server = {"PREFECT_API_URL": prefect_server.url}
    done = run_flow(project, **server)
    assert done.returncode == 0, done.stderr
    assert sorted(runs_of(project)) == ["crawl", "split", "zoom_train"]
    run = flow_run(done.stderr)
    assert (run.state, run.states()) == ("Completed", all_nodes("Completed"))
    assert (run.name, run.message) == ("manual", "ran crawl, zoom_train, split")
    (page,) = run.artifacts(None)
    assert page["key"] == "summary"
    assert page["data"].startswith("**ran crawl, zoom_train, split**")
    assert run.graph() == {"crawl": set(), "zoom_train": set(), "split": {"crawl", "zoom_train"}}, "as DVC has it"
    assert "split is at work" in run.lines("split")
    shown = {artifact["type"]: artifact for artifact in wait_until(lambda: run.artifacts("crawl"))}
    assert len(run.artifacts("crawl")) == 2, "one per job, and the metrics"
    assert shown["progress"]["key"] is None, "so that it is not among the results on the page of all artifacts"
    assert shown["progress"]["description"].startswith("crawl count: ")
    assert shown["progress"]["data"] == 100
    assert "4/4" in shown["progress"]["description"]
    assert shown["table"]["key"] == "crawl-metrics"
    assert "0.1235" in shown["table"]["data"]
    for hostile in ("[sheep]", "[shop]", "<b>"):
        assert hostile not in shown["progress"]["description"] + shown["table"]["data"]

    done = run_flow(project, **server)
    assert len(runs_of(project)) == 3, "nothing ran"
    run = flow_run(done.stderr)
    assert (run.state, run.states()) == ("Completed", all_nodes("Cached"))
    assert run.message == "every stage is up to date"

    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("snapshot: sample-1", "snapshot: sample-2"))
    (project / "fail-crawl").write_text("InputError")
    done = run_flow(project, **server)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    run = flow_run(done.stderr)
    assert (run.state, run.states()) == ("Refused", {"crawl": "Refused"}), (
        "neither repeated, nor are the later ones run"
    )
    assert run.lines("crawl", logging.ERROR)[:2] == ["error: a fault", "  - and its place"]
    assert run.message.startswith("stage crawl refused its input: a fault\n  - and its place\nCorrect that, then run")
    assert run.message.endswith("Its log: .atlas/logs/crawl.log")
    log = "\n".join(run.lines())
    assert log.count("a fault") == log.count("and its place") == 1, log
    assert log.count("`dvc repro crawl`") == 1
    assert "NoneType" not in log + done.stderr
    assert "Finished in state Refused" in run.lines("crawl")
    assert "error: a fault" in (project / ".atlas/logs/crawl.log").read_text()

    (project / "fail-crawl").unlink()
    done = run_flow(project, **server)
    assert done.returncode == 0, done.stderr
    assert flow_run(done.stderr).states() == {"crawl": "Completed", "zoom_train": "Cached", "split": "Cached"}, (
        "the new crawl is as the old one was, so nothing is done again"
    )


@pytest.mark.slow
def test_flow_retries_network_errors_and_shows_bugs_with_traceback(
    project: Path, prefect_server: PrefectServer, flow_run: Callable[[str], RunInUi]
) -> None:
    (project / "fail-crawl").write_text("RetryError")
    program = "import sys, flows.prefect_app.flow as p; p.RETRY_DELAYS_S = (0.1, 0.1); sys.exit(p.main())"
    done = run_flow(project, program, PREFECT_API_URL=prefect_server.url)
    assert done.returncode == 1, done.stderr
    assert runs_of(project) == ["crawl"] * 3
    assert flow_run(done.stderr).states() == {"crawl": "Failed"}
    assert done.stderr.endswith("\nerror: stage crawl failed: the reason and what to do are above\n")
    assert done.stderr.count("a fault") == 3, "once per attempt"
    assert done.stderr.count("`dvc repro crawl`") == 1
    log = "\n".join(flow_run(done.stderr).lines())
    assert log.count("a fault") == 3, "once per attempt"
    assert "Retry 1/2 will start" in log
    assert log.count("`dvc repro crawl`") == 1, "what to do, at the end"
    assert "NoneType" not in log + done.stderr

    (project / "fail-crawl").unlink()
    (project / "fail-zoom_train").write_text("ZeroDivisionError")
    done = run_flow(project, PREFECT_API_URL=prefect_server.url)
    assert done.returncode == 1, done.stderr
    run = flow_run(done.stderr)
    assert run.states() == {"crawl": "Completed", "zoom_train": "Failed"}
    trace = run.lines("zoom_train", logging.ERROR)
    assert trace[0] == "Traceback (most recent call last):"
    assert any(re.match(r"ZeroDivisionError: a fault", line) for line in trace)
    assert run.message.startswith("stage zoom_train failed: ZeroDivisionError: a fault\n  - and its place\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc and dying with the parent are Linux's")
@pytest.mark.parametrize(
    ("number", "to_all", "own_server", "exit_code"),
    [
        (signal.SIGINT, True, True, 130),  # a temporary server, which Ctrl-C reaches too
        (signal.SIGTERM, False, False, 143),
        (signal.SIGKILL, False, True, -9),  # which the signal does not reach
    ],
    ids=["ctrl-c", "term", "kill"],
)
def test_interrupted_flow_leaves_no_process(
    project: Path,
    tmp_path: Path,
    prefect_server: PrefectServer,
    number: signal.Signals,
    to_all: bool,
    own_server: bool,
    exit_code: int,
) -> None:
    (project / "hang-crawl").touch()
    log = tmp_path / "log"
    with started(FLOW, project, log, **({} if own_server else {"PREFECT_API_URL": prefect_server.url})) as flow:
        wait_until(lambda: runs_of(project) or flow.poll() is not None, log.read_text)
        assert flow.poll() is None, log.read_text()
        (os.killpg if to_all else os.kill)(flow.pid, number)
        assert flow.wait(timeout=TIMEOUT_S) == exit_code
        wait_until(lambda: processes_of(flow.pid) == [], lambda: str(processes_of(flow.pid)))
    said = log.read_text()
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert "Flow run 'manual' - Finished in state Cancelled('interrupted. To continue, run the flow again" in said
        assert "Crash" not in said
    elif number == signal.SIGTERM:
        assert "Flow run 'manual' - Crash detected! Execution was aborted by a termination signal." in said

    if number == signal.SIGKILL:  # and nothing that it left is in the way
        (project / "hang-crawl").unlink()
        done = run_flow(project, PREFECT_API_URL=prefect_server.url)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_flow_waits_for_dvc_of_a_shell(
    project: Path, tmp_path: Path, prefect_server: PrefectServer, flow_run: Callable[[str], RunInUi]
) -> None:
    (project / "hang-crawl").touch()
    log = tmp_path / "log"
    with started(["dvc", "repro"], project, tmp_path / "shell") as shell:
        wait_until(lambda: runs_of(project), (tmp_path / "shell").read_text)
        with started(FLOW, project, log, PREFECT_API_URL=prefect_server.url) as flow:
            wait_until(lambda: f"(pid {shell.pid}: " in log.read_text(), log.read_text)
            (project / "hang-crawl").unlink()
            assert shell.wait(timeout=TIMEOUT_S) == 0, (tmp_path / "shell").read_text()
            assert flow.wait(timeout=TIMEOUT_S) == 0, log.read_text()
    assert sorted(runs_of(project)) == ["crawl", "split", "zoom_train"], "each once"
    assert log.read_text().count("waiting for its end") == 1, "of the shell's lock on the folder"
    assert log.read_text().count("waiting: ") <= 1, "of DVC's own lock, which the ending command may still hold"
    assert flow_run(log.read_text()).states() == all_nodes("Cached")


@pytest.mark.slow
def test_dvc_of_a_shell_yields_to_a_flow(project: Path, tmp_path: Path, prefect_server: PrefectServer) -> None:
    (project / "hang-crawl").touch()
    log = tmp_path / "log"
    with started(FLOW, project, log, PREFECT_API_URL=prefect_server.url) as flow:
        wait_until(lambda: runs_of(project), log.read_text)
        done = run_dvc(project, "repro", "zoom_train")
        assert done.returncode != 0
        assert f"(pid {flow.pid}: " in done.stderr
        assert "Run again when it has ended" in done.stderr
        (project / "hang-crawl").unlink()
        assert flow.wait(timeout=TIMEOUT_S) == 0, log.read_text()
    assert runs_of(project) == ["crawl", "zoom_train", "split"]
    assert "up to date" in run_dvc(project, "status").stdout


def test_flow_reports_invalid_params_at_once(mini_project: Path) -> None:
    params = (mini_project / "params.yaml").read_text()
    (mini_project / "params.yaml").write_text(params.replace("epochs: 20", "epochs: 0\n  epoch: 1"))
    done = run_flow(mini_project)
    assert done.returncode == 2
    assert "2 faults" in done.stderr
    assert "zoom_train.epochs" in done.stderr
    assert "zoom_train.epoch: unknown key" in done.stderr
    assert "Starting" not in done.stderr, "no server for that"


def test_flow_reports_unreachable_server(mini_project: Path) -> None:
    done = run_flow(mini_project, PREFECT_API_URL="http://127.0.0.1:1/api")
    assert done.returncode == 1
    assert done.stderr.startswith("error: PREFECT_API_URL: expected a Prefect server at http://127.0.0.1:1/api, got: ")
    assert "Traceback" not in done.stderr
    assert not runs_of(mini_project)


def test_only_network_errors_are_retried() -> None:
    assert {"crawl", "fetch"} == NETWORK_STAGES
    assert make_task("crawl").retries == make_task("fetch").retries == 2
    assert make_task("train").retries == 0
    assert make_task("train").name == "train"
