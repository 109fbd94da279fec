"""The sweep on a small project, told to a real Prefect server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.prefect_server import PrefectServer
from tests.support.sweeping import environment, make_project, metrics_of, outside, ran

TIMEOUT_S = 240
GRID = ["train.encoder_lr=0.001,0.003", "train.dropout=0.3,0.4"]
POINTS = [f"train.encoder_lr={lr} train.dropout={dropout}" for lr in ("0.001", "0.003") for dropout in ("0.3", "0.4")]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.experiments.sweep", *arguments]


def sweep(folder: Path, server: PrefectServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**environment(folder), "PREFECT_API_URL": server.url},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def experiments_of(folder: Path) -> dict[str, str]:
    """Name of each experiment -> its reference."""
    git = ["git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*"]
    found = subprocess.run(git, cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    return {reference.rpartition("/")[2]: reference for reference in found}


@pytest.mark.slow
def test_sweep_with_failing_point_resumes(
    mini_project: Path, git_env: dict[str, str], prefect_server: PrefectServer
) -> None:
    folder = make_project(mini_project, git_env)
    ran(folder)
    (outside(folder) / "fail").write_text("0.001 0.4")
    done = sweep(folder, prefect_server, *GRID, "--jobs", "2")
    assert done.returncode == 1, done.stderr
    assert f"error: 1 of 4 combinations failed\n{POINTS[1]}: stage evaluate failed: no luck" in done.stderr
    points = ("0.001 0.3", "0.003 0.3", "0.003 0.4")
    expected = [f"{stage} {point}" for stage in ("evaluate", "train") for point in points]
    assert ran(folder) == sorted([*expected, "train 0.001 0.4"])
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0][:4] == ["best", "train.encoder_lr", "train.dropout", "val.micro_f1"]
    assert [line[0] for line in lines[1:]] == ["", "", "*", ""]
    assert [line[1:4] for line in lines[1:4]] == [
        ["0.001", "0.3", "0.8"],
        ["0.001", "0.4", "None"],
        ["0.003", "0.3", "1.0"],
    ]
    names = experiments_of(folder)
    assert len(names) == 3
    assert metrics_of(folder, names["evaluate_train.encoder_lr=0.003_train.dropout=0.3"])["code"] == "of the workspace"
    status = subprocess.run(["git", "status", "--short"], cwd=folder, capture_output=True, text=True, check=True)
    assert status.stdout == "", "nothing of the project itself has changed"

    (outside(folder) / "fail").unlink()
    done = sweep(folder, prefect_server, *GRID)
    assert done.returncode == 0, done.stderr
    assert ran(folder) == ["evaluate 0.001 0.4", "train 0.001 0.4"], "the others are done"
    (fourth,) = set(experiments_of(folder)) - set(names)
    assert metrics_of(folder, experiments_of(folder)[fourth])["model"] == "0.001 0.4 True", "on from where it was"
    assert not list((folder / ".atlas/sweep").glob("*/project"))

    newest = prefect_server.ask(
        "/flow_runs/filter", {"flows": {"name": {"any_": ["sweep"]}}, "sort": "START_TIME_DESC"}
    )[0]
    tasks = {run["name"]: run for run in prefect_server.of_flow_run("task_runs", newest["id"])}
    states = {name: task["state"]["name"] for name, task in tasks.items()}
    assert states == dict.fromkeys(POINTS, "Cached") | {POINTS[1]: "Completed"}
    progress, table = sorted(prefect_server.of_flow_run("artifacts", newest["id"]), key=lambda found: found["type"])
    assert (progress["type"], progress["task_run_id"]) == ("progress", tasks[POINTS[1]]["id"]), "of its stage train"
    assert progress["key"] is None, "so that the list of artifacts has results only"
    assert table["key"] == "sweep" and table["data"].count('"*"') == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="dying with the parent is Linux's")
def test_killed_sweep_leaves_no_process(
    mini_project: Path, git_env: dict[str, str], prefect_server: PrefectServer, tmp_path: Path
) -> None:
    folder = make_project(mini_project, git_env)
    ran(folder)
    (outside(folder) / "hang").write_text("0.003 0.3")
    reader, writer = os.pipe()  # closed by all who hold it when the last of them has ended
    process = subprocess.Popen(
        command("train.dropout=0.3"),
        cwd=folder,
        env={**environment(folder), "PREFECT_API_URL": prefect_server.url},
        stdout=writer,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(writer)
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not (outside(folder) / "ran").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        stage = stage_of(folder)
        process.send_signal(signal.SIGKILL)
        process.wait()
        while psutil.pid_exists(stage):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.close(reader)
        process.kill()


def stage_of(folder: Path) -> int:
    """The process that runs the stage train in a workspace of ``folder``."""
    for process in psutil.process_iter():
        try:
            arguments, here = process.cmdline(), Path(process.cwd()).is_relative_to(folder / ".atlas/sweep")
        except psutil.Error:
            continue
        if here and arguments[1:4] == ["-m", "stage", "train"]:
            return process.pid
    raise AssertionError("no such process")


def test_reports_invalid_input_before_running(mini_project: Path) -> None:
    done = subprocess.run(
        command("split.seed=1", "split.sed=1"), cwd=mini_project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "error: the grid: " in done.stderr and "split.sed: unknown key" in done.stderr
    assert "Starting" not in done.stderr, "no server for that"
