"""Child processes that end with their parent, the identity of processes, and Ctrl-C.

A killed parent (``kill -9``, out of memory) cannot stop its children, so each child asks the kernel to stop it.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import psutil  # imported where it is used: most stages and commands need none of it

INTERRUPTED = 130  # exit code that shells report after Ctrl-C
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LONGEST_COMMAND = 80  # characters of a command in a message
ANCESTOR = "ATLAS_WORKS_FOR"  # environment variable: pid of the process that this one works for


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends; Linux only, elsewhere a no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # psutil has no call for it
        if _is_orphan():
            os.kill(os.getpid(), signal.SIGKILL)
        ancestor = os.environ.get(ANCESTOR)
        if ancestor:
            import psutil

            if not psutil.pid_exists(int(ancestor)):  # it ended before the kernel was asked
                os.kill(os.getpid(), signal.SIGKILL)


def _is_orphan() -> bool:
    """Whether the parent ended before the kernel was asked: then its place has a process of another session."""
    try:
        return os.getsid(0) not in (os.getpid(), os.getsid(os.getppid()))
    except ProcessLookupError:  # it is ending now
        return True


class Process(NamedTuple):
    """A process, identified by pid and start time, because pids are reused.

    The start time counts from the start of the system, so that setting the clock does not change it (on Linux).
    """

    pid: int
    birth: str  # seconds

    @classmethod
    def current(cls) -> "Process":
        """This one."""
        found = cls.of(os.getpid())
        assert found is not None
        return found

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process ``pid``; None where there is none, or one that has ended and only waits to be fetched."""
        import psutil

        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
                return cls(pid, f"{process.create_time() - psutil.boot_time():.2f}")
        return None

    @property
    def command(self) -> str:
        """What was started; empty where that cannot be known."""
        import psutil

        with suppress(psutil.Error):
            command = " ".join(psutil.Process(self.pid).cmdline()).strip()
            return command.encode(errors="replace").decode()  # bytes that are no UTF-8 cannot be printed
        return ""

    @property
    def description(self) -> str:
        """``pid 12: dvc repro, since 2026-11-30 14:05``, for a message about what it holds."""
        import psutil

        command = self.command[:LONGEST_COMMAND]
        with suppress(psutil.Error, OSError, ValueError):
            since = datetime.fromtimestamp(psutil.Process(self.pid).create_time())
            return f"pid {self.pid}{command and ': '}{command}, since {since:%Y-%m-%d %H:%M}"
        return f"pid {self.pid}{command and ': '}{command}"


def ancestor_without(variable: str) -> Process | None:
    """The nearest ancestor that was started without ``variable`` in its environment."""
    import psutil

    with suppress(psutil.NoSuchProcess):  # one on the way has just ended
        ancestor = psutil.Process().parent()
        while ancestor is not None and variable in _environment(ancestor):
            ancestor = ancestor.parent()
        return Process.of(ancestor.pid) if ancestor is not None else None
    return None


def _environment(process: "psutil.Process") -> dict[str, str]:
    """What ``process`` was started with; empty where that cannot be known: it is somebody else's."""
    import psutil

    with suppress(psutil.Error):
        return process.environ()
    return {}
