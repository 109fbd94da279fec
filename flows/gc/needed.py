"""Decides which data DVC's cache and remote must keep.

That is what these need: the workspace; every git reference (branches, also those of remotes, tags, experiments,
stashes, and what worktrees have checked out); the last crawls, in git's history and in DVC's run cache; the champion
and the models of the last promotions. DVC's own ``used_objs`` reads the whole tree of each commit: a test compares its
result with this one, which reads dvc.lock and the ``.dvc`` files only.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from atlas_model.core.errors import InputError
from atlas_model.core.params import PARAMS_FILE
from flows.dvc.run_cache import Output, Run, Runs, outputs_in, read_fast
from flows.dvc.storage import DIR_SUFFIX, Storage
from flows.git import content_at, run_git, try_git
from flows.paths import LOCK_FILE
from flows.registry.champion import POINTER, Event, read_history

REFERENCES = ("for-each-ref", "--format=%(objectname) %(*objectname) %(refname)")


@dataclass(frozen=True)
class Needed:
    """What must stay.

    Attributes:
        contents: hashes of objects of DVC: of files, of lists of folders, and of the files in these.
        runs: of the run cache.
        snapshots: the crawls.
        sources: ``crawl.source`` of these crawls.
        models: hashes of model folders.
        references: number of commits that are kept.
        incomplete: what names folders whose lists of files are nowhere, so that their files cannot be known.
        damaged: hashes of folders whose lists of files are in the cache, but damaged, and are nowhere else.
    """

    contents: frozenset[str]
    runs: tuple[Run, ...]
    snapshots: frozenset[str]
    sources: frozenset[str]
    models: frozenset[str]
    references: int
    incomplete: tuple[str, ...]
    damaged: tuple[str, ...]


def find_needed(storage: Storage, runs: Runs, *, keep: int, branch: str, from_remote: bool) -> Needed:
    """What must stay in the cache, and in the remote.

    Args:
        storage: of DVC.
        runs: of its run cache.
        keep: number of crawls, and of promotions.
        branch: of the accepted runs.
        from_remote: whether the lists of folders that the cache lacks are read from the remote.

    Raises:
        InputError: models/champions.json, dvc.lock or a ``.dvc`` file of a commit is damaged.
    """
    outputs: dict[str, list[Output]] = {"the workspace": storage.outputs()}  # what needs them -> outputs
    snapshots, sources = set(), set()
    files = [("the workspace", LOCK_FILE.name, LOCK_FILE.read_bytes())] if LOCK_FILE.is_file() else []
    commits = _commits(keep, branch)
    for commit, name in commits.items():
        files += [(name, *file) for file in _files_of_dvc(commit)]
    for name, path, content in files:
        parsed = read_fast(content.decode("utf-8", errors="replace"))
        if not isinstance(parsed, dict):
            raise InputError(
                f"{path} of {name}: expected YAML that DVC wrote, got something else, so what it needs is not known. "
                f"Restore it, or give {name} up (`git branch -D`, `git tag -d`)"
            )
        for entry in [parsed, *(parsed.get("stages") or {}).values()]:
            outputs.setdefault(name, []).extend(outputs_in(entry))
            crawl = _crawl_in(entry)
            snapshots |= {crawl["snapshot"]} if "snapshot" in crawl else set()
            sources |= {crawl["source"]} if "source" in crawl else set()
    models = _models(read_history(), keep)
    outputs["models/champions.json"] = [(POINTER.stem, model) for model in models]
    last = runs.snapshots[:keep]
    kept = runs.of_crawls(last)
    for run in kept:
        outputs.setdefault("the last crawls", []).extend(run.outs)
        sources |= {run.params["crawl.source"]} if "crawl.source" in run.params else set()
    files_of = partial(storage.files_of, from_remote=from_remote)
    contents, incomplete, unknown = _expanded(outputs, files_of)
    return Needed(
        frozenset(contents),
        tuple(run for run in runs.all if contents.issuperset(content for _, content in run.outs)),
        frozenset({*snapshots, *last}),
        frozenset(sources),
        frozenset({*models, *(content for found in outputs.values() for path, content in found if _is_model(path))}),
        len(commits),
        tuple(incomplete),
        tuple(sorted(filter(storage.has_list, unknown))),
    )


def _expanded(
    outputs: dict[str, list[Output]], files_of: Callable[[str], dict[str, str] | None]
) -> tuple[set[str], list[str], set[str]]:
    """All hashes, with those of the files in folders; what names folders whose lists nobody has; these folders."""
    contents: set[str] = set()
    unknown: set[str] = set()
    incomplete: dict[str, None] = {}
    for name, found in outputs.items():
        for _, content in found:
            if content.endswith(DIR_SUFFIX) and content not in contents:
                files = files_of(content)
                if files is None:
                    unknown.add(content)
                contents.update((files or {}).values())
            contents.add(content)
            if content in unknown:
                incomplete[name] = None
    return contents, list(incomplete), unknown


def _commits(keep: int, branch: str) -> dict[str, str]:
    """Commit -> what names it: all references, and the last ``keep`` crawls in the history."""
    if try_git("rev-parse", "--git-dir") is None:
        return {}
    found: dict[str, str] = {}
    for line in run_git(*REFERENCES).splitlines():
        own, peeled, name = line.split(" ", 2)  # a tag with a message is an object of its own
        found.setdefault(peeled or own, name)
    for line in run_git("worktree", "list", "--porcelain").splitlines():
        if line.startswith("HEAD "):
            found.setdefault(line.removeprefix("HEAD "), "HEAD")
    for commit in (try_git("stash", "list", "--format=%H") or "").split():
        found.setdefault(commit, "a stash")
    found = {commit: name for commit, name in found.items() if _exists(f"{commit}^{{commit}}")}  # a tag may name a file
    tips = [tip for tip in ("HEAD", f"refs/heads/{branch}", f"refs/remotes/origin/{branch}") if _exists(tip)]
    crawls: set[str] = set()
    for commit in run_git("log", "--format=%H", *tips, "--", str(LOCK_FILE)).split() if tips else []:
        lock = read_fast((content_at(commit, LOCK_FILE) or b"").decode("utf-8", errors="replace"))
        stages = lock.get("stages") if isinstance(lock, dict) else None
        snapshot = _crawl_in(stages.get("crawl")).get("snapshot") if isinstance(stages, dict) else None
        if snapshot is not None and snapshot not in crawls:
            crawls.add(snapshot)
            found.setdefault(commit, f"commit {commit[:8]}")
        if len(crawls) >= keep:
            break
    return found


def _exists(reference: str) -> bool:
    return try_git("rev-parse", "--verify", "--quiet", reference) is not None


def _files_of_dvc(commit: str) -> Iterator[tuple[str, bytes]]:
    """dvc.lock and the ``.dvc`` files of a commit, without those of DVC projects in subfolders."""
    names = set(run_git("ls-tree", "-r", "--name-only", "-z", commit).split("\0"))
    for name in sorted(names):
        path = PurePosixPath(name)
        is_of_dvc = path.name == LOCK_FILE.name or (path.suffix == ".dvc" and ".dvc" not in path.parts)
        if is_of_dvc and not any(f"{folder}/.dvc/config" in names for folder in path.parents[:-1]):
            yield name, content_at(commit, Path(name)) or b""


def _crawl_in(entry: Any) -> dict[str, str]:
    """The parameters of the section ``crawl`` in an entry of dvc.lock."""
    section = entry
    for name in ("params", PARAMS_FILE.name, "crawl"):
        section = section.get(name) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else {}


def _models(history: list[Event], keep: int) -> Iterable[str]:
    """The models of the champion, of the one that `atlas rollback` restores, and of the last ``keep`` promotions."""
    if not history:
        return []
    promotions = {event.version: event for event in history if not event.rollback}
    current = promotions[history[-1].version]
    before = promotions.get(current.replaced) if current.replaced is not None else None
    last = [*list(promotions.values())[-keep:], current, *([before] if before else [])]
    return list(dict.fromkeys(event.model for event in last))


def _is_model(path: str) -> bool:
    return path in {"models/categorizer", POINTER.stem}
