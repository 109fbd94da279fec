"""Compares the bytes of every tracked file with its hash: the outputs of the stages, DVC's cache, data files in git.

Work in progress has checksums of its own, which `verify_work` compares.

`dvc status` and `git status` compare size and time of a file first, and take its content from an earlier run if both
are unchanged. Damage by a disk leaves both unchanged, so here every byte is read.
"""

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows.dvc.repo import dvc_errors
from flows.dvc.verify_work import verify_work
from flows.git import content_at, run_git, try_git
from flows.paths import REVIEWS

IN_GIT = ("data", "models", "metrics", "plots")  # folders whose files in git are data, not code
FOLDER = ".dir"  # suffix of the hash of a folder: that of the list of its files
OWN = "the content of its own checksums, but different"
Kind = Literal["damaged", "missing"]


@dataclass(frozen=True)
class _Output:
    """An output of a stage, or the data of a ``.dvc`` file.

    Attributes:
        path: relative to the root of the project.
        content: DVC's hash of it.
        owner: the stage or the ``.dvc`` file, as an argument of `dvc`.
        is_cached: whether DVC's cache stores it, not git.
        has_stage: whether a stage writes it.
    """

    path: Path
    content: str
    owner: str
    is_cached: bool
    has_stage: bool


@dataclass(frozen=True)
class Fault:
    """A file whose bytes are not those of its hash.

    Attributes:
        path: the file, relative to the root of the project.
        kind: ``damaged`` (or changed by hand), or ``missing``.
        expected: its hash.
        remedy: commands that bring it back.
    """

    path: Path
    kind: Kind
    expected: str
    remedy: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        files: number of files whose bytes were read.
        faults: the files that differ from their hash.
        absent: outputs of which nothing is here, as in a fresh clone.
        unchecked: caches and work in progress of an earlier version, without checksums.
        busy: files that a running process uses, which were not read.
    """

    files: int
    faults: list[Fault]
    absent: list[Path]
    unchecked: list[Path]
    busy: list[Path]


def verify() -> Verification:
    """Read every tracked file of the project in the current folder.

    Raises:
        DvcBusyError: another dvc command is running in this project.
        InputError: this folder is not a DVC project, or its dvc.yaml is not valid.
    """
    from dvc.repo import Repo

    with dvc_errors(), Repo() as repo:
        outputs = [
            _Output(
                _here(out.fs_path), out.hash_info.value, str(out.stage.addressing), out.use_cache, bool(out.stage.cmd)
            )
            for out in repo.index.outs
            if out.hash_info and out.hash_info.value
        ]
        check = _Check(Path(repo.cache.local.path), has_remote=repo.config["core"].get("remote") is not None)
    absent = []
    for output in outputs:
        if output.path.exists():
            check.output(output)
        else:
            absent.append(output.path)
        check.copies(output)
    written = {output.path for output in outputs}  # of which dvc.lock has the hash, also before they are committed
    for path, blob in _files_in_git():
        if written.isdisjoint([path, *path.parents]):
            check.git_file(path, blob)
    work = verify_work()
    own = [Fault(path, "damaged", f"{OWN}: {what}", remedy) for path, (what, remedy) in work.damaged.items()]
    known = {fault.path for fault in check.faults}  # a damaged review: git's hash says so, too
    faults = check.faults + [fault for fault in own if fault.path not in known]
    return Verification(check.files + work.files, faults, absent, work.unchecked, work.busy)


class _Check:
    """Reads files and collects the faults."""

    def __init__(self, cache: Path, *, has_remote: bool) -> None:
        self.files = 0
        self.faults: list[Fault] = []
        self._cache = cache
        self._has_remote = has_remote
        self._states: dict[str, Kind | None] = {}  # of objects of the cache, by hash

    def output(self, output: _Output) -> None:
        """Compare ``output`` in the workspace."""
        if not output.content.endswith(FOLDER):
            self._file(output, output.path, output.content)
            return
        listed = self._list(output.content)
        if listed is not None:
            for path, content in listed.items():
                self._file(output, output.path / path, content)
            return
        # The list of its files is damaged or missing as well, so that the folder can only be compared as a whole.
        found = _hash_folder(output.path)
        self.files += found.files
        if found.content != output.content:
            delete = f"rm -rf {_quoted(output.path, self._object(output.content))}"
            remedy = f"{delete} && {self._again(output)}"
            self.faults.append(Fault(output.path, "damaged", output.content, remedy))

    def copies(self, output: _Output) -> None:
        """Compare the copies of ``output`` in DVC's cache; a missing copy is no fault, and `dvc status` lists it."""
        listed = self._list(output.content) if output.content.endswith(FOLDER) else None
        for content in sorted({output.content, *(listed or {}).values()}):
            if self._state(content) == "damaged":
                delete = f"rm -f {_quoted(self._object(content))}"
                if not output.is_cached:
                    remedy = delete  # git has the output; DVC keeps this copy for its run cache alone
                elif output.path.exists():
                    remedy = f"{delete} && dvc commit --force {_quoted(output.owner)}"
                else:
                    remedy = f"{delete} && {self._again(output)}"
                self.faults.append(Fault(self._object(content), "damaged", content, remedy))

    def git_file(self, path: Path, expected: str) -> None:
        """Compare a file with its blob in git's index."""
        if not path.is_file():
            self.faults.append(Fault(path, "missing", expected, f"git checkout -- {_quoted(path)}"))
            return
        self.files += 1
        content = path.read_bytes()
        if (
            path.parent == REVIEWS and path.suffix == ".jsonl"
        ):  # grows until it is committed; `verify_work` reads the rest
            content = content[: len(content_at("", path) or b"")]
        found = hashlib.new("sha1" if len(expected) == 40 else "sha256", b"blob %d\0" % len(content))
        found.update(content)
        if found.hexdigest() != expected:
            self.faults.append(Fault(path, "damaged", expected, _from_git(path)))

    def _file(self, output: _Output, path: Path, content: str) -> None:
        kind = self._compare(path, content)
        if kind is None:
            return
        if not output.is_cached:
            remedy = _from_git(path)
        elif self._state(content) is None:
            remedy = f"rm -f {_quoted(path)} && dvc checkout {_quoted(output.path)}"
        else:
            remedy = f"rm -f {_quoted(path, self._object(content))} && {self._again(output)}"
        self.faults.append(Fault(path, kind, content, remedy))

    def _again(self, output: _Output) -> str:
        """The command that writes ``output``, which is not in the cache."""
        if self._has_remote:
            return f"dvc pull {_quoted(output.owner)}"
        return (
            f"dvc repro --force --single-item {_quoted(output.owner)}" if output.has_stage else "atlas promote --force"
        )

    def _list(self, content: str) -> dict[str, str] | None:
        """The files of a folder with the hash ``content``, and their hashes; None if the cache has no sound list."""
        if self._state(content) is not None:
            return None
        return {item["relpath"]: item["md5"] for item in json.loads(self._object(content).read_bytes())}

    def _state(self, content: str) -> Kind | None:
        """What is wrong with the object of the cache that has this hash; None if it is sound."""
        if content not in self._states:
            self._states[content] = self._compare(self._object(content), content.removesuffix(FOLDER))
        return self._states[content]

    def _object(self, content: str) -> Path:
        return _here(self._cache / content[:2] / content[2:])

    def _compare(self, path: Path, content: str) -> Kind | None:
        if not path.is_file():
            return "missing"
        self.files += 1
        return None if _md5(path) == content else "damaged"


@dataclass(frozen=True)
class _HashedFolder:
    content: str
    files: int


def _hash_folder(folder: Path) -> _HashedFolder:
    """DVC's hash of a folder: the MD5 of the sorted list of its files and their MD5, as JSON."""
    listed = [{"md5": _md5(folder / path), "relpath": path.as_posix()} for path in sorted(_files_below(folder))]
    text = json.dumps(listed, sort_keys=True)
    return _HashedFolder(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + FOLDER, len(listed))


def _files_below(folder: Path) -> Iterator[Path]:
    return (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _quoted(*paths: Path | str) -> str:
    """The paths as arguments of a shell command."""
    return shlex.join(map(str, paths))


def _from_git(path: Path) -> str:
    return f"if you did not change it: rm -f {_quoted(path)} && git checkout -- {_quoted(path)}"


def _here(path: Path | str) -> Path:
    """``path`` relative to the current folder, if it is below it."""
    path, here = Path(path), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _files_in_git() -> Sequence[tuple[Path, str]]:
    """The data files in git's index, with the hashes of their blobs; empty outside a git repository."""
    if try_git("rev-parse", "--git-dir") is None:
        return []
    lines = run_git("ls-files", "--stage", "-z", "--", *IN_GIT).split("\0")
    entries = (line.split("\t", 1) for line in lines if line)
    return [(Path(path), facts.split()[1]) for facts, path in entries if facts.startswith("100")]  # no links
