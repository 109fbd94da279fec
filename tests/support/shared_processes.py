"""Processes that all workers of pytest share: the first that asks starts one, and it ends with pytest."""

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

POLL_S = 1.0


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A temporary folder that is the same for all workers."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def first_in(folder: Path) -> Iterator[bool]:
    """Whether nobody came before; all others wait until the first has left the block."""
    done = folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that nobody waits for: it ends with the process that its last argument names."""
    pytest_process = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    # In a session of its own, as Ctrl-C is for pytest.
    return subprocess.Popen(
        [*command, str(pytest_process)], stdin=subprocess.DEVNULL, start_new_session=True, **options
    )


def is_alive(process: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def end_with_pytest(process: int) -> None:
    """Have this process end after ``process``."""

    def watch() -> None:
        while is_alive(process):
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
