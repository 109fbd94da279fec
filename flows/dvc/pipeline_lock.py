"""Lock of the pipeline in this folder: either one run of the flow executes stages, or `dvc repro` in a shell.

Without it the outputs would still be correct, because DVC locks files, but each of the two would fail at files that the
other has locked. A flow holds the lock from before its first stage to its end, and waits for it. A stage of `dvc repro`
fails at once if a flow holds the lock: it holds locks of DVC that the flow needs, so it must not wait. `atlas gc` holds
it as a flow does, but fails at once if it is not free.

Every stage imports this module, so it imports neither DVC nor Prefect.
"""

import fcntl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from atlas_model.core.errors import RetryError
from atlas_model.core.files import make_folder
from atlas_model.core.processes import Process
from flows.paths import WORK

LOCK = WORK / "flow.lock"  # contains the process that holds it, which may be between two stages
POLL_S = 0.2


@contextmanager
def flow_lock(tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock for a flow, as soon as it is free; ``tell`` gets a line that names the process waited for."""
    make_folder(LOCK.parent)
    reported: set[Process | None] = set()
    with LOCK.open("a+") as handle:
        while (holder := _holder(handle)) or not _try_lock(handle, fcntl.LOCK_EX):
            # A stage that begins writes the name anew: for a moment there is none.
            if holder not in reported and (holder or not reported):
                reported.add(holder)
                tell(f"{_named(holder)} is running in this folder: waiting for its end")
            time.sleep(POLL_S)
        _write(handle, Process.current())
        try:
            yield
        finally:
            handle.truncate(0)


@contextmanager
def idle_pipeline(workspaces: Iterable[Path] = ()) -> Iterator[None]:
    """Hold the lock for work that no stage may run beside, here and in the copies of the project below ``workspaces``.

    Raises:
        RetryError: a flow or a stage is running.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for path in [LOCK, *(found for folder in workspaces for found in sorted(folder.rglob(str(LOCK))))]:
            handle = stack.enter_context(path.open("a+"))
            if (holder := _holder(handle)) or not _try_lock(handle, fcntl.LOCK_EX):
                where = "this folder" if path == LOCK else str(path.parent.parent)
                raise RetryError(f"{_named(holder)} is running in {where}. Run again when it has ended, or stop it")
        with LOCK.open("a+") as handle:
            _write(handle, Process.current())
            try:
                yield
            finally:
                handle.truncate(0)


@contextmanager
def stage_lock(dvc: Process | None) -> Iterator[None]:
    """Hold the lock for a stage while it runs, and for the ``dvc repro`` that runs it until that ends.

    Raises:
        RetryError: a flow is running.
    """
    make_folder(LOCK.parent)
    with LOCK.open("a+") as handle:
        if not _try_lock(handle, fcntl.LOCK_SH):
            raise RetryError(
                f"{_named(_holder(handle))} is running in this folder, and runs this stage itself if needed. "
                "Run again when it has ended: completed stages are not repeated"
            )
        _write(handle, dvc)
        yield


def is_pipeline_running() -> bool:
    """Whether a flow, or `dvc repro` with stages, is running in this folder: only a look, which changes nothing."""
    try:
        with LOCK.open() as handle:
            # Shared, so that a stage that starts at this moment gets the lock. A stage holds it shared, too, but its
            # `dvc repro` is in the file.
            return _holder(handle) is not None or not _try_lock(handle, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _try_lock(handle: IO[str], how: int) -> bool:
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
    """The process that holds the lock, if it is alive."""
    handle.seek(0)
    pid, _, birth = handle.read().partition(" ")
    if not pid.isdecimal():
        return None
    process = Process.of(int(pid))
    return process if process is not None and process.birth == birth else None


def _named(process: Process | None) -> str:
    if process is None or not process.command:
        return "another run of the pipeline"
    return f"another run of the pipeline ({process.description})"
