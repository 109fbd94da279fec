"""Puts together what is not needed, and deletes it.

A kill in the middle loses nothing that is needed: only things that are not needed are deleted, each on its own, and the
list of a folder before its files. The same command deletes the rest.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from atlas_model.core.errors import InputError
from atlas_model.core.params import Params
from flows.dvc.pipeline_lock import idle_pipeline
from flows.dvc.run_cache import Run, Runs, runs_in
from flows.dvc.storage import DIR_SUFFIX, Storage, opened_storage
from flows.gc.needed import find_needed
from flows.gc.work import Unused, find_unused
from flows.paths import WORK
from flows.registry.champion import exclusive_change

CACHE, REMOTE, RUNS, UNFINISHED = "DVC's cache", "DVC's remote", "DVC's run cache", "unfinished files in DVC's cache"
OTHER = "other outputs"


@dataclass(frozen=True)
class Group:
    """Things of one kind that would be deleted.

    Attributes:
        kind: what they are.
        reason: why they are not needed.
        files: their number.
        size: bytes.
        outputs: of objects of DVC: path of the output -> bytes.
    """

    kind: str
    reason: str
    files: int
    size: int
    outputs: dict[str, int]


class Collection:
    """What would be deleted, while nothing else runs. `delete` deletes it."""

    def __init__(self, storage: Storage, params: Params, *, keep: int, cloud: bool) -> None:
        self._storage, self._cloud = storage, cloud
        runs = Runs(runs_in(storage.runs))
        self.needed = find_needed(storage, runs, keep=keep, branch=params.pipeline.branch, from_remote=cloud)
        if cloud and self.needed.incomplete:
            raise InputError(
                f"--cloud: expected the lists of all folders that are needed, but neither the cache nor the remote has "
                f"all those of {_some(self.needed.incomplete)}, so their files cannot be told from others. Push them "
                "from where they are (`dvc push --all-commits`), or give them up (`git branch -D`, `git tag -d`)"
            )
        if self.needed.damaged:
            raise InputError(
                f"{storage.folder}: expected sound lists of all folders that are needed, got damaged ones of "
                f"{_some(self.needed.damaged)}, so the files of these folders cannot be told from others. `atlas "
                "verify` names those of the workspace, with the remedy; delete the others and run `dvc fetch "
                "--all-commits`"
            )
        kept = {run.file for run in self.needed.runs}
        self._runs = [run for run in runs.all if run.file not in kept]
        self._unfinished = storage.unfinished()
        self._unused = find_unused(self.needed, params, keep)
        self._places = _places(storage, runs.all)
        self._keep = keep

    def groups(self) -> list[Group]:
        """What would be deleted, by kind."""
        reason = f"no git reference, no champion and none of the last {self._keep} crawls needs them"
        found = [self._objects(CACHE, reason, self._storage.cached())]
        if self._cloud:
            found.append(self._objects(REMOTE, reason, self._storage.remote()))
        sizes = [run.file.stat().st_size for run in self._runs]
        found.append(Group(RUNS, "their outputs are not kept", len(sizes), sum(sizes), {}))
        sizes = [path.stat().st_size for path in self._unfinished]
        found.append(Group(UNFINISHED, "their process was killed", len(sizes), sum(sizes), {}))
        files, bytes_of = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for each in self._unused:
            files[each.kind, each.reason] += 1
            bytes_of[each.kind, each.reason] += each.size
        found += [Group(*key, count, bytes_of[key], {}) for key, count in files.items()]
        return [group for group in found if group.files]

    def delete(self) -> None:
        """Delete everything that `groups` lists."""
        for run in self._runs:
            run.file.unlink()
            for folder in (run.file.parent, run.file.parent.parent):
                if not any(folder.iterdir()):
                    folder.rmdir()
        if self._cloud:
            self._storage.delete_from_remote(self.needed.contents)
        self._storage.delete(self.needed.contents)
        for path in self._unfinished:
            path.unlink(missing_ok=True)
        for each in self._unused:
            _remove(each)

    def _objects(self, kind: str, reason: str, held: dict[str, int]) -> Group:
        outputs, files = Counter[str](), 0
        for content, size in held.items():
            if content not in self.needed.contents:
                outputs[self._places.get(content, OTHER)] += size
                files += 1
        return Group(kind, reason, files, outputs.total(), dict(outputs.most_common()))


@contextmanager
def collected(params: Params, *, keep: int, cloud: bool) -> Iterator[Collection]:
    """Find what is not needed; no stage, flow, promotion, sweep or dvc command can start in the block.

    Args:
        params: of the workspace.
        keep: number of crawls, and of promotions, whose data are kept.
        cloud: whether to include the default remote.

    Raises:
        RetryError: a run is in progress; the text names its process.
        InputError: this is not a DVC project; it shares its cache with others; what is needed cannot be known.
        AtlasError: a promotion is running.
    """
    with idle_pipeline([WORK / "sweep", Path(".dvc/tmp/exps")]), exclusive_change(), opened_storage() as storage:
        if not storage.is_of_this_project:
            raise InputError(
                f"expected DVC's cache inside of this project, got {storage.folder}, which other projects may use: "
                "what they need is not known here. `dvc gc --workspace --all-commits --projects FOLDER ...` takes "
                "their folders"
            )
        yield Collection(storage, params, keep=keep, cloud=cloud)


def _places(storage: Storage, runs: list[Run]) -> dict[str, str]:
    """Hash of an object -> path of the output that it belongs to, for the listing."""
    found: dict[str, str] = {}
    for path, content in [each for run in runs for each in run.outs]:
        if content not in found and content.endswith(DIR_SUFFIX):
            for file in (storage.files_of(content, from_remote=False) or {}).values():
                found.setdefault(file, path)
        found.setdefault(content, path)
    return found


def _remove(unused: Unused) -> None:
    """Delete a file or folder; a folder is renamed first, so that a kill leaves no half of it."""
    if not unused.path.is_dir() or unused.path.is_symlink():
        unused.path.unlink(missing_ok=True)
        return
    going = unused.path.with_name(f".{unused.path.name}.{os.getpid()}.tmp")
    unused.path.rename(going)
    shutil.rmtree(going)


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
