"""Git repositories in test folders."""

import subprocess
from pathlib import Path


def commit_all(folder: Path, git_env: dict[str, str]) -> None:
    """Make ``folder`` a git repository and commit its contents."""
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "as it stands"]):
        subprocess.run(["git", *arguments], cwd=folder, env=git_env, check=True)
