"""Collects the metrics of the benchmark from those of the stages: of a run, and medians over several runs."""

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.photographs.targets import value_at
from benchmarks.photographs.workspace import metrics_of, timings_of

SCORES = ("micro_f1", "macro_f1", "ece", "ece_uncalibrated", "level_accuracy", "n", "intervals")
MODES = ("image", "image_and_title", "title", "image_and_stripped_title")
# These are in the result under their dotted names, too.
NAMES = (
    "image.micro_f1",
    "image.macro_f1",
    "image.ece",
    "image_and_title.micro_f1",
    "title.micro_f1",
    "image_and_stripped_title.micro_f1",
    "classifier.micro_f1",
)


def figures_of_pipeline(project: Path) -> dict[str, Any]:
    """Metrics that do not depend on the seed: the sizes of the splits, and the share of discarded close-ups."""
    split, zoom = metrics_of(project, "split"), metrics_of(project, "zoom")
    return {
        "images": split["images_per_split"],
        "products": split["products"],
        "dropped": split["dropped"],
        "leaks": split["leaks"],
        "zoom_discarded_share": zoom["discarded_share"],
    }


def figures_of_seed(project: Path) -> dict[str, Any]:
    """The metrics of the models of one seed on test."""
    found, train, timings = metrics_of(project, "evaluate"), metrics_of(project, "train"), timings_of(project, "train")
    baseline, trained = found["baseline"], train["categorizer"]
    return {
        **{mode: _scores(scores) for mode, scores in _modes(found).items()},
        "classifier": _scores(baseline["test"]),
        "difference": baseline["difference"],
        "val": {key: found["val"][key] for key in ("micro_f1", "macro_f1", "ece")},
        "epochs": {name: train[name]["epochs"] for name in ("categorizer", "baseline")},
        "best_epoch": {name: train[name]["best_epoch"] for name in ("categorizer", "baseline")},
        "tuned_epoch_over_forward": epoch_over_forward(timings, trained["epochs"], trained["images"]),
    }


def figures_of_files(project: Path) -> dict[str, Any]:
    """The metrics of the model of a folder and a CSV on its test split."""
    found, split = metrics_of(project, "evaluate"), metrics_of(project, "split")
    return {
        "micro_f1": found["test"]["micro_f1"],
        "macro_f1": found["test"]["macro_f1"],
        "interval": found["test"]["intervals"]["micro_f1"],
        "classifier": found["baseline"]["test"]["micro_f1"],
        "images": split["images_per_split"],
        "dropped": split["dropped"],
    }


def summary(pipeline: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """The result: the main metrics, and the metrics per seed and sample."""
    seeds: dict[str, Any] = pipeline["seeds"]
    whole = pipeline["whole"]
    usages = [*pipeline["usage"].values(), *files["usage"].values()]
    first = pipeline["usage"][f"seed {next(iter(seeds))}"]
    nested: dict[str, dict[str, Any]] = {
        mode: {name: _median(seeds.values(), f"{mode}.{name}") for name in ("micro_f1", "macro_f1", "ece")}
        for mode in (*MODES, "classifier")
    }
    nested["difference"] = {name: _middle(seeds, name) for name in ("micro_f1", "macro_f1")}
    return {
        **{name: value_at(nested, name) for name in NAMES},
        "pipeline_minutes": round(first["seconds"] / 60, 2),
        "tuned_epoch_over_forward": _median(seeds.values(), "tuned_epoch_over_forward"),
        "files_micro_f1": _median(files["draws"].values(), "micro_f1"),
        "files_minutes": _median(files["draws"].values(), "minutes"),
        "peak_rss_gb": max(usage["peak_rss_gb"] for usage in usages),
        "zoom_discarded_share": whole["zoom_discarded_share"],
        **nested,
        "seeds": seeds,
        "files": {"draws": files["draws"], "usage": files["usage"]},
        "usage": pipeline["usage"],
        "data": {key: whole[key] for key in ("images", "products", "dropped", "leaks")},
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def epoch_over_forward(timings: Mapping[str, Any], epochs: int, images: int) -> float | None:
    """Time of an epoch / time of the frozen blocks' forward pass on as many images; None without such blocks."""
    forward: float | None = timings["forward_seconds"]
    return round(timings["categorizer"]["seconds"] / epochs / (forward * images), 4) if forward else None


def _modes(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Kind of input -> metrics; a model without titles has images only."""
    return {"image": found["test"]} | {mode: found["modes"][mode] for mode in MODES if mode in found.get("modes", {})}


def _scores(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in SCORES if name in found}


def _middle(seeds: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The difference of the sequence model to the classifier: that of the median seed, with its paired interval."""
    order = sorted(seeds, key=lambda seed: seeds[seed]["difference"][name]["value"])
    seed = order[(len(order) - 1) // 2]
    return {**seeds[seed]["difference"][name], "seed": int(seed)}


def _median(values: Iterable[Mapping[str, Any]], name: str) -> float | None:
    found = [value for each in values if (value := value_at(each, name)) is not None]
    return round(median(found), 6) if found else None
