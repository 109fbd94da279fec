"""Runs the measurements one after the other and stores each result at once, so that a killed benchmark resumes.

In the workspace: ``state.json`` (the results so far), ``pipeline/`` (the project that runs), ``seeds/<seed>/`` (the
metrics and the model of each seed), ``files-<draw>/`` (a folder of images with a CSV, and its project).
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import locked, replacing_folder, write_json
from atlas_model.core.progress import say
from benchmarks.photographs.collect import figures_of_files, figures_of_pipeline, figures_of_seed, summary
from benchmarks.photographs.photographs import HOST, Photographs, serving, write_folder, write_manifest
from benchmarks.photographs.workspace import Usage, copy_project, key_of, run, write_params

KEPT = ("metrics", "reports", "models/categorizer", "models/baseline")  # of each seed


@dataclass(frozen=True)
class Plan:
    """The measurements, and their folder."""

    photographs: Photographs
    workspace: Path
    params: Path  # YAML: parameters of the pipeline that differ from those of the project
    seeds: tuple[int, ...]  # of training; the whole pipeline is timed with the first one
    draws: tuple[int, ...]  # seeds of the samples for the folder and the CSV
    drawn: int  # images per sample


def measure(plan: Plan) -> dict[str, Any]:
    """Run the missing measurements; returns all results.

    Raises:
        AtlasError: a command failed, or another benchmark runs in the same workspace.
    """
    with locked(plan.workspace, "benchmark"):
        state = _State(plan.workspace / "state.json")
        _pipeline(plan, state)
        _files(plan, state)
        pipeline, files = state.of("pipeline"), state.of("files")
    return summary(pipeline, files)


def _pipeline(plan: Plan, state: "_State") -> None:
    """Run the whole pipeline with the first seed, then training and evaluation with the others."""
    given = yaml.safe_load(plan.params.read_text(encoding="utf-8"))
    key = key_of("pipeline", given, _identity(plan.photographs))
    folder, seeds = plan.workspace / "pipeline", plan.workspace / "seeds"
    found = state.begin("pipeline", key)
    if not found["ready"]:
        say(f"photographs: {folder}: from the beginning")
        shutil.rmtree(seeds, ignore_errors=True)
        copy_project(folder)
        (folder / "dvc.lock").unlink(missing_ok=True)  # it belongs to the demo
        write_manifest(folder / given["crawl"]["manifest"], plan.photographs)
        found["ready"] = True
        state.save()
    for seed in plan.seeds:
        if str(seed) in found["seeds"]:
            continue
        first = seed == plan.seeds[0]
        with serving(plan.photographs, found.get("port")) as port:
            found["port"] = port
            state.save()
            connect = {"connect": {HOST: f"127.0.0.1:{port}"}}
            write_params(folder, given, {"crawl": connect, "train": {"seed": seed}})
            say(f"photographs: seed {seed}: {'the whole pipeline' if first else 'train, evaluate and report'}")
            usage = _run(["dvc", "repro"], folder, state, found, f"seed {seed}")
        with replacing_folder(seeds / str(seed)) as kept:
            for name in KEPT:
                if (folder / name).is_dir():
                    shutil.copytree(folder / name, kept / name)
        if first:
            found["whole"] = figures_of_pipeline(folder)
        found["seeds"][str(seed)] = figures_of_seed(folder) | {"minutes": round(usage.seconds / 60, 2)}
        state.save()


def _files(plan: Plan, state: "_State") -> None:
    """Train a model from a folder of images and a CSV, with two commands."""
    key = key_of("files", plan.drawn, _identity(plan.photographs))
    found = state.begin("files", key)
    for draw in plan.draws:
        if str(draw) in found["draws"]:
            continue
        folder = plan.workspace / f"files-{draw}"
        say(f"photographs: {plan.drawn} images and a CSV, draw {draw}")
        if draw not in found["ready"]:
            shutil.rmtree(folder, ignore_errors=True)
            write_folder(folder / "given", plan.photographs, plan.drawn, draw)
            copy_project(folder / "project")
            found["ready"].append(draw)
            state.save()
        project, given = folder / "project", folder / "given"
        init = ["flows.cli.main", "init", "--images", str(given / "images"), "--table", str(given / "products.csv")]
        usages = [
            _run(command, project, state, found, f"draw {draw} {command[0]}", once=command[0] == "flows.cli.main")
            for command in (init, ["dvc", "repro"])
        ]
        found["draws"][str(draw)] = figures_of_files(project) | {
            "minutes": round(sum(usage.seconds for usage in usages) / 60, 2)
        }
        state.save()


def _run(
    command: list[str], folder: Path, state: "_State", found: dict[str, Any], name: str, *, once: bool = False
) -> Usage:
    """Run a command, unless it is to run ``once`` and is completed; its usage is stored under ``name``."""
    before = Usage(**found["usage"].get(name, {}))
    if once and name in found["ended"]:
        return before

    def save(usage: Usage) -> None:
        found["usage"][name] = asdict(usage)
        state.save()

    usage = run(command, folder, before, save)
    found["ended"].append(name)
    state.save()
    return usage


def _identity(photographs: Photographs) -> tuple[Any, ...]:
    stat = photographs.path.stat()
    return (photographs.path.name, stat.st_size, stat.st_mtime_ns)


class _State:
    """The results so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, dict[str, Any]] = {}
        if path.is_file():
            try:
                self._parts = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise AtlasError(
                    f"{path}: expected the results of an earlier run, got other content. Delete it"
                ) from error

    def begin(self, part: str, key: str) -> dict[str, Any]:
        """The results of ``part`` with the same code and parameters; empty if any of them has changed."""
        if self._parts.get(part, {}).get("key") != key:
            empty: dict[str, Any] = {"key": key, "usage": {}, "ended": []}
            self._parts[part] = empty | (
                {"ready": False, "seeds": {}} if part == "pipeline" else {"ready": [], "draws": {}}
            )
            self.save()
        return self._parts[part]

    def of(self, part: str) -> dict[str, Any]:
        return self._parts[part]

    def save(self) -> None:
        write_json(self._path, self._parts)
