"""Who works with which files, as DVC notes it (`.dvc/tmp/rwlock`): those who have ended are crossed out.

DVC does so itself where no process has the number any more. But one that nobody has fetched still has it (a container
without an init process), and after a restart some other process may: a run would wait for that one for ever.

Knows nothing else of DVC.
"""

import fcntl
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(who["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written_s
    return False
