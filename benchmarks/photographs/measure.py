"""The measurements one after the other, each kept as soon as it is there, so that a killed benchmark goes on.

In the workspace: ``state.json`` (what is measured already), ``pipeline/`` (the project that runs), ``seeds/<seed>/``
(what each seed's model said, and the model), ``files-<draw>/`` (a folder and a CSV, and the project for it).
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
    """What is measured, and where."""

    photographs: Photographs
    workspace: Path
    params: Path  # YAML: what the pipeline's parameters are, where they differ from the project's own
    seeds: tuple[int, ...]  # of training; the first is that of the timed run of the whole pipeline
    draws: tuple[int, ...]  # of images for the folder and the CSV
    drawn: int  # images in each


def measure(plan: Plan) -> dict[str, Any]:
    """Measure what is not measured yet; all figures.

    Raises:
        AtlasError: a command failed, or another benchmark works in the same workspace.
    """
    with locked(plan.workspace, "benchmark"):
        state = _State(plan.workspace / "state.json")
        _pipeline(plan, state)
        _files(plan, state)
        pipeline, files = state.of("pipeline"), state.of("files")
    return summary(pipeline, files)


def _pipeline(plan: Plan, state: "_State") -> None:
    """The whole pipeline for the first seed, then training and evaluation for the others."""
    given = yaml.safe_load(plan.params.read_text(encoding="utf-8"))
    key = key_of("pipeline", given, _identity(plan.photographs))
    folder, seeds = plan.workspace / "pipeline", plan.workspace / "seeds"
    found = state.begin("pipeline", key)
    if not found["ready"]:
        say(f"photographs: {folder}: from the beginning")
        shutil.rmtree(seeds, ignore_errors=True)
        copy_project(folder)
        (folder / "dvc.lock").unlink(missing_ok=True)  # of the demo
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
            say(f"photographs: seed {seed}: {'the whole pipeline' if first else 'train and evaluate'}")
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
    """From a folder of images and a CSV to a model, in two commands."""
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
    """Run a command, unless it runs ``once`` and has ended; what it took goes to the state under ``name``."""
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
    """What is measured already."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, dict[str, Any]] = {}
        if path.is_file():
            try:
                self._parts = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise AtlasError(
                    f"{path}: expected what an earlier run measured, got other content. Delete it"
                ) from error

    def begin(self, part: str, key: str) -> dict[str, Any]:
        """What is measured of ``part`` by the same code with the same parameters; nothing where anything changed."""
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
