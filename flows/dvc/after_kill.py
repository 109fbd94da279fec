"""Mends what a killed DVC process left: its list of files in use, and dvc.lock.

DVC writes both in place, so a kill may leave them empty or cut off, and DVC then refuses to work until somebody removes
them. Whoever starts DVC calls `mend` before: the flow, `atlas check` (the first step of `make run`), and the commands
that run DVC.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from atlas_model.core.files import write_text
from atlas_model.core.progress import say
from flows.dvc.stale_locks import DVC_TMP, remove_stale_locks
from flows.git import content_at
from flows.paths import LOCK_FILE

HEAD = "schema: '2.0'\nstages:\n"
STAGE = "  "  # begins the line with the name of a stage; lines of the stage have more spaces


def mend() -> None:
    """Remove stale locks of DVC in this project, and restore a dvc.lock that was cut off."""
    if not DVC_TMP.is_dir():
        return  # DVC has never run here
    remove_stale_locks()
    _mend_lock_file()


def _mend_lock_file() -> None:
    """Restore a dvc.lock that was cut off: the stages that it still has, and the others from git's last commit."""
    if not LOCK_FILE.is_file():
        return
    with _lock_of_dvc() as is_held:
        if not is_held:
            return
        stages = _restored(LOCK_FILE.read_text(encoding="utf-8", errors="replace"))
        if stages is None:
            return
        if stages:
            write_text(LOCK_FILE, HEAD + "".join(stages.values()))
        else:
            LOCK_FILE.unlink()
    say(f"warning: {LOCK_FILE} was cut off, because DVC was killed while it wrote it: restored ({len(stages)} stages)")


def _restored(text: str) -> dict[str, str] | None:
    """The stages of the restored dvc.lock: name -> its lines; None if ``text`` is to stay as it is.

    An entry that is not current does no harm: DVC compares it with the files. It also finds the outputs of stages
    without an entry, if it had stored them: it restores them and does not run the stage. So a file that was cut off at
    the end of a line stays as it is, if DVC can read it. What is wrong in another way, as a conflict of a merge, is not
    changed: DVC says what it is.
    """
    if text.startswith("schema:") and _is_readable(text):
        return None
    kept = _stages(text)
    if kept is None:
        return None
    committed = (content_at("HEAD", LOCK_FILE) or b"").decode(errors="replace")
    return (_stages(committed) or {}) | kept


@contextmanager
def _lock_of_dvc() -> Iterator[bool]:
    """Hold the lock of the project; False if a DVC process holds it, which may be writing dvc.lock."""
    with (DVC_TMP / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _is_readable(text: str) -> bool:
    """Whether DVC accepts the text as a dvc.lock, and its last line is not cut off."""
    try:
        return text.endswith("\n") and all(_is_entry(stage) for stage in yaml.safe_load(text)["stages"].values())
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        return False


def _is_entry(stage: dict[str, Any]) -> bool:
    """Whether the entry has its command, and a value for each key; a parameter may be null."""
    files = [*stage.get("deps", []), *stage.get("outs", [])]
    values = [stage["cmd"], *stage.get("params", {}).values(), *(value for file in files for value in file.values())]
    return None not in values


def _stages(text: str) -> dict[str, str] | None:
    """The stages in the text of a dvc.lock: name -> its lines; without the last one, if the text is cut off.

    Returns:
        None if more than its end is wrong.
    """
    found: dict[str, str] = {}
    name = ""
    for line in text[len(HEAD) :].splitlines(keepends=True):
        if not line.startswith(STAGE) and not STAGE.startswith(line):  # the latter: cut off within its indentation
            return None
        if not line.startswith(STAGE + " ") and line.rstrip().endswith(":"):
            name = line.strip()[:-1]
            found[name] = ""
        found[name] = found.get(name, "") + line
    if found and not _is_readable(text):
        found.popitem()
    is_cut_off = HEAD.startswith(text[: len(HEAD)]) and all(_is_readable(HEAD + lines) for lines in found.values())
    return found if is_cut_off else None
