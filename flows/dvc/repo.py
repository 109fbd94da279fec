"""Calls DVC: lists stages, checks which are up to date, runs one, reads and writes the cache.

DVC's Python API is not stable, so only this package imports it. All functions work on the DVC project of the current
folder.

As a program (``python -m flows.dvc.repo repro ...``) this is the `dvc` command in a process that ends with its parent.
"""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_model.core.errors import AtlasError, InputError, RetryError, without_credentials
from atlas_model.core.processes import die_with_parent
from atlas_model.core.yaml_files import parse_text
from flows.git import content_at, try_git
from flows.paths import LOCK_FILE
from flows.text import printable_lines

if TYPE_CHECKING:
    from dvc.ignore import DvcIgnoreFilter
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.hash_info import HashInfo

LAST_LINES = 500  # of the output of a command, in which the reason of a failure is searched
BAD_INPUT = 2  # `InputError.exit_code`, as DVC reports it for a stage
SAID = r"^(?:error: |(?=[\w.]+Error: ))(.+?)(?=^error: |^ERROR: |^[\w.]+Error: |\Z)"  # its message, or its exception
SETTINGS = (".dvc/config", ".dvcignore")  # of DVC, in git


class DvcBusyError(RetryError):
    """Another dvc command is running in this project."""


def stages() -> dict[str, list[str]]:
    """The stages of dvc.yaml, each with those that it depends on, in the order in which `dvc repro` runs them.

    Raises:
        InputError: this folder is not a DVC project, or its dvc.yaml is not valid.
    """
    from dvc.repo import Repo
    from networkx import dfs_postorder_nodes

    with dvc_errors(), Repo() as repo:
        graph = repo.index.graph
        return {
            stage.addressing: sorted(needed.addressing for needed in graph.successors(stage) if needed.cmd)
            for stage in dfs_postorder_nodes(graph)
            if stage.cmd
        }


def stage_names() -> list[str]:
    """The stages of dvc.yaml, each after those that it depends on; raises as `stages` does."""
    return list(stages())


def is_up_to_date(stage: str) -> bool:
    """Whether the command, parameters, dependencies and outputs of ``stage`` are those of dvc.lock.

    Raises:
        DvcBusyError: another dvc command is running in this project.
        InputError: this folder is not a DVC project, or its dvc.yaml is not valid.
    """
    from dvc.repo import Repo

    with dvc_errors(), Repo() as repo:  # a new one each time: a Repo caches dvc.lock
        return not repo.status(targets=[stage])


def run_stage(stage: str, on_line: Callable[[str], None], *, force: bool = False) -> None:
    """Run ``stage`` alone, or restore its outputs from DVC's run cache, as `dvc repro --single-item` does.

    Args:
        stage: its name in dvc.yaml.
        on_line: called with each line that DVC and the stage write, immediately.
        force: run it although it is up to date.

    Raises:
        InputError: the stage refused its input (exit code 2); the text is its error message.
        DvcBusyError: another dvc command is using its files.
        AtlasError: it failed in another way.
    """
    exit_code, output = _run_dvc(on_line, "repro", "--single-item", *["--force"] * force, stage)
    if exit_code:
        raise failure(stage, output)


def out_of_date() -> list[str]:
    """What `dvc status` reports: stages that are not up to date, and ``.dvc`` files whose data differ."""
    from dvc.repo import Repo

    with dvc_errors(), Repo() as repo:
        return sorted(repo.status())


def inputs() -> dict[Path, list[Path]]:
    """The dependencies that no stage produces, and the files that define the stages: all of them belong in git.

    Returns:
        File or folder -> its files without those in .dvcignore; relative to the current folder.
    """
    from dvc.repo import Repo

    with dvc_errors(), Repo() as repo:
        stages = list(repo.index.stages)
        made = {Path(out.fs_path) for stage in stages for out in stage.outs}
        needed = {Path(dep.fs_path) for stage in stages for dep in stage.deps if dep.is_in_repo}
        paths = {path for path in needed if made.isdisjoint([path, *path.parents])}
        paths |= {Path(stage.path) for stage in stages} | {Path(repo.root_dir) / name for name in SETTINGS}
        files = {path: [path] if path.is_file() else repo.dvcignore.find(repo.fs, str(path)) for path in paths}
        return {_here(path): [_here(file) for file in files[path]] for path in sorted(paths)}


def cache_folder() -> Path:
    """The absolute path of DVC's cache."""
    from dvc.repo import Repo

    with dvc_errors(), Repo() as repo:
        return Path(repo.cache.local_cache_dir)


def default_remote() -> str | None:
    """The name of the default remote of `dvc push`; None if there is none."""
    from dvc.repo import Repo

    with dvc_errors(), Repo() as repo:
        name: str | None = repo.config["core"].get("remote")
        return name


def push(on_line: Callable[[str], None]) -> None:
    """Push the data of dvc.lock and of the ``.dvc`` files to the default remote, and check that it is complete.

    Args:
        on_line: called with each line that DVC writes.

    Raises:
        AtlasError: the push failed, or data are missing in the cache.
    """
    from dvc.repo import Repo

    exit_code, output = _run_dvc(on_line, "push")
    if exit_code:
        said = re.findall(r"^ERROR: (.*)", output, re.MULTILINE) or ["it gave no reason"]
        raise AtlasError(
            f"dvc push failed: {said[-1]}\nCheck that the remote exists (`dvc remote list`) and that its credentials "
            "are in the environment, then run again: nothing is pushed twice."
        )
    with dvc_errors(), Repo() as repo:
        states = [repo.cloud.status(needed, odb=remote) for remote, needed in repo.used_objs(push=True).items()]
    lacking = sum(len(state.new) + len(state.missing) for state in states)
    if lacking:  # for DVC this is only a warning
        raise AtlasError(
            f"dvc push: expected all data in the remote, but {lacking} objects are neither there nor in the cache. "
            "Run `dvc repro`, which creates them, then run again."
        )


def content_hash(folder: Path) -> str | None:
    """DVC's hash of the content of ``folder``; None if it does not exist."""
    from dvc.repo import Repo

    if not folder.is_dir():
        return None
    with dvc_errors(), Repo() as repo, repo.lock:
        return _hashed(repo, folder, dry_run=True, ignore=repo.dvcignore)[1]


def add_to_cache(folder: Path) -> str:
    """Copy the content of ``folder`` to DVC's cache; returns its hash, for `restore`."""
    from dvc.repo import Repo
    from dvc_data.hashfile.transfer import transfer

    with dvc_errors(), Repo() as repo, repo.lock:
        staged, content = _hashed(repo, folder, dry_run=False, ignore=repo.dvcignore)
        transfer(staged, repo.cache.local, {_hash_info(content)}, shallow=False)
        return content


def has(content: str) -> bool:
    """Whether DVC's cache has all of the content with this hash."""
    from dvc.repo import Repo
    from dvc_data.hashfile import check, load
    from dvc_objects.errors import ObjectFormatError

    with dvc_errors(), Repo() as repo:
        try:
            check(repo.cache.local, load(repo.cache.local, _hash_info(content)))
        except (OSError, ObjectFormatError):
            return False
        return True


def restore(content: str, folder: Path) -> None:
    """Write content to ``folder``: from DVC's cache, else from its remote.

    Args:
        content: its hash, from `add_to_cache`.
        folder: a new or empty folder.

    Raises:
        InputError: neither has all of it.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile import load
    from dvc_data.hashfile.checkout import CheckoutError, checkout
    from dvc_data.hashfile.transfer import transfer
    from dvc_objects.errors import ObjectFormatError

    def from_cache(repo: "Repo") -> None:
        found = load(repo.cache.local, _hash_info(content))
        checkout(str(folder.absolute()), repo.fs, found, repo.cache.local, force=True, state=repo.state)
        if (
            _hashed(repo, folder, dry_run=True, ignore=None)[1] != content
        ):  # ignore=None: .dvcignore may list the folder itself
            raise ObjectFormatError("the cache is damaged")

    try:
        with dvc_errors(), Repo() as repo, repo.lock:
            try:
                from_cache(repo)
            except (OSError, CheckoutError, ObjectFormatError):
                # Not `repo.cloud.pull`: it takes a folder for complete if its list of files is in the cache.
                transfer(repo.cloud.get_remote_odb(), repo.cache.local, {_hash_info(content)}, shallow=False)
                from_cache(repo)
    except (InputError, OSError, CheckoutError, ObjectFormatError) as error:
        raise InputError(
            f"{folder}: expected its content, {content}, in DVC's cache or remote, got: {error}. "
            "Download it from a remote that has it (`dvc fetch --all-commits`)"
        ) from error


def _here(path: Path | str) -> Path:
    return Path(os.path.relpath(path))


def _hash_info(content: str) -> "HashInfo":
    from dvc_data.hashfile.hash_info import HashInfo

    return HashInfo("md5", content)


def _hashed(repo: "Repo", folder: Path, *, dry_run: bool, ignore: "DvcIgnoreFilter | None") -> tuple["HashFileDB", str]:
    """The staging area of the content of ``folder`` (empty with ``dry_run``), and its hash."""
    from dvc_data.hashfile.build import build

    path = str(folder.absolute())
    staged, _, found = build(repo.cache.local, path, repo.fs, "md5", ignore=ignore, dry_run=dry_run)
    content = found.hash_info.value
    assert content is not None  # `build` has just computed it
    return staged, content


def locked_snapshot() -> str | None:
    """The snapshot of the current data, from dvc.lock; None if it has none."""
    return _snapshot_in(LOCK_FILE.read_text(encoding="utf-8")) if LOCK_FILE.is_file() else None


def committed_snapshot() -> str | None:
    """The snapshot in git's last commit."""
    return _snapshot_at("HEAD")


def snapshots_in_history() -> dict[str, str]:
    """The snapshots in git's history: snapshot -> the last commit whose dvc.lock has it."""
    found: dict[str, str] = {}
    for commit in (try_git("log", "--format=%H", "--", str(LOCK_FILE)) or "").split():
        snapshot = _snapshot_at(commit)
        if snapshot is not None:
            found.setdefault(snapshot, commit)
    return found


def _snapshot_at(revision: str) -> str | None:
    return _snapshot_in((content_at(revision, LOCK_FILE) or b"").decode(errors="replace"))


def _snapshot_in(lock: str) -> str | None:
    stage = re.search(r"^  crawl:\n(?:   .*\n)+", lock, re.MULTILINE)
    if stage is None:  # only one stage is parsed as YAML, because parsing the whole file is slow
        return None
    snapshot = parse_text(stage[0])["crawl"].get("params", {}).get("params.yaml", {}).get("crawl", {})
    return str(snapshot["snapshot"]) if "snapshot" in snapshot else None


def read_output(path: Path, commit: str) -> bytes:
    """The output ``path`` of a stage as it was in ``commit``: from DVC's cache, else from its remote.

    Raises:
        InputError: neither has it.
    """
    from dvc.api import read

    try:
        with dvc_errors():
            return bytes(read(path.as_posix(), rev=commit, mode="rb"))
    except (InputError, OSError) as error:
        raise InputError(
            f"{path} as of commit {commit[:8]}: expected it in DVC's cache or remote, got: {error}. "
            "Download it with `dvc fetch --all-commits` from a remote that has it"
        ) from error


def _run_dvc(on_line: Callable[[str], None], *arguments: str) -> tuple[int, str]:
    """The exit code of a `dvc` command, and the last lines that it wrote."""
    lines: deque[str] = deque(maxlen=LAST_LINES)
    with _started_dvc(*arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if said := without_credentials(line).rstrip():
                lines.append(said)
                on_line(said)
    return process.returncode, "\n".join(lines)


@contextmanager
def _started_dvc(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.dvc.repo", *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    with process:
        try:
            yield process
        except BaseException:
            process.terminate()  # its stage ends too
            raise


def environment() -> dict[str, str]:
    """The environment of a process in which DVC runs stages."""
    # Stages call `python`: it must be this interpreter, also if no venv is active and the project has none. DVC runs
    # them in the user's shell, which may not support their commands.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "SHELL": "/bin/sh", "PYTHONUNBUFFERED": "1"}


def failure(stage: str, output: str) -> AtlasError:
    """The error of a failed `dvc repro` of ``stage``, from its output."""
    output = printable_lines(output)
    # Only the last message: a stage may have written anything before it.
    *_, said_by_dvc = ["DVC gave no reason", *re.split(r"^ERROR: ", output, flags=re.MULTILINE)[1:]]
    if re.match("Unable to acquire lock|.* is busy, it is being blocked by:", said_by_dvc):
        return _busy(said_by_dvc)
    said_by_stage = re.findall(SAID, output, re.DOTALL | re.MULTILINE)
    reason = said_by_stage[-1].strip() if said_by_stage else said_by_dvc.partition("\n")[0]
    ended = re.search(r"exited with (-?\d+)$", said_by_dvc, re.MULTILINE)
    exit_code = int(ended[1]) if ended else None
    again = f"run again (`dvc repro {stage}` runs up to this stage); completed stages are not repeated."
    if exit_code in (-signal.SIGKILL, -signal.SIGABRT):  # the latter: a library that gets no memory
        reason += " (it was killed: out of memory?)"
    if exit_code == BAD_INPUT:
        return InputError(f"stage {stage} refused its input: {reason}\nCorrect that, then {again}")
    return AtlasError(f"stage {stage} failed: {reason}\nSee its output above. To continue, {again}")


def _busy(said_by_dvc: str) -> DvcBusyError:
    holders = re.findall(r"^  \(PID (\d+)\): (.*)", said_by_dvc, re.MULTILINE)
    who = "".join(f", pid {pid}: {command}" for pid, command in sorted(set(holders)))
    return DvcBusyError(f"another dvc command is running in this project{who}. Run again when it has ended")


@contextmanager
def dvc_errors() -> Iterator[None]:
    """Turn the errors of DVC into those of Atlas."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    try:
        yield
    except LockError as error:
        raise _busy(str(error)) from error
    except DvcException as error:
        why = f": {error.__cause__}" if error.__cause__ else ""
        raise InputError(f"DVC: {error}{why}") from error


def _main() -> int:
    from dvc.cli import main

    die_with_parent()
    return int(main(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(_main())
