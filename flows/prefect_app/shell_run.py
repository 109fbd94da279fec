"""Reports `dvc repro` in a shell to Prefect's UI: one flow run, with a task run per stage, sent by the stages.

The stages are children of one DVC process, whose id and start time identify the flow run. A stage may be killed, and no
stage knows whether it is the last one. So the first stage starts a background process, the closer: when DVC has ended,
it sets the final states and sends the log lines that the stages could not send in time. The closer is
``python -m flows.prefect_app.shell_run PID BIRTH``; it ends shortly after DVC.

Used if ``PREFECT_API_URL`` is set and `dvc repro` was not started by the flow.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import write_json
from atlas_model.core.processes import Process
from atlas_model.core.progress import WATCHER, say
from flows.paths import WORK
from flows.prefect_app.ui import reporter
from flows.prefect_app.ui.log_relay import Lines, relay_to
from flows.prefect_app.ui.reporter import (
    API_URL,
    FLOW_RUN,
    FLUSH_S,
    TASK_RUN,
    Api,
    LogLine,
    Poster,
    PrefectApiError,
    send_lines,
    set_state,
)
from flows.text import printable_lines

FLOW = "atlas"  # name of the flow
FOLDER = WORK / "shell-runs"  # <pid>-<birth> of a DVC process: files of its stages for each other and for the closer
# Marker files in it: the server does not respond; it responds too slowly; a stage has told so; the closer was started.
SILENT, SLOW, TOLD, CLOSER = "silent", "slow", "told", "closer"
KILLED = {"type": "CRASHED", "message": "its process was killed"}
POLL_S = 0.5
CLOSING_S = 30.0  # after which the closer stops trying to reach the server
WORST_FIRST = ("FAILED", "CRASHED", "CANCELLED", "COMPLETED")  # final states of a task run


@contextmanager
def reported(stage: str, dvc: Process) -> Iterator[None]:
    """Report the output, the progress and the final state of the block as a task run of ``stage``."""
    folder = _folder(dvc)
    if (folder / SILENT).exists():
        yield
        return
    report = folder / f"{uuid4()}.json"  # read by the closer
    write_json(report, {"stage": stage, "state": KILLED, "lines": []})
    _start_closer(dvc, folder)
    poster = Poster(
        Api(os.environ[API_URL]), lambda api: _open(api, stage, dvc), tell=lambda line: _tell_once(folder, line)
    )
    reporter.use_poster(poster)
    os.environ[WATCHER] = "flows.prefect_app.ui.reporter:post"
    relay = relay_to(poster.log)
    state = {"type": "CRASHED", "message": "it ended early"}
    stderr = sys.stderr
    sys.stderr = Lines(relay, stderr)
    try:
        yield
        state = {"type": "COMPLETED", "message": "done"}
    except AtlasError as error:
        _relay_all(relay, f"error: {error}")
        state = {"type": "FAILED", "message": printable_lines(str(error))}
        raise
    except KeyboardInterrupt:
        state = {"type": "CANCELLED", "message": "interrupted"}
        raise
    except Exception as error:
        _relay_all(relay, traceback.format_exc())
        state = {"type": "FAILED", "message": printable_lines(f"{type(error).__name__}: {error}")}
        raise
    finally:
        sys.stderr = stderr
        poster.state(state)
        left = poster.close(0 if (folder / SLOW).exists() else FLUSH_S)
        if poster.is_slow:
            (folder / SLOW).touch()
        if poster.is_unreachable:
            (folder / SILENT).touch()
            report.unlink()
        else:
            write_json(report, {"stage": stage, "state": state, "lines": left})


def _folder(dvc: Process) -> Path:
    return FOLDER / f"{dvc.pid}-{dvc.birth}"


def _tell_once(folder: Path, line: str) -> None:
    """Print ``line`` unless a stage of the same run has printed one."""
    with suppress(FileExistsError):
        (folder / TOLD).touch(exist_ok=False)
        say(line)


def _relay_all(relay: Callable[[str], None], text: str) -> None:
    for line in text.splitlines():
        relay(line)


def _open(api: Api, stage: str, dvc: Process) -> tuple[str, str]:
    flow_run = _flow_run(api, dvc)
    task_run = _task_run(api, flow_run, stage)
    os.environ.update({FLOW_RUN: flow_run, TASK_RUN: task_run})  # for child processes of the stage
    return flow_run, task_run


def _flow_run(api: Api, dvc: Process) -> str:
    """The id of the flow run of ``dvc``, which is created if it does not exist."""
    run = {
        "flow_id": api.request("POST", "/flows/", {"name": FLOW})["id"],
        "name": f"dvc repro {datetime.now().astimezone():%Y-%m-%d %H:%M}, pid {dvc.pid}",
        "idempotency_key": f"{socket.gethostname()}-{dvc.pid}-{dvc.birth}",
        "tags": ["shell"],
        "state": {"type": "RUNNING"},
    }
    return str(api.request("POST", "/flow_runs/", run)["id"])


def _task_run(api: Api, flow_run: str, stage: str) -> str:
    """The id of the task run of ``stage`` in ``flow_run``, which is created if it does not exist."""
    run = {"flow_run_id": flow_run, "name": stage, "task_key": stage, "dynamic_key": "0", "state": {"type": "RUNNING"}}
    return str(api.request("POST", "/task_runs/", run)["id"])


def _start_closer(dvc: Process, folder: Path) -> None:
    """Start the closer, unless it was started."""
    with suppress(FileExistsError):
        (folder / CLOSER).touch(exist_ok=False)
        subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_app.shell_run", str(dvc.pid), dvc.birth],
            env={
                name: value for name, value in os.environ.items() if name != "DVC_STAGE"
            },  # else it would end with the stage
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def close(dvc: Process) -> None:
    """Wait for the end of ``dvc``, then set the final states of its flow run and of unfinished task runs."""
    while Process.of(dvc.pid) == dvc:
        time.sleep(POLL_S)
    folder = _folder(dvc)
    api = Api(os.environ[API_URL])
    deadline = time.monotonic() + CLOSING_S
    while any(folder.glob("*.json")) and time.monotonic() < deadline:
        try:
            _set_final_states(api, _flow_run(api, dvc), folder)
            break
        except PrefectApiError:
            break
        except OSError:
            time.sleep(POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


def _set_final_states(api: Api, flow_run: str, folder: Path) -> None:
    states = {}
    for path in folder.glob("*.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        states[report["stage"]] = report["state"]
        task_run = _task_run(api, flow_run, report["stage"])
        if report["lines"]:
            send_lines(api, (flow_run, task_run), [LogLine(*line) for line in report["lines"]])
            write_json(path, {**report, "lines": []})
    ends: dict[str, list[str]] = {}
    ran: list[str] = []
    query = {"flow_runs": {"id": {"any_": [flow_run]}}, "sort": "EXPECTED_START_TIME_ASC"}
    for task_run in api.request("POST", "/task_runs/filter", query):
        state = task_run["state"]
        if state["type"] not in WORST_FIRST:
            state = states.get(task_run["name"], KILLED)
            set_state(api, "task_runs", task_run["id"], state)
        ran.append(task_run["name"])
        ends.setdefault(state["type"], []).append(f"stage {task_run['name']}: {state['message']}")
    worst = next((kind for kind in WORST_FIRST if kind in ends), "COMPLETED")
    message = f"ran {', '.join(ran)}" if worst == "COMPLETED" else "\n".join(ends[worst])
    set_state(api, "flow_runs", flow_run, {"type": worst, "message": message})


if __name__ == "__main__":
    close(Process(int(sys.argv[1]), sys.argv[2]))
