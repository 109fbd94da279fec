"""Who works with which files, as DVC notes it (`.dvc/tmp/rwlock`): those who have ended are crossed out.

DVC does so itself where no process has the number any more. But one that nobody has fetched still has it (a container
without an init process), and after a restart some other process may: a run would wait for that one for ever.

Knows nothing else of DVC.
"""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from atlas_model.core.processes import Process

FOLDER = Path(".dvc/tmp")


def remove_stale_locks() -> None:
    """Cross out who has ended; a note that a killed process left half written is none."""
    path = FOLDER / "rwlock"
    if not path.is_file():
        return
    with (FOLDER / "rwlock.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # as DVC does, for the moment that it takes
        written_s = path.stat().st_mtime
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            noted = {}
        writers = {file: who for file, who in noted.get("write", {}).items() if _is_at_work(who, written_s)}
        readers = {
            file: [who for who in several if _is_at_work(who, written_s)]
            for file, several in noted.get("read", {}).items()
        }
        if {"write": writers, "read": readers} != noted:
            path.write_text(json.dumps({"write": writers, "read": readers}), encoding="utf-8")


def _is_at_work(who: dict[str, Any], written_s: float) -> bool:
    """Whether ``who`` has the number of a living process that was there when the note was written."""
    process = Process.of(who["pid"])
    if process is None or not process.birth:
        return process is not None
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(process.birth) / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s <= written_s
