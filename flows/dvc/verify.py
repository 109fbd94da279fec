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

from flows.dvc.ended_stages import ended_unrecorded
from flows.dvc.pipeline_lock import is_pipeline_running
from flows.dvc.repo import dvc_errors
from flows.dvc.storage import DIR_SUFFIX, files_in
from flows.dvc.unread import Unread, permit, why_unread
from flows.dvc.verify_work import verify_work
from flows.git import content_at, run_git, try_git
from flows.paths import CHAMPION, LOCK_FILE, REVIEWS

IN_GIT = ("data", "models", "metrics", "plots")  # folders whose files in git are data, not code
OWN = "the content of its own checksums, but different"
PERMIT_FIRST = "first permit this user to read the other files of this output, then run atlas verify again"
Kind = Literal["damaged", "missing"] | Unread


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

    @property
    def is_of_pipeline(self) -> bool:
        """Whether a run of the pipeline may write it."""
        return self.has_stage or self.path == CHAMPION

    @property
    def is_unrecorded(self) -> bool:
        """Whether its stage has ended after the last entry in dvc.lock: DVC was killed between the two."""
        return self.has_stage and ended_unrecorded(self.owner.rpartition(":")[2])


@dataclass(frozen=True)
class _Bad:
    """A file of an output, or a copy of it in the cache, that is not as it should be.

    Attributes:
        path: the file.
        kind: what is wrong.
        content: DVC's hash of it.
        place: what has to be deleted: the file, or the whole folder if it was compared as a whole.
    """

    path: Path
    kind: Kind
    content: str
    place: Path


@dataclass(frozen=True)
class Fault:
    """A file whose bytes are not those of its hash.

    Attributes:
        path: the file, relative to the root of the project.
        kind: ``damaged`` (or changed by hand), ``missing``, ``unreadable`` (the disk reports an error), or ``denied``
            (this user may not read it).
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
        busy: files and outputs that a running process uses, which were not read.
        unrecorded: outputs that a stage has written anew, but DVC was killed before their hashes were in dvc.lock.
    """

    files: int
    faults: list[Fault]
    absent: list[Path]
    unchecked: list[Path]
    busy: list[Path]
    unrecorded: list[Path]


def verify() -> Verification:
    """Read every tracked file of the project in the current folder.

    Raises:
        DvcBusyError: another dvc command is running in this project.
        InputError: this folder is not a DVC project, or its dvc.yaml is not valid.
    """
    from dvc.repo import Repo

    lock = _time_of_lock()
    with dvc_errors(), Repo() as repo:
        outputs = [
            _Output(
                _here(out.fs_path), out.hash_info.value, str(out.stage.addressing), out.use_cache, bool(out.stage.cmd)
            )
            for out in repo.index.outs
            if out.hash_info and out.hash_info.value
        ]
        check = _Check(Path(repo.cache.local.path), has_remote=repo.config["core"].get("remote") is not None)
    is_running = is_pipeline_running()
    found: dict[_Output, list[_Bad]] = {}
    absent, busy, unrecorded = [], [], []
    for output in outputs:
        if not output.path.exists():
            absent.append(output.path)
        elif is_running and output.is_of_pipeline:
            busy.append(output.path)
        else:
            found[output] = check.workspace(output)
    # A run that started meanwhile has written outputs anew.
    is_running = is_running or is_pipeline_running() or lock != _time_of_lock()
    for output in [output for output, bad in found.items() if bad]:
        if is_running and output.is_of_pipeline:
            busy.append(output.path)
            del found[output]
        elif output.is_unrecorded:
            unrecorded.append(output.path)
            del found[output]
    written_anew = {*busy, *unrecorded}
    unsure = {output.owner for output in outputs if found.get(output) != []}  # owners of outputs that may differ
    for output in outputs:
        copies = check.copies(output)
        if output.path in written_anew:
            check.add_old_copies(copies)
        else:
            check.add(output, found.get(output, []), copies, is_sound=output.owner not in unsure)
    written = {output.path for output in outputs}  # of which dvc.lock has the hash, also before they are committed
    for path, blob in _files_in_git():
        if written.isdisjoint([path, *path.parents]):
            check.git_file(path, blob)
    work = verify_work()
    own = [Fault(path, "damaged", f"{OWN}: {what}", remedy) for path, (what, remedy) in work.damaged.items()]
    own += [Fault(path, kind, OWN.partition(",")[0], remedy) for path, (kind, remedy) in work.unread.items()]
    known = {fault.path for fault in check.faults}  # a damaged review: git's hash says so, too
    faults = check.faults + [fault for fault in own if fault.path not in known]
    return Verification(check.files + work.files, faults, absent, work.unchecked, busy + work.busy, unrecorded)


class _Check:
    """Reads files and collects the faults."""

    def __init__(self, cache: Path, *, has_remote: bool) -> None:
        self.files = 0
        self.faults: list[Fault] = []
        self._cache = cache
        self._has_remote = has_remote
        self._states: dict[str, Kind | None] = {}  # of objects of the cache, by hash

    def workspace(self, output: _Output) -> list[_Bad]:
        """Compare ``output`` in the workspace."""
        if not output.content.endswith(DIR_SUFFIX):
            return self._bad([(output.path, output.content)])
        listed = self._list(output.content)
        if listed is not None:
            return self._bad([(output.path / path, content) for path, content in listed.items()])
        # The list of its files is damaged or missing as well, so that the folder can only be compared as a whole.
        try:
            found = _hash_folder(output.path)
        except OSError as error:
            return [_Bad(Path(error.filename), _kind(error), output.content, output.path)]
        self.files += found.files
        is_sound = found.content == output.content
        return [] if is_sound else [_Bad(output.path, "damaged", output.content, output.path)]

    def copies(self, output: _Output) -> list[_Bad]:
        """Compare the copies of ``output`` in DVC's cache; a missing copy is no fault, and `dvc status` lists it."""
        listed = self._list(output.content) if output.content.endswith(DIR_SUFFIX) else None
        found = []
        for content in sorted({output.content, *(listed or {}).values()}):
            kind = self._state(content)
            if kind not in (None, "missing"):
                found.append(_Bad(self._object(content), kind, content, self._object(content)))
        return found

    def add(self, output: _Output, here: list[_Bad], copies: list[_Bad], *, is_sound: bool) -> None:
        """Add the faults of an output.

        Args:
            output: in the workspace or not.
            here: what is wrong in the workspace.
            copies: what is wrong in the cache.
            is_sound: whether it is in the workspace, and all outputs of its owner are sound there.
        """
        is_known = not any(bad.kind == "denied" for bad in [*here, *copies])
        here, copies = self._add_denied(here), self._add_denied(copies)
        for bad in here:
            if not output.is_cached:
                remedy = _from_git(bad.path)
            elif not is_known:
                remedy = PERMIT_FIRST
            elif copies or self._state(bad.content) is not None:
                # All at once: DVC stores what is in the workspace, and the other way round, also if it is damaged.
                missing = [] if copies else [self._object(bad.content)]
                remedy = self._again(output, [each.place for each in [*(here if copies else [bad]), *copies]] + missing)
            else:
                remedy = f"rm -f {_quoted(bad.path)} && dvc checkout {_quoted(output.path)}"
            self.faults.append(Fault(bad.path, bad.kind, bad.content, remedy))
        for bad in copies:
            delete = f"rm -f {_quoted(bad.path)}"
            if not output.is_cached:
                remedy = delete  # git has the output; DVC keeps this copy for its run cache alone
            elif is_sound:
                remedy = f"{delete} && dvc commit --force {_quoted(output.owner)}"
            elif not is_known:
                remedy = PERMIT_FIRST
            else:
                remedy = self._again(output, [each.place for each in [*here, *copies]])
            self.faults.append(Fault(bad.path, bad.kind, bad.content, remedy))

    def add_old_copies(self, copies: list[_Bad]) -> None:
        """Add the faults of copies of an output that has been written anew: nothing needs to be brought back."""
        for bad in self._add_denied(copies):
            self.faults.append(Fault(bad.path, bad.kind, bad.content, f"rm -f {_quoted(bad.path)}"))

    def git_file(self, path: Path, expected: str) -> None:
        """Compare a file with its blob in git's index."""
        if not path.is_file():
            self.faults.append(Fault(path, "missing", expected, f"git checkout -- {_quoted(path)}"))
            return
        self.files += 1
        try:
            content = path.read_bytes()
        except OSError as error:
            kind = _kind(error)
            remedy = permit(path) if kind == "denied" else _from_git(path)
            self.faults.append(Fault(path, kind, expected, remedy))
            return
        if (
            path.parent == REVIEWS and path.suffix == ".jsonl"
        ):  # grows until it is committed; `verify_work` reads the rest
            content = content[: len(content_at("", path) or b"")]
        found = hashlib.new("sha1" if len(expected) == 40 else "sha256", b"blob %d\0" % len(content))
        found.update(content)
        if found.hexdigest() != expected:
            self.faults.append(Fault(path, "damaged", expected, _from_git(path)))

    def _bad(self, files: list[tuple[Path, str]]) -> list[_Bad]:
        compared = ((path, self._compare(path, content), content) for path, content in files)
        return [_Bad(path, kind, content, path) for path, kind, content in compared if kind is not None]

    def _add_denied(self, found: list[_Bad]) -> list[_Bad]:
        """Add those that this user may not read, about which nothing else is known; returns the others."""
        denied = [bad for bad in found if bad.kind == "denied"]
        self.faults += [Fault(bad.path, bad.kind, bad.content, permit(bad.path)) for bad in denied]
        return [bad for bad in found if bad.kind != "denied"]

    def _again(self, output: _Output, damaged: list[Path]) -> str:
        """The command that writes ``output``, of which the cache has not all files, without the ``damaged`` ones."""
        if self._has_remote:
            again = f"dvc pull {_quoted(output.owner)}"
        elif output.has_stage:
            again = f"dvc repro --force --single-item {_quoted(output.owner)}"
        elif output.path == CHAMPION:
            again = "atlas promote --force"
        else:  # the damaged file may be the best that is left
            return f"restore {_quoted(output.path)} from where it came from: neither DVC's cache nor a remote has it"
        return f"rm -rf {_quoted(*dict.fromkeys(damaged))} && {again}"

    def _list(self, content: str) -> dict[str, str] | None:
        """The files of a folder with the hash ``content``, and their hashes; None if the cache has no sound list."""
        if self._state(content) is not None:
            return None
        return files_in(self._object(content).read_bytes(), content)

    def _state(self, content: str) -> Kind | None:
        """What is wrong with the object of the cache that has this hash; None if it is sound."""
        if content not in self._states:
            self._states[content] = self._compare(self._object(content), content.removesuffix(DIR_SUFFIX))
        return self._states[content]

    def _object(self, content: str) -> Path:
        return _here(self._cache / content[:2] / content[2:])

    def _compare(self, path: Path, content: str) -> Kind | None:
        try:
            if not path.is_file():
                return "missing"
            self.files += 1
            return None if _md5(path) == content else "damaged"
        except OSError as error:
            return _kind(error)


@dataclass(frozen=True)
class _HashedFolder:
    content: str
    files: int


def _hash_folder(folder: Path) -> _HashedFolder:
    """DVC's hash of a folder: the MD5 of the sorted list of its files and their MD5, as JSON."""
    listed = [{"md5": _md5(folder / path), "relpath": path.as_posix()} for path in sorted(_files_below(folder))]
    text = json.dumps(listed, sort_keys=True)
    return _HashedFolder(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + DIR_SUFFIX, len(listed))


def _files_below(folder: Path) -> Iterator[Path]:
    return (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        error.filename = str(path)  # an error of reading names no file
        raise


def _kind(error: OSError) -> Kind:
    """Why a file could not be read."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    kind = why_unread(error)
    if kind is None:
        raise error
    return kind


def _time_of_lock() -> int | None:
    """When DVC last wrote dvc.lock."""
    return LOCK_FILE.stat().st_mtime_ns if LOCK_FILE.exists() else None


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
