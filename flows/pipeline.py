"""The Prefect flow "atlas": the stages of dvc.yaml as one run, one task per stage, named after it.

DVC says which stages there are, in which order, and which have nothing to do; Prefect adds retries, logs and the
picture of the run. Without a Prefect server (no ``PREFECT_API_URL``) one lives as long as the run does.

``python -m flows.pipeline`` ends with exit code 0 (done), 1 (a stage failed) or 2 (bad input).
"""

import fcntl
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed
from prefect.tasks import Task

from atlas_model.errors import AtlasError, InputError
from atlas_model.params import load_params
from atlas_model.processes import INTERRUPTED
from atlas_model.progress import say
from flows import dvc_repo
from flows.stages.paths import WORK

NETWORK_STAGES = {"crawl", "fetch"}  # what fails there may succeed a little later
RETRY_DELAYS_S = (10.0, 60.0)
REFUSED = "Refused"  # name of the state of a task or flow that was given bad input
LOCK = WORK / "flow.lock"
LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "traceback": logging.ERROR,
    "warning": logging.WARNING,
}


def _may_succeed_later(_task: Task[[str], State], _run: TaskRun, state: State) -> bool:
    return state.name != REFUSED


@task(cache_policy=NO_CACHE, retry_condition_fn=_may_succeed_later)  # what to skip is DVC's to say
def update_stage(stage: str) -> State:
    """Run ``stage`` unless it is up to date, its lines as logs."""
    logger = get_run_logger()
    try:
        if dvc_repo.is_up_to_date(stage):
            return Completed(name="Cached", message="up to date")
        dvc_repo.run_stage(stage, relay_to(logger.log))
    except AtlasError as error:
        name = REFUSED if isinstance(error, InputError) else "Failed"
        return Failed(name=name, message=str(error))
    return Completed(message="done")


def task_of(stage: str) -> Task[[str], State]:
    """`update_stage` under the name of ``stage``, repeated after a while where the network may be at fault."""
    delays_s = list(RETRY_DELAYS_S) if stage in NETWORK_STAGES else []
    return update_stage.with_options(
        name=stage, task_run_name=stage, retries=len(delays_s), retry_delay_seconds=delays_s
    )


@flow(name="atlas", validate_parameters=False)
def atlas() -> State:
    """Bring every stage up to date; the first one that fails ends the run."""
    for stage in dvc_repo.stage_names():
        state = task_of(stage)(stage, return_state=True)
        if state.is_failed():
            return Failed(name=state.name, message=state.message)
    return Completed(message="every stage is up to date")


def relay_to(log: Callable[[int, str], None]) -> Callable[[str], None]:
    """A function that logs lines at the level that their first word names, INFO without one.

    An indented line belongs to the one above it, and has its level.
    """
    level = logging.INFO

    def relay(line: str) -> None:
        nonlocal level
        if not line[:1].isspace():
            level = LEVELS.get(line.partition(" ")[0].rstrip(":").lower(), logging.INFO)
        log(level, line)

    return relay


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other run of the flow is at work in this folder."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run of the flow is at work in this folder: waiting for it to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def start_temporary_server() -> None:
    """Start the server that Prefect would start, if it needs one, but deaf to Ctrl-C.

    Prefect stops it at the end. If Ctrl-C reached it too, the flow could not tell it that the run has ended, and
    would try for minutes.
    """
    if get_current_settings().api.url is None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child process inherits the mask
        try:
            SubprocessASGIServer().start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def main() -> int:
    """Run the flow once; the exit code."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # an exit stops the server as well
    try:
        load_params()  # faults are told at once, not by the first stage that runs
        with one_at_a_time():
            start_temporary_server()
            state = atlas(return_state=True)
    except AtlasError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    if state.is_completed():
        return 0
    say(f"error: {state.message}")
    return InputError.exit_code if state.name == REFUSED else AtlasError.exit_code


if __name__ == "__main__":
    sys.exit(main())
