"""Runs git. No hooks run. Knows nothing of what it is asked for."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from atlas_model.core.errors import InputError
from flows.text import printable


def run_git(
    *arguments: str, at: Path = Path(), given: str | None = None, env: dict[str, str] | None = None, need: str = ""
) -> str:
    """What git prints, without the last line's end.

    Args:
        arguments: of git.
        at: the folder that it runs in.
        given: what it reads.
        env: variables on top of the environment.
        need: what it is asked for, for the error.

    Raises:
        InputError: it failed, or is not installed; with ``need`` and what it said.
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
        raise InputError(f"{what}: {printable(done.stderr.strip()) or 'it did not say why'}")
    return done.stdout.rstrip("\n")


def try_git(*arguments: str) -> str | None:
    """What git prints; None where it fails."""
    with suppress(InputError):
        return run_git(*arguments)
    return None


def content_at(revision: str, path: Path) -> bytes | None:
    """The file ``path``, relative to the current folder, in a revision; None where that has none, or without git."""
    try:
        done = subprocess.run(["git", "show", f"{revision}:./{path.as_posix()}"], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
