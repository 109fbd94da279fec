"""Stage `evaluate`: the models on train (a sample), val and test; figures, predictions, pictures.

Writes reports/evaluate/: predictions.parquet and predictions.csv (the original project's columns), categories.csv
(precision, recall, F per category), confusion.png, attention/*.png; and plots/evaluate/ for `dvc plots`.
"""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import csv as arrow_csv

from atlas_model.attention import overlay
from atlas_model.categorizer import Categorizer, load_categorizer, load_classifier
from atlas_model.dataset import Split, load_split, load_taxonomy_json
from atlas_model.device import choose_device
from atlas_model.engines import accelerate
from atlas_model.errors import CheckpointError
from atlas_model.evaluation import Evaluation, evaluate, evaluate_baseline
from atlas_model.files import replacing, replacing_folder
from atlas_model.metrics import category_scores, confusion
from atlas_model.params import Params
from atlas_model.plots import confusion_plot
from atlas_model.progress import track
from atlas_model.records import PREDICTIONS, write_table
from atlas_model.taxonomy import Taxonomy
from flows.stages.entry import main, write_metrics
from flows.stages.paths import BASELINE, CATEGORIZER, EVALUATION, PLOTS, SPLITS, TAXONOMY, WORK

CSV_COLUMNS = ["actual_category", "file_name", "predicted_category", "split_value"]  # the original project's
CATEGORY_COLUMNS = ["split", "category", "precision", "recall", "f1", "n"]


def run(params: Params) -> None:
    """Evaluate both models."""
    given = params.evaluate
    device = choose_device(given.device)
    taxonomy = load_taxonomy_json(TAXONOMY)
    splits = {name: load_split(SPLITS, name, taxonomy, WORK / "pixels") for name in ("train", "val", "test")}
    model, _ = load_categorizer(CATEGORIZER, device)
    baseline, _ = load_classifier(BASELINE, device)
    _check_same_taxonomy(model.taxonomy, taxonomy)
    for trained in (model, baseline):
        accelerate(trained, given.engine, pixels=splits["test"].pixels.shape[1:], cache=WORK / "engines")
    generator = np.random.default_rng(given.seed)
    evaluations = {}
    for name, split in splits.items():
        rows = np.arange(len(split))
        if name == "train":
            rows = np.sort(generator.permutation(rows)[: given.train_sample])
        evaluations[name] = evaluate(
            model,
            split,
            rows,
            beam=given.beam,
            length_normalization=given.length_normalization,
            batch_size=given.batch_size,
            device=device,
        )
    metrics: dict[str, Any] = {name: evaluation.figures for name, evaluation in evaluations.items()}
    test = evaluations["test"]
    metrics["baseline"] = {
        "test": evaluate_baseline(baseline, splits["test"], batch_size=given.batch_size, device=device)
    }
    with replacing_folder(EVALUATION) as folder:
        _write_predictions(folder, pa.concat_tables(each.table(taxonomy) for each in evaluations.values()))
        _write_csv(folder / "categories.csv", CATEGORY_COLUMNS, _category_rows(evaluations, taxonomy))
        met, counts = confusion(test.actual, test.predicted)
        confusion_plot(_short_names(taxonomy, met), counts).save(folder / "confusion.png")
        shown = np.sort(generator.permutation(len(splits["test"]))[: given.overlays])
        _write_overlays(folder / "attention", model, splits["test"], shown, beam=given.beam, device=device)
    pairs = zip(test.actual, test.predicted, strict=True)
    _write_csv(
        PLOTS / "evaluate" / "confusion.csv",
        ["actual", "predicted"],
        ({"actual": taxonomy.labels[a], "predicted": taxonomy.labels[p]} for a, p in pairs),
    )
    write_metrics("evaluate", metrics)


def _check_same_taxonomy(model: Taxonomy, data: Taxonomy) -> None:
    if model != data:
        raise CheckpointError(
            f"{CATEGORIZER}: trained on a taxonomy of {len(model)} paths, but {TAXONOMY} has {len(data)} "
            "(or others). Train again: dvc repro train"
        )


def _short_names(taxonomy: Taxonomy, paths: np.ndarray) -> list[str]:
    """The last names of ``paths``, or all names where a last one stands in several branches."""
    times = Counter(taxonomy.paths[index][-1] for index in paths)
    return [
        taxonomy.paths[index][-1] if times[taxonomy.paths[index][-1]] == 1 else taxonomy.labels[index]
        for index in paths
    ]


def _write_predictions(folder: Path, table: pa.Table) -> None:
    write_table(folder / "predictions.parquet", table, PREDICTIONS)
    arrow_csv.write_csv(table.select(CSV_COLUMNS), folder / "predictions.csv")


def _category_rows(evaluations: dict[str, Evaluation], taxonomy: Taxonomy) -> Iterable[dict[str, Any]]:
    for name, evaluation in evaluations.items():
        for scores in category_scores(evaluation.actual, evaluation.predicted, taxonomy):
            yield {"split": name, **scores}


def _write_overlays(
    folder: Path, model: Categorizer, split: Split, rows: np.ndarray, *, beam: int, device: torch.device
) -> None:
    folder.mkdir()
    if not len(rows):
        return
    with torch.inference_mode():
        found = model.search(split.pictures(rows, device), beam=beam)
    for row, path, attention in track(
        zip(rows, found.path[:, 0].tolist(), found.attention[:, 0].cpu().numpy(), strict=True),
        "evaluate attention",
        len(rows),
        "pictures",
    ):
        names = model.taxonomy.paths[path]
        right = path == split.paths[row]
        title = "right" if right else f"wrong: is {model.taxonomy.labels[split.paths[row]]}"
        pixels = split.pixels[row]
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        image = overlay(picture, names, attention, title=title)
        image.save(folder / f"{split.image_ids[row][:16]}.png")


def _write_csv(path: Path, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(run)
