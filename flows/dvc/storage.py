"""What DVC's cache and its default remote hold, and the deletion of what is not needed.

`dvc gc` decides what is needed by the options of its command line, which have no words for the last crawls and the last
champions. So `flows.gc` decides it, and DVC's own functions list, read and delete the files.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_model.core.errors import InputError
from atlas_model.core.processes import Process
from flows.dvc.repo import DvcBusyError, dvc_errors
from flows.dvc.run_cache import Output
from flows.text import printable

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB

DIR_SUFFIX = ".dir"  # suffix of the hash of a folder: that of the list of its files
OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
SCHEMES = ("md5", "md5-dos2unix")  # the second one is that of DVC 2, and of metrics in git that the run cache stores


class Storage:
    """The cache and the remote of the DVC project in the current folder, while no other dvc command may change them."""

    def __init__(self, repo: "Repo") -> None:
        self._repo = repo
        self.folder = Path(repo.cache.local_cache_dir)
        self._remote: list[HashFileDB] | None = None

    @property
    def runs(self) -> Path:
        """The run cache."""
        return self.folder / "runs"

    @property
    def is_of_this_project(self) -> bool:
        """Whether the cache is inside of this project, so that no other project uses it."""
        return self.folder.resolve().is_relative_to(Path(self._repo.root_dir).resolve())

    def outputs(self) -> list[Output]:
        """Path and hash of each output in the workspace, as of dvc.lock and the ``.dvc`` files."""
        with dvc_errors():
            return [(out.def_path, out.hash_info.value) for out in self._repo.index.outs if out.hash_info]

    def cached(self) -> dict[str, int]:
        """Hash of each object in the cache -> bytes."""
        found: dict[str, int] = {}
        for database in self._databases():
            for prefix in filter(_is_prefix, _scanned(database.path)):
                for file in _scanned(prefix.path):
                    content = prefix.name + file.name
                    if OBJECT.fullmatch(content):
                        found[content] = found.get(content, 0) + file.stat().st_size
        return found

    def unfinished(self) -> list[Path]:
        """Files that a killed process left: no dvc command is writing now."""
        return [path for path in self.folder.rglob(".*.tmp") if path.is_file()]

    def remote(self) -> dict[str, int]:
        """Hash of each object in the default remote -> bytes.

        Raises:
            InputError: there is no default remote, or it cannot be read.
        """
        found: dict[str, int] = {}
        for database in self._remotes():
            listed: Iterator[str] = database.all()  # type: ignore[no-untyped-call] # of DVC
            paths = {database.oid_to_path(content): content for content in listed if OBJECT.fullmatch(content)}
            for content, info in zip(paths.values(), database.fs.info(list(paths)), strict=True):
                found[content] = found.get(content, 0) + int(info.get("size") or 0)
        return found

    def files_of(self, content: str, *, from_remote: bool) -> dict[str, str] | None:
        """The files of a folder with the hash ``content``, and their hashes; None if nobody has a sound list.

        Args:
            content: ends with `DIR_SUFFIX`.
            from_remote: whether to ask the default remote for a list that the cache lacks.
        """
        for database in [*self._databases(), *(self._remotes() if from_remote else [])]:
            try:
                with database.fs.open(database.oid_to_path(content), "rb") as file:
                    listed = files_in(file.read(), content)
            except OSError:
                continue
            if listed is not None:
                return listed
        return None

    def has_list(self, content: str) -> bool:
        """Whether the cache has a list of a folder with the hash ``content``, sound or not."""
        return any(database.fs.exists(database.oid_to_path(content)) for database in self._databases())

    def delete(self, needed: Set[str]) -> int:
        """Delete from the cache all objects but ``needed``; returns their number."""
        return sum(_delete(database, needed) for database in self._databases())

    def delete_from_remote(self, needed: Set[str]) -> int:
        """Delete from the default remote all objects but ``needed``; returns their number."""
        from dvc_data.hashfile.db import get_index

        count = 0
        for database in self._remotes():
            get_index(database).clear()  # before the deletion: after it, as in DVC, a kill may come first
            count += _delete(database, needed)
        return count

    def _databases(self) -> "list[HashFileDB]":
        """One per scheme of hashes."""
        found = {database.path: database for _, database in self._repo.cache.by_scheme() if database}
        return list(found.values())

    def _remotes(self) -> "list[HashFileDB]":
        if self._remote is None:
            if self._repo.config["core"].get("remote") is None:
                raise InputError("--cloud: expected a default remote, got none. `dvc remote add -d NAME URL` adds one")
            with dvc_errors():
                get = self._repo.cloud.get_remote_odb
                self._remote = [get(None, "gc -c", hash_name=scheme) for scheme in SCHEMES]
        return self._remote


@contextmanager
def opened_storage() -> Iterator[Storage]:
    """The storage of the project in the current folder; no other dvc command can start in the block.

    Raises:
        DvcBusyError: another dvc command is running in this project.
        InputError: this folder is not a DVC project.
    """
    from dvc.lock import LockError
    from dvc.repo import Repo

    with dvc_errors(), Repo() as repo:
        try:
            repo.lock.lock()
        except LockError as error:
            raise DvcBusyError(
                f"another dvc command is running in this project{_holder(repo)}. Run again when it has ended"
            ) from error
        try:
            yield Storage(repo)
        finally:
            repo.lock.unlock()


def files_in(data: bytes, content: str) -> dict[str, str] | None:
    """The files in the list of a folder, and their hashes; None if its bytes are not those of its hash.

    Args:
        data: of the list.
        content: its hash, which ends with `DIR_SUFFIX`.
    """
    # A list with one changed digit is still valid JSON, and names a file that does not exist instead of one that does.
    if hashlib.md5(data, usedforsecurity=False).hexdigest() + DIR_SUFFIX != content:
        return None
    return {str(item["relpath"]): str(item["md5"]) for item in json.loads(data)}


def _holder(repo: "Repo") -> str:
    """The process whose id is in the lock file, for a message."""
    with suppress(OSError, ValueError):
        process = Process.of(int(Path(repo.lock.lockfile).read_text(encoding="utf-8")))
        if process is not None:
            return f" (pid {process.pid}: {printable(process.command[:80])})"
    return ""


def _delete(database: "HashFileDB", needed: Set[str]) -> int:
    """Delete lists of folders first, as DVC does: DVC takes a folder for complete if its list is there."""
    from dvc_data.hashfile.gc import gc
    from dvc_data.hashfile.hash_info import HashInfo

    return int(gc(database, [HashInfo(database.hash_name, content) for content in needed]))


def _scanned(path: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _is_prefix(entry: "os.DirEntry[str]") -> bool:
    return re.fullmatch("[0-9a-f]{2}", entry.name) is not None and entry.is_dir()
