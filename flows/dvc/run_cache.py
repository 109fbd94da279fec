"""Reads DVC's run cache: which stage has run with which inputs, and what it wrote. Without DVC.

It is in `.dvc/cache/runs`: one file per run, with the content of its entry in dvc.lock.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from flows.paths import PRODUCTS

HASHES = ("md5", "etag", "checksum")
Output = tuple[str, str]  # path and hash


def read_fast(text: str) -> Any:
    """A YAML file that DVC wrote, with every value as text, in a tenth of the time of DVC's parser; None: damaged."""
    try:
        return yaml.CBaseLoader(text).get_single_data()
    except yaml.YAMLError:
        return None


def outputs_in(entry: Any) -> list[Output]:
    """The outputs in an entry of dvc.lock, of a ``.dvc`` file or of the run cache."""
    return _hashed(entry, "outs")


@dataclass(frozen=True)
class Run:
    """A run of a stage.

    Attributes:
        file: in the run cache.
        at: when it ended (s since the epoch).
        outs: what it wrote.
        deps: what it read.
        params: the parameters that it read, of all parameter files: ``section.key`` -> value.
    """

    file: Path
    at: float
    outs: tuple[Output, ...]
    deps: tuple[Output, ...]
    params: Mapping[str, str]

    @property
    def stage(self) -> tuple[str, ...]:
        """What identifies the stage: DVC does not store its name."""
        return tuple(path for path, _ in self.outs)

    @property
    def snapshot(self) -> str | None:
        """The crawl that this run made; None for another stage."""
        if PRODUCTS.as_posix() not in self.stage:
            return None
        return self.params.get("crawl.snapshot")


def runs_in(folder: Path) -> list[Run]:
    """The runs in the run cache ``folder``; damaged files are left out."""
    return [run for file in sorted(folder.glob("*/*/*")) if (run := _read(file)) is not None]


class Runs:
    """Runs, and which of them belongs to which crawl."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.all = sorted(runs, key=lambda run: (run.at, run.file))
        self._made_by: dict[Output, list[Run]] = {}
        for run in self.all:
            for output in run.outs:
                self._made_by.setdefault(output, []).append(run)
        self._crawls: dict[Path, frozenset[str]] = {}

    @cached_property
    def snapshots(self) -> list[str]:
        """The crawls, the last one first."""
        return list(dict.fromkeys(run.snapshot for run in reversed(self.all) if run.snapshot is not None))

    def of_crawls(self, snapshots: Sequence[str]) -> list[Run]:
        """The last run of each stage on each of these crawls, and the runs that made its inputs."""
        last: dict[tuple[str, tuple[str, ...]], Run] = {}
        for run in self.all:
            for snapshot in self._crawls_of(run).intersection(snapshots):
                last[snapshot, run.stage] = run
        found: dict[Path, Run] = {}
        for run in last.values():
            self._add_with_inputs(run, found)
        return list(found.values())

    def _crawls_of(self, run: Run) -> frozenset[str]:
        """The crawls from which the inputs of ``run`` come."""
        if run.file not in self._crawls:
            self._crawls[run.file] = frozenset()  # a stage that reads what it has written does not end in a loop
            own = frozenset() if run.snapshot is None else frozenset([run.snapshot])
            self._crawls[run.file] = own.union(*(self._crawls_of(maker) for maker in self._makers(run, all_of_them)))
        return self._crawls[run.file]

    def _add_with_inputs(self, run: Run, found: dict[Path, Run]) -> None:
        if run.file not in found:
            found[run.file] = run
            for maker in self._makers(run, last_of_them):
                self._add_with_inputs(maker, found)

    def _makers(self, run: Run, choose: Callable[[list[Run]], list[Run]]) -> Iterator[Run]:
        for dep in run.deps:
            yield from choose(self._made_by.get(dep, []))


def all_of_them(runs: list[Run]) -> list[Run]:
    """Every run that made an output."""
    return runs


def last_of_them(runs: list[Run]) -> list[Run]:
    """One run suffices to make an output."""
    return runs[-1:]


def _read(file: Path) -> Run | None:
    if not file.is_file() or file.suffix == ".tmp":
        return None
    entry = read_fast(file.read_text(encoding="utf-8", errors="replace"))
    if not isinstance(entry, dict):
        return None
    outs, deps = outputs_in(entry), _hashed(entry, "deps")
    return Run(file, file.stat().st_mtime, tuple(outs), tuple(deps), _flat(entry.get("params")))


def _hashed(entry: Any, key: str) -> list[Output]:
    """The items of ``entry[key]`` that have a path and a hash."""
    found = []
    items = entry.get(key) if isinstance(entry, dict) else None
    for item in items if isinstance(items, list) else []:
        content = next((item[name] for name in HASHES if name in item), None) if isinstance(item, dict) else None
        if content is not None and "path" in item:
            found.append((str(item["path"]), str(content)))
    return found


def _flat(params: Any) -> dict[str, str]:
    """``section.key`` -> value, of all parameter files. DVC stores them nested, or by their full names."""
    found: dict[str, str] = {}
    for values in params.values() if isinstance(params, dict) else []:
        for name, value in values.items() if isinstance(values, dict) else []:
            if isinstance(value, dict):
                found |= {f"{name}.{key}": str(inner) for key, inner in value.items()}
            else:
                found[str(name)] = str(value)
    return found
