"""Finds what no later run can use: in `.atlas`, and files that killed processes left in the folders of the outputs.

Everything in `.atlas` can be made again. What is listed here would not be read again by any run on the data that are
kept. Folders of `.atlas` that never hold more than the last run of their kind are not looked at: `champion`, `ended`,
`import`, `init`, `logs`, `prefect`, `promote`, `trained`, `unsent`. A test compares the names with the code.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from atlas_model.core.checksums import SUFFIX, checksum_file
from atlas_model.core.params import Params
from atlas_model.core.processes import Process
from crawlers.fetch.spool import INDEX
from flows.dvc.repo import locked_snapshot
from flows.gc.needed import Needed
from flows.git import try_git
from flows.monitoring import drift
from flows.paths import METRICS, PLOTS, REPORTS, SNAPSHOTS, SPLITS, WORK
from flows.registry import promote
from flows.registry.model_folders import LAST_MODELS, locked_model

TEMPORARY = re.compile(r"\..+\.(\d+)(\.old)?\.tmp")  # as `atlas_model.core.files` names them
OUTPUT_FOLDERS = (WORK, Path("data"), Path("models"), METRICS, PLOTS, REPORTS)
GRAPHS_PER_RUN = 2  # files in `engines` that an evaluation makes: of the categorizer and of the baseline


@dataclass(frozen=True)
class Unused:
    """A file or folder that no later run can use.

    Attributes:
        path: relative to the root of the project.
        kind: what it is, for the listing.
        reason: why no run can use it.
    """

    path: Path
    kind: str
    reason: str

    @property
    def size(self) -> int:
        """Bytes."""
        if self.path.is_dir() and not self.path.is_symlink():
            return sum(path.lstat().st_size for path in self.path.rglob("*") if not path.is_dir())
        return self.path.lstat().st_size


def find_unused(needed: Needed, params: Params, keep: int) -> list[Unused]:
    """What no run can use that starts now; to be called while no other one runs.

    Args:
        needed: what is kept.
        params: of the workspace.
        keep: number of crawls whose data are kept.
    """
    found = [
        *_of_old_crawls(needed, params, keep),
        *_of_other_sources(needed, params),
        *_of_spools(),
        *_of_other_models(params, keep, needed),
        *_of_ended_processes(),
    ]
    whole: dict[Path, Unused] = {}
    for each in found:
        if not any(parent in whole for parent in [each.path, *each.path.parents]):
            checksum = checksum_file(each.path)
            if (
                checksum.is_file()
            ):  # first: without it the file is listed again after a kill, but not it without the file
                whole[checksum] = replace(each, path=checksum)
            whole[each.path] = each
    return list(whole.values())


def _of_old_crawls(needed: Needed, params: Params, keep: int) -> Iterator[Unused]:
    """Copies of products, profiles and drift reports of crawls that are not kept."""
    kept = needed.snapshots | {params.crawl.snapshot, locked_snapshot() or ""}
    reason = f"of crawls before the last {keep}"
    for folder, kind in ((SNAPSHOTS, "products of crawls"), (drift.PROFILES, "profiles of crawls")):
        files = _by_time(folder.glob("*"))
        for path in files[:-keep]:
            if path.stem not in kept:
                yield Unused(path, kind, reason)
    current = {path.stem for folder in (SNAPSHOTS, drift.PROFILES) for path in _by_time(folder.glob("*"))[-keep:]}
    for path in drift.REPORTS.glob("*..*.*"):
        old, _, new = path.stem.partition("..")
        if {old, new}.isdisjoint(kept | current):
            yield Unused(path, "drift reports", reason)


def _of_other_sources(needed: Needed, params: Params) -> Iterator[Unused]:
    """Journals and spools of a crawl.source that no crawl has which is kept."""
    kept = needed.sources | {params.crawl.source}
    for name, kind in (("crawl", "journals of crawls"), ("fetch", "downloaded images (spools)")):
        for path in (WORK / name).glob("*"):
            if path.is_dir() and path.name not in kept:
                yield Unused(path, kind, "no crawl that is kept has this crawl.source")


def _of_spools() -> Iterator[Unused]:
    """Files of images in spools that the index does not refer to; the next run would delete them."""
    for folder in (WORK / "fetch").glob("*"):
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{folder / INDEX}?mode=ro", uri=True)) as index:
            used = {number for (number,) in index.execute("SELECT DISTINCT file FROM images WHERE file > 0")}
            last = max(used, default=1)
            for path in folder.glob("[0-9]" * 6 + ".*"):
                if int(path.stem) not in used and int(path.stem) != last:
                    yield Unused(path, "downloaded images (spools)", "the index of the spool does not refer to them")


def _of_other_models(params: Params, keep: int, needed: Needed) -> Iterator[Unused]:
    """Caches of pixels, activations and graphs, checkpoints and copies, of data or models that are gone."""
    pixels = list((WORK / "pixels").glob("*.npy"))
    if pixels and SPLITS.is_dir():
        from atlas_model.data.dataset import content_key  # torch, which takes a second

        shards = {
            path.name.partition("-")[0]: sorted(SPLITS.glob(f"{path.name.partition('-')[0]}-*")) for path in pixels
        }
        current = {f"{name}-{content_key(files)}.npy" for name, files in shards.items()}
        for path in pixels:
            if path.name not in current:
                yield Unused(path, "decoded images", "of other splits than data/splits")
    if params.train.fine_tune_from == "all":
        for path in (WORK / "activations").glob("*"):
            yield Unused(path, "activations", "train.fine_tune_from is all: no stage reads them")
    for path in _by_time((WORK / "train").glob("*"))[:-1]:
        yield Unused(path, "checkpoints", "of interrupted trainings before the last one")
    locked = locked_model()
    for path in LAST_MODELS.glob("*"):
        if path.name != locked:
            yield Unused(path, "copies of models", "dvc.lock has another model")
    for path in _by_time((WORK / "engines").glob("*"))[: -keep * GRAPHS_PER_RUN]:
        yield Unused(path, "exported graphs", f"of evaluations before the last {keep}")
    kept = {model[:8] for model in needed.models}
    for path in promote.REPORTS.glob("*..*.*"):
        if path.stem.partition("..")[2] not in kept:
            yield Unused(path, "comparisons of models", "of models that are gone")


def _of_ended_processes() -> Iterator[Unused]:
    """What processes left that were killed, and what experiments left that have ended."""
    for path in (WORK / "shell-runs").glob("*-*"):
        pid, _, birth = path.name.partition("-")
        if not pid.isdecimal() or Process.of(int(pid)) != Process(int(pid), birth):
            yield Unused(path, "states of dvc repro", "the process has ended")
    head = try_git("rev-parse", "HEAD")
    for path in (WORK / "sweep").glob("*"):
        workspace = path / "project"
        if not workspace.is_dir():
            yield Unused(path, "workspaces of atlas sweep", "the experiment is complete")
        elif _head_of(workspace) != head:
            yield Unused(path, "workspaces of atlas sweep", "of another commit than the current one")
    for path in WORK.glob("tmp*"):
        yield Unused(path, "temporary files", "their process was killed")
    for folder in OUTPUT_FOLDERS:
        for path in folder.rglob(".*.tmp"):
            name = TEMPORARY.fullmatch(path.name)
            # A killed process may have renamed a folder to .old.tmp, and not yet renamed its successor.
            replaced = path.with_name(path.name[1:].removesuffix(".tmp").removesuffix(".old").rpartition(".")[0])
            if name and Process.of(int(name[1])) is None and (name[2] is None or replaced.exists()):
                yield Unused(path, "temporary files", "their process was killed")


def _head_of(workspace: Path) -> str | None:
    """The commit of a workspace of `atlas sweep`, whose HEAD is detached."""
    with suppress(OSError):
        return (workspace / ".git/HEAD").read_text(encoding="utf-8").strip()
    return None


def _by_time(paths: Iterable[Path]) -> list[Path]:
    """Oldest first, without temporary files and checksums."""
    kept = (path for path in paths if not path.name.startswith(".") and path.suffix != SUFFIX)
    return sorted(kept, key=lambda path: (path.stat().st_mtime_ns, path.name))
