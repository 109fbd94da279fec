"""Runs git, without hooks."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from atlas_model.core.errors import InputError
from flows.text import printable


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
    try:
        done = subprocess.run(
            ["git", "-C", str(at), "-c", "core.hooksPath=/dev/null", *arguments],
            input=given,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={**os.environ, **(env or {})},
            check=False,
        )
    except FileNotFoundError:
        raise InputError(f"{need or 'this needs git'}: expected the program git in PATH, found none") from None
    if done.returncode:
        what = need or f"git {arguments[0]} failed"
        raise InputError(f"{what}: {printable(done.stderr.strip()) or 'it gave no reason'}")
    return done.stdout.rstrip("\n")


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
