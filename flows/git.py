"""Runs git, without hooks."""

import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from atlas_model.core.errors import InputError
from atlas_model.core.progress import say
from flows.text import printable

LOCKED = re.compile(r"Unable to create '(.+\.lock)': File exists")  # index.lock, refs/heads/<branch>.lock, ...
ABANDONED_S = 5.0  # a lock that nobody has changed for so long was left by a killed git, if none is running
BUSY_S = 60.0  # after which a locked repository is an error


def run_git(
    *arguments: str, at: Path = Path(), given: str | None = None, env: dict[str, str] | None = None, need: str = ""
) -> str:
    """The output of git, without the last newline.

    Args:
        arguments: of git.
        at: the folder in which it runs.
        given: its standard input.
        env: additional environment variables.
        need: beginning of the error message: what git is needed for.

    Raises:
        InputError: git failed or is not installed; the text has ``need`` and git's message.
    """
    command = ["git", "-C", str(at), "-c", "core.hooksPath=/dev/null", *arguments]
    settled = {**os.environ, "LC_ALL": "C", **(env or {})}
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            done = subprocess.run(
                command,
                input=given,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                env=settled,
                check=False,
            )
        except FileNotFoundError:
            raise InputError(f"{need or 'this needs git'}: expected the program git in PATH, found none") from None
        lock = LOCKED.search(done.stderr) if done.returncode else None
        if lock is None or time.monotonic() > deadline:
            break
        _wait_for(at / lock[1])
    if done.returncode:
        what = need or f"git {arguments[0]} failed"
        raise InputError(f"{what}: {printable(done.stderr.strip()) or 'it gave no reason'}")
    return done.stdout.rstrip("\n")


def _wait_for(lock: Path) -> None:
    """Wait until ``lock`` is free or held by another process; remove it if a killed git has left it."""
    before, until = _identity(lock), time.monotonic() + ABANDONED_S
    while time.monotonic() < until:
        if _identity(lock) != before:
            return
        time.sleep(0.1)
    if not _git_is_running() and _identity(lock) == before:
        lock.unlink(missing_ok=True)
        say(f"warning: git: removed {lock}, which a git process that was killed had left")


def _identity(file: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        stat = file.stat()
        return stat.st_ino, stat.st_mtime_ns
    return None


def _git_is_running() -> bool:
    """Whether any process of git runs: it may work in any folder. Its daemons hold no locks."""
    import psutil

    found = (process.info for process in psutil.process_iter(["name", "cmdline"]) if process.info["name"] == "git")
    return any(not any("daemon" in argument for argument in process["cmdline"] or []) for process in found)


def try_git(*arguments: str) -> str | None:
    """The output of git; None if it fails."""
    with suppress(InputError):
        return run_git(*arguments)
    return None


def content_at(revision: str, path: Path) -> bytes | None:
    """The content of ``path`` (relative to the current folder) in a revision; None if it is missing, or without git."""
    try:
        done = subprocess.run(["git", "show", f"{revision}:./{path.as_posix()}"], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
