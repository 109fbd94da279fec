"""How processes end: children that do not outlive the one that started them, and Ctrl-C.

A killed parent (``kill -9``, out of memory) cannot stop its children: they have to ask for it themselves.
"""

import ctypes
import signal
import sys

INTERRUPTED = 130  # exit code that shells report after Ctrl-C
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends; only Linux can, elsewhere no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
