"""How processes end: children that do not outlive the one that started them, and Ctrl-C.

A killed parent (``kill -9``, out of memory) cannot stop its children: they have to ask for it themselves.
"""

import ctypes
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

INTERRUPTED = 130  # exit code that shells report after Ctrl-C
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ANCESTOR = "ATLAS_WORKS_FOR"  # environment variable: the process without which this one has nothing to do


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends; only Linux can, elsewhere no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        ancestor = os.environ.get(ANCESTOR)
        if ancestor and not Path(f"/proc/{ancestor}").exists():  # it ended before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by when it was born; without /proc by the number alone."""

    pid: int
    birth: str
    command: str = field(compare=False)

    @classmethod
    def current(cls) -> "Process":
        """This one."""
        found = cls.of(os.getpid())
        assert found is not None
        return found

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process ``pid``; None where there is none, or one that has ended and only waits to be fetched."""
        folder = Path(f"/proc/{pid}")
        if not Path("/proc/self").exists():
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return None
            except PermissionError:
                pass  # somebody else's
            return cls(pid, "", "")
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # proc(5), from the state on
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, fields[19], command)
