"""Child processes that end with their parent, the identity of processes, and Ctrl-C.

A killed parent (``kill -9``, out of memory) cannot stop its children, so each child asks the kernel to stop it.
"""

import ctypes
import os
import re
import signal
import sys
from pathlib import Path
from typing import NamedTuple

INTERRUPTED = 130  # exit code that shells report after Ctrl-C
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PROC = Path("/proc")  # Linux only
ANCESTOR = "ATLAS_WORKS_FOR"  # environment variable: pid of the process that this one works for


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends; Linux only, elsewhere a no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        ancestor = os.environ.get(ANCESTOR)
        if ancestor and not (PROC / ancestor).exists():  # it ended before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)


class Process(NamedTuple):
    """A process, identified by pid and start time, because pids are reused; without /proc by pid alone."""

    pid: int
    birth: str

    @classmethod
    def current(cls) -> "Process":
        """This one."""
        found = cls.of(os.getpid())
        assert found is not None
        return found

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process ``pid``; None where there is none, or one that has ended and only waits to be fetched."""
        if not PROC.exists():
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return None
            except PermissionError:
                pass  # somebody else's
            return cls(pid, "")
        state, birth, _ = _stat(pid)
        return None if state in "ZX" else cls(pid, birth)

    @property
    def command(self) -> str:
        """What was started; empty where that cannot be known."""
        return _read(self.pid, "cmdline").replace("\0", " ").strip()


def ancestor_without(variable: str) -> Process | None:
    """The nearest ancestor that was started without ``variable`` in its environment; without /proc the parent."""
    pid = os.getppid()
    while re.search(rf"(?:^|\0){variable}=", _read(pid, "environ")):
        pid = int(_stat(pid)[2])
    return Process.of(pid)


def _stat(pid: int) -> tuple[str, str, str]:
    """The state of a process (X: there is none), its birth in ticks since the start of the system, its parent."""
    fields = _read(pid, "stat").rpartition(")")[2].split()  # proc(5), from the state on
    return (fields[0], fields[19], fields[1]) if fields else ("X", "", "0")


def _read(pid: int, name: str) -> str:
    try:
        return (PROC / str(pid) / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
