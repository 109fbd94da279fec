"""Removes stale locks from DVC's list of files in use (`.dvc/tmp/rwlock`).

DVC itself removes the locks of processes whose id does not exist any more. But a zombie process (in a container without
an init process) still has its id, and after a restart another process may have it: a run would then wait for ever.
"""

import fcntl
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from atlas_model.core.files import write_text

DVC_TMP = Path(".dvc/tmp")


def remove_stale_locks() -> None:
    """Remove the locks of processes that have ended; a file that a killed process left incomplete counts as empty."""
    path = DVC_TMP / "rwlock"
    if not path.is_file():
        return
    with (DVC_TMP / "rwlock.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # as DVC does
        written_s = path.stat().st_mtime
        try:
            locks = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            locks = {}
        writers = {file: who for file, who in locks.get("write", {}).items() if _is_alive(who, written_s)}
        readers = {
            file: [who for who in several if _is_alive(who, written_s)]
            for file, several in locks.get("read", {}).items()
        }
        if {"write": writers, "read": readers} != locks:
            write_text(path, json.dumps({"write": writers, "read": readers}))


def _is_alive(who: dict[str, Any], written_s: float) -> bool:
    """Whether the process of the lock is alive and is older than the lock file."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(who["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written_s
    return False
