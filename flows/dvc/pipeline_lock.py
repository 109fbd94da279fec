"""Who may run stages in this folder: one run of the flow, or the `dvc repro` of a shell, never both.

Their outputs would be right all the same, because DVC locks files; but each would fail at what the other has locked.
So a flow waits, for another flow and for a `dvc repro` alike, from before its first stage to its end, and a stage of a
`dvc repro` that meets a flow ends at once: it holds locks of DVC's that the flow needs, so it must not wait.

Imported by every stage, so it imports little. Knows nothing of DVC, nor of Prefect.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from atlas_model.core.errors import RetryError
from atlas_model.core.processes import Process
from flows.paths import WORK

LOCK = WORK / "flow.lock"  # locked by who is at work; holds whose turn it is: that process may be between two stages
POLL_S = 0.2


@contextmanager
def turn_of_flow(tell: Callable[[str], None]) -> Iterator[None]:
    """Have the folder to oneself, as soon as nobody else is at work there; ``tell`` gets a line for whom one waits."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    told: set[Process | None] = set()
    with LOCK.open("a+") as handle:
        while (holder := _holder(handle)) or not _taken(handle, fcntl.LOCK_EX):
            if holder not in told:
                told.add(holder)
                tell(f"{_named(holder)} is at work in this folder: waiting for its end")
            time.sleep(POLL_S)
        _write(handle, Process.current())
        try:
            yield
        finally:
            handle.truncate(0)


@contextmanager
def turn_of_stage(dvc: Process | None) -> Iterator[None]:
    """Keep flows waiting while a stage runs, and until the ``dvc repro`` that runs it has ended.

    Raises:
        RetryError: a flow is at work.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a+") as handle:
        if not _taken(handle, fcntl.LOCK_SH):
            raise RetryError(
                f"{_named(_holder(handle))} is at work in this folder, and runs this stage itself where it has to. "
                "Run again when it has ended: what is done is not repeated"
            )
        _write(handle, dvc)
        yield


def _taken(handle: IO[str], how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(handle: IO[str], process: Process | None) -> None:
    handle.truncate(0)
    if process is not None:
        handle.write(f"{process.pid} {process.birth}")
    handle.flush()


def _holder(handle: IO[str]) -> Process | None:
    """Whose turn it is, if that process is alive."""
    handle.seek(0)
    pid, _, birth = handle.read().partition(" ")
    if not pid.isdecimal():
        return None
    process = Process.of(int(pid))
    return process if process is not None and process.birth == birth else None


def _named(process: Process | None) -> str:
    if process is None or not process.command:
        return "another run of the pipeline"
    return f"another run of the pipeline (pid {process.pid}: {process.command[:80]})"
