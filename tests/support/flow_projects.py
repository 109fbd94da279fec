"""The small DVC project of conftest with controllable stages, and functions that run it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.prefect_server import PrefectServer
from tests.support.waiting import TIMEOUT_S, wait_until

# Control files: fail-<stage> names an error, kill-<stage>, hang-<stage> (until deleted); ran gets a line per run.
STAGE = """
import builtins, os, sys, time
from pathlib import Path
from atlas_model.core import errors, progress
from flows.stages.entry import main, write_metrics

stage, output, *inputs = sys.argv[1:]
progress.LINE_INTERVAL_S = 0.0

def run(params):
    progress.say(f"{stage} is at work")
    with Path("ran").open("a") as ran:
        ran.write(f"{stage}\\n")
    with progress.Progress(f"{stage} count", 4, "[sheep](http://evil.test)") as job:
        job.advance(2)
        while Path(f"hang-{stage}").exists():
            time.sleep(0.05)
        job.advance(2)
    if (order := Path(f"fail-{stage}")).exists():
        kind = order.read_text()
        raise getattr(errors, kind, getattr(builtins, kind, None))("a fault\\n  - and its place")
    if Path(f"kill-{stage}").exists():
        os.kill(os.getpid(), 9)
    Path(output).mkdir(parents=True)
    for part in ("a", "b"):
        (Path(output) / part).write_text(stage + part + "".join((Path(name) / part).read_text() for name in inputs))
    write_metrics(stage, {"runs": 1, "by": {"<b>[shop](http://evil.test)": 0.123456}})

main(run)
"""


def runs_of(folder: Path) -> list[str]:
    """The stages that ran, in order."""
    log = folder / "ran"
    return log.read_text().splitlines() if log.exists() else []


def environment(**more: str) -> dict[str, str]:
    """The environment of a shell in which the venv is active."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "SHELL": "/bin/sh", **more}


def run_flow(folder: Path, program: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the flow to its end."""
    how = ["-m", "flows.prefect_app.flow"] if program is None else ["-c", program]
    return _run([sys.executable, *how], folder, **more)


def run_dvc(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a dvc command to its end."""
    return _run([sys.executable, "-m", "dvc", *arguments], folder, **more)


def _run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@contextmanager
def started(command: list[str], folder: Path, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in its own session, so that a signal reaches all its processes; kill it at the end."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment(**more),
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)


def processes_of(session: int) -> list[str]:
    """Command lines of the processes in ``session``."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):  # the process has ended
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


class RunInUi:
    """A flow run as the server shows it."""

    def __init__(self, server: PrefectServer, run: dict[str, Any]) -> None:
        self.id = run["id"]
        self.name, self.state, self.message = run["name"], run["state_name"], run["state"]["message"]
        self.tags: list[str] = run["tags"]
        self._server = server
        self._tasks = {task["id"]: task for task in server.of_flow_run("task_runs", self.id)}

    def states(self) -> dict[str, str]:
        """Task run -> name of its state, in order."""
        return {task["name"]: task["state_name"] for task in self._tasks.values()}

    def messages(self) -> dict[str, str]:
        """Task run -> message of its state."""
        return {task["name"]: task["state"]["message"] for task in self._tasks.values()}

    def lines(self, task: str | None = None, least_level: int = 0) -> list[str]:
        """The log of a task run, or of the flow run with all its task runs."""
        logs = self._server.of_flow_run("logs", self.id)
        return [log["message"] for log in logs if (not task or self._is_of(log, task)) and log["level"] >= least_level]

    def artifacts(self, task: str | None) -> list[dict[str, Any]]:
        """The artifacts of a task run, or those of the flow run itself."""
        found = self._server.of_flow_run("artifacts", self.id)
        return [each for each in found if (self._is_of(each, task) if task else not each["task_run_id"])]

    def events(self) -> dict[str, dict[str, Any]]:
        """Our events of the run: name -> event, as automations see it."""
        mine = {"event": {"prefix": ["atlas."]}, "related": {"id": [f"prefect.flow-run.{self.id}"]}}
        return {each["event"]: each for each in self._server.ask("/events/filter", {"filter": mine})["events"]}

    def graph(self) -> dict[str, set[str]]:
        """Node -> its upstream nodes, as the run's page shows them."""
        nodes = dict(self._server.ask(f"/flow_runs/{self.id}/graph-v2")["nodes"])
        return {node["label"]: {nodes[parent["id"]]["label"] for parent in node["parents"]} for node in nodes.values()}

    def _is_of(self, found: dict[str, Any], task: str) -> bool:
        return bool(found["task_run_id"]) and self._tasks[found["task_run_id"]]["name"] == task


def run_in_ui(server: PrefectServer, output: str) -> RunInUi:
    """The run named in a flow's output, once the server reports all its tasks as ended.

    The server learns with a delay that tasks have ended.
    """
    tasks = set(re.findall(r"Task run '(\w+)'", output))
    found = re.findall(r"/runs/flow-run/([0-9a-f-]+)", output)
    assert found, output

    def settled() -> RunInUi | None:
        run = RunInUi(server, server.flow_run(id=found[-1:]))
        unfinished = {"Running", "Pending", "AwaitingRetry", "Retrying"} & {run.state, *run.states().values()}
        return run if tasks <= run.states().keys() and not unfinished else None

    return wait_until(settled, lambda: output)
