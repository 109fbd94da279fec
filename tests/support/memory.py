"""Peak memory of a process."""

import re
import resource
from pathlib import Path


def peak_mb() -> float:
    """The peak resident memory of this process.

    Read from /proc: psutil has no peak on Linux, and `resource` also counts the parent's memory at the fork.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
