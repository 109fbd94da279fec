"""Compares variants of the decoder, and the decoder with a classifier: three seeds on Fashion-MNIST.

The variants have the same small encoder: probabilities normalised over children or over the vocabulary, no deep output
layer, and a plain classifier. Each trains on 24,000 of the 60,000 training images, selects its epoch and its
temperature on 2,000 others, and is tested on 10,000 others. The official test set is not used.

One thread, so that CPU seconds are comparable. A model that exists in `MODELS` is not trained again: an interrupted run
resumes with the next model, and models trained elsewhere can be tested here.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean
from time import process_time
from typing import Any

import numpy as np
import torch

from atlas_model.confidence.calibration import fit_temperature
from atlas_model.core.checkpoint import DESCRIPTION
from atlas_model.core.device import keep_freed_memory
from atlas_model.data.dataset import Split
from atlas_model.data.images import Preprocessing
from atlas_model.evaluate.evaluation import Evaluation, evaluate, evaluate_baseline
from atlas_model.metrics.bootstrap import ScoredPredictions, differences
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer, Model
from atlas_model.model.classifier import Classifier
from atlas_model.model.saved_models import load_categorizer, load_classifier, save
from atlas_model.taxonomy.tree import Taxonomy
from atlas_model.train.loop import fit
from atlas_model.train.validation import encode_batches
from benchmarks.report import report
from benchmarks.search import SMALL
from benchmarks.training import CPU, RECIPE
from tools.fashion_mnist import find_or_download, read_part

WORK = Path(".atlas/benchmarks")
MODELS = WORK / "normalization"  # <variant>-<seed>/
SEEDS, EPOCHS, BATCH, RESAMPLES = (1, 2, 3), 5, 256, 1000
PARTS = {"train": slice(24_000), "val": slice(48_000, 50_000), "test": slice(50_000, 60_000)}  # of the shuffled 60,000
PREPROCESSING = Preprocessing(28, "L", "squash")
CATEGORIES = (  # of Fashion-MNIST's labels, in their order
    ("Clothing", "Tops", "T-shirt"),
    ("Clothing", "Bottoms", "Trouser"),
    ("Clothing", "Tops", "Pullover"),
    ("Clothing", "Dresses", "Dress"),
    ("Clothing", "Outerwear", "Coat"),
    ("Footwear", "Open", "Sandal"),
    ("Clothing", "Tops", "Shirt"),
    ("Footwear", "Closed", "Sneaker"),
    ("Accessories", "Bags", "Bag"),
    ("Footwear", "Closed", "Ankle boot"),
)
TAXONOMY = Taxonomy(CATEGORIES)
PLAIN = Architecture("small", 1, "native", *SMALL, 0.5)
VARIANTS = {
    "children": replace(PLAIN, normalize="children", deep_output=True),
    "vocabulary": replace(PLAIN, deep_output=True),
    "children_without_deep_output": replace(PLAIN, normalize="children"),
    "classifier": PLAIN,
}
COMPARED = (("children", "vocabulary"), ("children", "classifier"), ("children", "children_without_deep_output"))
FIGURES = ("micro_f1", "ece_uncalibrated", "ece", "unconstrained_micro_f1", "unconstrained_invalid_share")


def main() -> None:
    """Train the missing models, test all of them, and compare."""
    torch.set_num_threads(1)
    keep_freed_memory()
    parts = read_parts()
    judged = {variant: [judge(variant, seed, parts) for seed in SEEDS] for variant in VARIANTS}
    models = {
        variant: {**{str(seed): own for seed, (_, own) in zip(SEEDS, both, strict=True)}, "mean": means(both)}
        for variant, both in judged.items()
    }
    compared = {
        f"{one} - {other}": compare([each for each, _ in judged[one]], [each for each, _ in judged[other]])
        for one, other in COMPARED
    }
    rows = [(f"{variant}: {key}", value, "") for variant, own in models.items() for key, value in own["mean"].items()]
    for names, own in compared.items():
        low, high = own["all"]["interval"]
        rows.append((f"micro_f1, {names}", own["all"]["value"], f"({low:.4f} to {high:.4f})"))
    report("normalization", rows, {"models": models, "differences": compared})


def read_parts() -> dict[str, Split]:
    """The three splits, always the same."""
    images, labels = read_part(find_or_download(WORK), "train")
    order = np.random.default_rng(7).permutation(len(labels))
    paths = np.array([TAXONOMY.index(path) for path in CATEGORIES])[labels]
    parts = {}
    for name, part in PARTS.items():
        rows = order[part]
        numbers = [str(row) for row in rows]
        parts[name] = Split(name, images[rows][:, None], paths[rows], numbers, numbers, PREPROCESSING)
    return parts


def judge(variant: str, seed: int, parts: dict[str, Split]) -> tuple[Evaluation, dict[str, float]]:
    """The predictions of the model on the test split, and its metrics."""
    folder = MODELS / f"{variant}-{seed}"
    if not folder.exists():
        train(variant, seed, parts, folder)
    model, _ = (load_classifier if variant == "classifier" else load_categorizer)(folder, CPU)
    assert model.taxonomy == TAXONOMY and model.architecture == VARIANTS[variant], folder
    val, test = parts["val"], parts["test"]
    model.temperature = fit_temperature(model, encode_batches(model, val, np.arange(len(val)), BATCH, CPU), val.paths)
    options: dict[str, Any] = {"resamples": RESAMPLES, "seed": 1, "batch_size": BATCH, "device": CPU}
    if isinstance(model, Classifier):
        found = evaluate_baseline(model, test, **options)
    else:
        every = np.arange(len(test))
        found = evaluate(model, test, every, beam=5, length_normalization=0.0, exact_nodes=0, **options)["image"]
    own = {key: found.figures[key] for key in FIGURES if found.figures.get(key) is not None}
    cpu_s = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["metrics"]["cpu_s"]
    return found, own | {"temperature": model.temperature, "cpu_s": cpu_s}


def train(variant: str, seed: int, parts: dict[str, Split], folder: Path) -> None:
    """Train a model and save it to ``folder``, with the training time."""
    torch.manual_seed(seed)
    architecture = VARIANTS[variant]
    model: Model = (
        Classifier(architecture, TAXONOMY)
        if variant == "classifier"
        else Categorizer(architecture, TAXONOMY, alpha_c=1.0)
    )
    started = process_time()
    with tempfile.TemporaryDirectory() as work:
        fit(
            model,
            parts["train"],
            parts["val"],
            replace(RECIPE, seed=seed, epochs=EPOCHS, patience=EPOCHS),
            device=CPU,
            state_file=Path(work) / "state.safetensors",
            job=f"{variant} {seed}",
            on_epoch=lambda record: None,
        )
    save(model, folder, PREPROCESSING, params={}, metrics={"cpu_s": process_time() - started})


def means(judged: list[tuple[Evaluation, dict[str, float]]]) -> dict[str, float]:
    """The mean of each metric over the seeds."""
    return {key: mean(own[key] for _, own in judged) for key in judged[0][1]}


def compare(ones: list[Evaluation], others: list[Evaluation]) -> dict[str, Any]:
    """The differences of the metrics of ``ones`` to those of ``others``, per seed and in the mean of all seeds.

    The intervals are for other images, not for other seeds; the values per seed show the variation between seeds. For
    the mean, an image is resampled together with the predictions of all seeds.
    """
    found: dict[str, Any] = {}
    for seed, one, other in zip(SEEDS, ones, others, strict=True):
        own = differences(one.answers, other.answers, one.groups, resamples=RESAMPLES, seed=1)
        found[str(seed)] = {key: own[key] for key in ("micro_f1", "ece")}
    groups = [group for one in ones for group in one.groups]
    together = differences(_joined(ones), _joined(others), groups, resamples=RESAMPLES, seed=1)
    return {**found, "all": together["micro_f1"]}


def _joined(evaluations: list[Evaluation]) -> ScoredPredictions:
    actual, predicted, log_probability = (
        np.concatenate([getattr(each, name) for each in evaluations])
        for name in ("actual", "predicted", "log_probability")
    )
    return ScoredPredictions.of(actual, predicted, np.exp(log_probability), TAXONOMY)


if __name__ == "__main__":
    main()
