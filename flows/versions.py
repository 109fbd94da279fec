"""Accepted runs as commits and tags of git, on a branch of their own."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from atlas_model.params import Params


@dataclass(frozen=True)
class Version:
    """An accepted run in git."""

    commit: str
    branch: str
    tag: str


def commit_run(params: Params, message: str) -> Version | None:
    """Push the data of this run, then commit and tag it; None where nothing has changed since the last.

    Call it only where the champion is the run's own model: a run whose challenger was refused is not accepted.
    """
    raise NotImplementedError


def accepted(path: Path, params: Params) -> bytes | None:
    """The file ``path`` as of the last accepted run: on ``pipeline.branch``, else in HEAD; None where neither has it.

    Args:
        path: relative to the current folder.
        params: name the branch.
    """
    for revision in (f"refs/heads/{params.pipeline.branch}", "HEAD"):
        command = ["git", "show", f"{revision}:./{path.as_posix()}"]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            return done.stdout
    return None
