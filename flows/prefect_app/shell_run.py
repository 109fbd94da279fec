"""A `dvc repro` of a shell in Prefect's UI: one flow run, a task run for each stage that ran, posted by the stages.

The stages are children of one DVC process, which names their flow run. When that process has ended, the last word is
had by one that the first stage leaves behind, the closer, because a stage may be killed, and none knows whether it is
the last. It also sends what the stages did not wait to send. ``python -m flows.prefect_app.shell_run PID BIRTH`` is the
closer; it ends soon after DVC, whatever happens.

Used where ``PREFECT_API_URL`` is set and no flow runs the stage. Knows nothing of what the stages do.
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
from pathlib import Path
from uuid import uuid4

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import write_json
from atlas_model.core.processes import Process
from atlas_model.core.progress import WATCHER
from flows.paths import WORK
from flows.prefect_app import reporter
from flows.prefect_app.log_relay import Lines, relay_to
from flows.prefect_app.reporter import (
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

FLOW = "atlas"  # the flow's name, also where its stages are run without it
FOLDER = WORK / "shell-runs"  # <pid>-<birth> of a DVC process: what its stages leave for each other and the closer
# Files in there: the server does not answer, or not in time; somebody will have the last word.
SILENT, SLOW, CLOSER = "silent", "slow", "closer"
KILLED = {"type": "CRASHED", "message": "its process was killed"}
POLL_S = 0.5
CLOSING_S = 30.0  # for which the closer tries to reach the server
WORST_FIRST = ("FAILED", "CRASHED", "CANCELLED", "COMPLETED")  # states that a task run ends in


@contextmanager
def shown(stage: str, dvc: Process) -> Iterator[None]:
    """Show what the block says, how far it gets and how it ends as the task run of ``stage``."""
    folder = _folder(dvc)
    if (folder / SILENT).exists():
        yield
        return
    told = folder / f"{uuid4()}.json"  # for the closer
    write_json(told, {"stage": stage, "state": KILLED, "lines": []})
    _leave_closer(dvc, folder)
    poster = Poster(Api(os.environ[API_URL]), lambda api: _open(api, stage, dvc))
    reporter.adopt(poster)
    os.environ[WATCHER] = "flows.prefect_app.reporter:post"
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
        if poster.in_vain:
            (folder / SILENT).touch()
            told.unlink()
        else:
            write_json(told, {"stage": stage, "state": state, "lines": left})


def _folder(dvc: Process) -> Path:
    return FOLDER / f"{dvc.pid}-{dvc.birth}"


def _relay_all(relay: Callable[[str], None], text: str) -> None:
    for line in text.splitlines():
        relay(line)


def _open(api: Api, stage: str, dvc: Process) -> tuple[str, str]:
    flow_run = _flow_run(api, dvc)
    task_run = _task_run(api, flow_run, stage)
    os.environ.update({FLOW_RUN: flow_run, TASK_RUN: task_run})  # for processes that the stage starts from now on
    return flow_run, task_run


def _flow_run(api: Api, dvc: Process) -> str:
    """The id of the one flow run that is ``dvc``'s."""
    run = {
        "flow_id": api.ask("POST", "/flows/", {"name": FLOW})["id"],
        "name": f"dvc repro in a shell, pid {dvc.pid}",
        "idempotency_key": f"{socket.gethostname()}-{dvc.pid}-{dvc.birth}",
        "tags": ["shell"],
        "state": {"type": "RUNNING"},
    }
    return str(api.ask("POST", "/flow_runs/", run)["id"])


def _task_run(api: Api, flow_run: str, stage: str) -> str:
    """The id of the one task run in ``flow_run`` that is the stage's."""
    run = {"flow_run_id": flow_run, "name": stage, "task_key": stage, "dynamic_key": "0", "state": {"type": "RUNNING"}}
    return str(api.ask("POST", "/task_runs/", run)["id"])


def _leave_closer(dvc: Process, folder: Path) -> None:
    """Start the closer, unless there is one."""
    with suppress(FileExistsError):
        (folder / CLOSER).touch(exist_ok=False)
        subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_app.shell_run", str(dvc.pid), dvc.birth],
            env={name: value for name, value in os.environ.items() if name != "DVC_STAGE"},  # it outlives the stage
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def close(dvc: Process) -> None:
    """Once ``dvc`` has ended, say how its flow run did, and those of its stages that could not say so themselves."""
    while Process.of(dvc.pid) == dvc:
        time.sleep(POLL_S)
    folder = _folder(dvc)
    api = Api(os.environ[API_URL])
    deadline = time.monotonic() + CLOSING_S
    while any(folder.glob("*.json")) and time.monotonic() < deadline:
        try:
            _say_last_word(api, _flow_run(api, dvc), folder)
            break
        except PrefectApiError:
            break
        except OSError:
            time.sleep(POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


def _say_last_word(api: Api, flow_run: str, folder: Path) -> None:
    states = {}
    for path in folder.glob("*.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        states[told["stage"]] = told["state"]
        task_run = _task_run(api, flow_run, told["stage"])
        if told["lines"]:
            send_lines(api, (flow_run, task_run), [LogLine(*line) for line in told["lines"]])
            write_json(path, {**told, "lines": []})
    ends: dict[str, list[str]] = {}
    question = {"flow_runs": {"id": {"any_": [flow_run]}}, "sort": "EXPECTED_START_TIME_ASC"}
    for task_run in api.ask("POST", "/task_runs/filter", question):
        state = task_run["state"]
        if state["type"] not in WORST_FIRST:
            state = states.get(task_run["name"], KILLED)
            set_state(api, "task_runs", task_run["id"], state)
        ends.setdefault(state["type"], []).append(f"stage {task_run['name']}: {state['message']}")
    worst = next((kind for kind in WORST_FIRST if kind in ends), "COMPLETED")
    set_state(api, "flow_runs", flow_run, {"type": worst, "message": "\n".join(ends.get(worst, []))})


if __name__ == "__main__":
    close(Process(int(sys.argv[1]), sys.argv[2]))
