"""Runs a module under limits: ``python -m tests.support.limited LIMITS MODULE ARGUMENT...``.

``LIMITS`` is JSON:

- ``file_size``: bytes that no file may exceed (writing more fails with EFBIG, as a quota would).
- ``open_files``: file descriptors of the process.
- ``memory_mb``: memory beyond what the process has mapped at the start.
- ``no_override``: true: root is held to the permissions of files, as any other user is.
- ``clock_s``: seconds that the clock is set back, ``clock_calls``: after how many looks at it.

Children inherit all but the clock.
"""

import ctypes
import datetime
import itertools
import json
import os
import resource
import runpy
import sys
import time
from pathlib import Path

PR_CAPBSET_DROP = 24  # linux/prctl.h
CAPABILITIES_3 = 0x20080522  # linux/capability.h
OVERRIDES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def limit(
    file_size: int | None = None,
    open_files: int | None = None,
    memory_mb: float | None = None,
    no_override: bool = False,
    clock_s: float = 0,
    clock_calls: int = 0,
) -> None:
    """Set the limits of this process."""
    if no_override and os.geteuid() == 0:
        _drop_overrides()
    if clock_s:
        _set_clock_back(clock_s, clock_calls)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    if memory_mb is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + int(memory_mb * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _drop_overrides() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for number in OVERRIDES:
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # also for programs that are started later
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for kind in range(3):  # effective, permitted, inheritable
        sets[kind] &= ~sum(1 << number for number in OVERRIDES)
    assert libc.capset(header, sets) == 0


def _set_clock_back(clock_s: float, clock_calls: int) -> None:
    calls, real, real_ns, real_class = itertools.count(), time.time, time.time_ns, datetime.datetime

    def back() -> float:
        return clock_s if next(calls) >= clock_calls else 0.0

    class Datetime(real_class):  # type: ignore[valid-type]  # mypy takes a variable for no type
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real_class.fromtimestamp(time.time(), tz)

    time.time = lambda: real() - back()
    time.time_ns = lambda: real_ns() - int(back() * 1e9)
    datetime.datetime = Datetime


if __name__ == "__main__":
    given, module = json.loads(sys.argv[1]), sys.argv[2]
    sys.argv = ["-m", *sys.argv[3:]]  # as Python has it while it looks for the module
    limit(**given)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
