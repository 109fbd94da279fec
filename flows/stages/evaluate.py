"""Stage ``evaluate``: measures both models on train (a sample), val and test.

Writes to reports/evaluate/: predictions.parquet and predictions.csv (the columns of the original project),
products.parquet (a prediction per product, from all its images), categories.csv (precision, recall, F per category);
for the test split also confusion.png (and confusion_level_<n>.png for the levels above), reliability.png,
abstention.png and attention/*.png. Writes plots/evaluate/ for `dvc plots`.

reports/evaluate/metrics.json has metrics of images alone, for each split and for the baseline on test. Their keys are
defined in `atlas_model.metrics`, ``products`` in `evaluation.product_figures`, ``guarantees`` in
`guarantees.guarantee_figures`. null means unknown.

For a model that reads titles, ``modes`` has the metrics on test given the image, the title, both, and the same with
titles without the words of all category names; predictions_image_and_title.parquet has the predictions from both.

quality.parquet lists outliers and likely label errors of all images of all splits (docs/data-quality.md); ``quality``
counts them.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import csv as arrow_csv

from atlas_model.confidence.guarantees import KEY, guarantee_figures, load_guarantees
from atlas_model.confidence.products import whole_products
from atlas_model.core.checkpoint import read_description
from atlas_model.core.device import choose_device
from atlas_model.core.errors import CheckpointError
from atlas_model.core.files import replacing, replacing_folder
from atlas_model.core.params import Params
from atlas_model.core.progress import track
from atlas_model.data.csv_cells import for_cell, with_guarded_cells
from atlas_model.data.dataset import Split, load_split, load_taxonomy_json
from atlas_model.data.schemas import PREDICTIONS, PRODUCT_PREDICTIONS, write_table
from atlas_model.evaluate.embeddings import embed_split
from atlas_model.evaluate.evaluation import Evaluation, evaluate, evaluate_baseline
from atlas_model.evaluate.search_runner import InputVariant, StoredModel
from atlas_model.inference.engines import accelerate
from atlas_model.metrics.bootstrap import differences
from atlas_model.metrics.scores import categories_of_level, category_scores, confusion
from atlas_model.model.categorizer import Categorizer, reads_titles
from atlas_model.model.saved_models import load_categorizer, load_classifier
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath, Taxonomy
from atlas_model.viz.attention import overlay
from atlas_model.viz.plots import MAX_CATEGORIES, abstention_plot, confusion_plot, reliability_plot
from flows.parallel import ParallelMap, make_parallel_map
from flows.paths import BASELINE, CATEGORIZER, EVALUATION, PLOTS, SPLITS, TAXONOMY, WORK
from flows.stages.entry import main, write_metrics
from flows.stages.evaluate_quality import report_label_quality

CSV_COLUMNS = ["actual_category", "file_name", "predicted_category", "split_value"]  # the original project's
# What a model that reads titles is given beside images alone.
TITLE_VARIANTS: dict[str, tuple[InputVariant, ...]] = {
    "train": (),
    "val": ("image_and_title",),
    "test": ("title", "image_and_title", "stripped_title", "image_and_stripped_title"),
}
CATEGORY_COLUMNS = ["split", "category", "precision", "recall", "f1", "n"]


class _Common(TypedDict):
    """What both evaluations are given."""

    resamples: int
    seed: int
    batch_size: int
    device: torch.device


class _Searchers(TypedDict, total=False):
    """Who searches, as `evaluate` takes it."""

    parallel_map: ParallelMap
    stored: StoredModel


def run(params: Params) -> None:
    """Evaluate both models."""
    given = params.evaluate
    device = choose_device(given.device)
    run_parallel = make_parallel_map(params.pipeline.runner, params.pipeline.workers, "evaluate")
    taxonomy = load_taxonomy_json(TAXONOMY)
    splits = {name: load_split(SPLITS, name, taxonomy, WORK / "pixels") for name in ("train", "val", "test")}
    model, _ = load_categorizer(CATEGORIZER, device)
    baseline, _ = load_classifier(BASELINE, device)
    for folder, trained in ((CATEGORIZER, model), (BASELINE, baseline)):
        _check_same_taxonomy(folder, trained.taxonomy, taxonomy)
        accelerate(trained, given.engine, pixels=splits["test"].pixels.shape[1:], cache=WORK / "engines")
    generator = np.random.default_rng(given.seed)
    common: _Common = {
        "resamples": given.resamples,
        "seed": given.seed,
        "batch_size": given.batch_size,
        "device": device,
    }
    evaluations: dict[str, Evaluation] = {}  # of images alone
    with_titles: dict[str, dict[InputVariant, Evaluation]] = {}
    for name, split in splits.items():
        rows = np.arange(len(split))
        if name == "train":
            rows = np.flatnonzero(whole_products(split.product_ids, given.train_sample, generator))
        found = evaluate(
            model,
            split,
            rows,
            beam=given.beam,
            length_normalization=given.length_normalization,
            exact_nodes=given.exact_nodes,
            input_variants=("image", *(TITLE_VARIANTS[name] if reads_titles(model) else ())),
            **_searchers(params, run_parallel, split, device),
            **common,
        )
        evaluations[name] = found.pop("image")
        with_titles[name] = found
    test, plain = evaluations["test"], evaluate_baseline(baseline, splits["test"], **common)
    metrics: dict[str, Any] = {name: evaluation.figures for name, evaluation in evaluations.items()}
    metrics["baseline"] = {
        "test": plain.figures,
        "difference": differences(test.answers, plain.answers, test.groups, resamples=given.resamples, seed=given.seed),
    }
    guarantees = load_guarantees(CATEGORIZER) if KEY in read_description(CATEGORIZER) else None
    metrics["guarantees"] = guarantee_figures(guarantees, evaluations["val"].held_out, test.held_out, given.seed)
    if with_titles["test"]:
        metrics["modes"] = _modes(test, with_titles, resamples=given.resamples, seed=given.seed)

    def embed(split: Split, rows: np.ndarray) -> np.ndarray:
        searchers = _searchers(params, run_parallel, split, device)
        return embed_split(model, split, rows, batch_size=given.batch_size, device=device, **searchers)

    with replacing_folder(EVALUATION) as folder:
        metrics["quality"] = report_label_quality(
            folder / "quality.parquet", splits, evaluations, taxonomy, given.quality, embed=embed, seed=given.seed
        )
        _write_predictions(folder, pa.concat_tables(each.table(taxonomy) for each in evaluations.values()))
        if with_titles["test"]:
            both = (with_titles[name]["image_and_title"].table(taxonomy) for name in ("val", "test"))
            write_table(folder / "predictions_image_and_title.parquet", pa.concat_tables(both), PREDICTIONS)
        of_products = pa.concat_tables(each.product_table(taxonomy) for each in evaluations.values())
        write_table(folder / "products.parquet", of_products, PRODUCT_PREDICTIONS)
        _write_csv(folder / "categories.csv", CATEGORY_COLUMNS, _category_rows(evaluations, taxonomy))
        for level in range(1, taxonomy.depth + 1):
            name = f"confusion_level_{level}.png" if level < taxonomy.depth else "confusion.png"
            _confusion_plot(test, taxonomy, level).save(folder / name)
        reliability_plot(
            {
                "baseline": plain.reliability,
                "categorizer, temperature 1": test.uncalibrated_reliability,
                "categorizer": test.reliability,
                **{way.replace("_", " "): each.reliability for way, each in with_titles["test"].items()},
            }
        ).save(folder / "reliability.png")
        abstention_plot(test.abstention).save(folder / "abstention.png")
        shown = np.sort(generator.permutation(len(splits["test"]))[: given.overlays])
        _write_overlays(folder / "attention", model, splits["test"], shown, beam=given.beam, device=device)
    _write_plots(PLOTS / "evaluate", test, plain, taxonomy)
    headline = {
        "val": {key: metrics["val"][key] for key in ("micro_f1", "macro_f1")},
        "test": {key: metrics["test"][key] for key in ("micro_f1", "macro_f1", "ece")}
        | {"products_f1": metrics["test"]["products"]["micro_f1"]},
        "classifier_f1": plain.figures["micro_f1"],
    }
    if "modes" in metrics:
        headline["modes"] = {way: {"micro_f1": figures["micro_f1"]} for way, figures in metrics["modes"].items()}
    write_metrics("evaluate", headline, metrics)


def _modes(
    image: Evaluation, with_titles: dict[str, dict[InputVariant, Evaluation]], *, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Test metrics of a model that reads titles, for each kind of input.

    Each has ``difference``, the difference to images alone with paired intervals, and ``titled``, the share of images
    whose title has a word in it. ``guarantees`` has the guarantees for image and title together.
    """
    figures: dict[str, dict[str, Any]] = {"image": image.figures}
    for way, found in with_titles["test"].items():
        more = differences(found.answers, image.answers, image.groups, resamples=resamples, seed=seed)
        figures[way] = {**found.figures, "difference": more}
    both, description = "image_and_title", read_description(CATEGORIZER)
    promised = load_guarantees(CATEGORIZER, "image_and_title") if KEY in description else None
    val, test = (with_titles[name]["image_and_title"].held_out for name in ("val", "test"))
    figures[both]["guarantees"] = guarantee_figures(promised, val, test, seed)
    return figures


def _searchers(params: Params, run_parallel: ParallelMap, split: Split, device: torch.device) -> _Searchers:
    """Arguments of `evaluate` for a parallel search; none if the engine or the GPU of this process needs no help."""
    threads = params.pipeline.runner == "threads"
    if params.evaluate.engine != "torch" or (threads and device.type != "cpu"):
        return {}
    if threads:
        return {"parallel_map": run_parallel}
    assert isinstance(split.pixels, np.memmap) and split.pixels.filename
    return {
        "parallel_map": run_parallel,
        "stored": StoredModel(CATEGORIZER, Path(split.pixels.filename), params.evaluate.device),
    }


def _check_same_taxonomy(folder: Path, model: Taxonomy, data: Taxonomy) -> None:
    if model == data:
        return
    only = [
        f"only {whose} {sorted(labels)[0]!r}" + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")
        for whose, labels in (
            ("the model has", set(model.labels) - set(data.labels)),
            ("the data have", set(data.labels) - set(model.labels)),
        )
        if labels
    ]
    raise CheckpointError(
        f"{folder}: expected a model of the taxonomy in {TAXONOMY}, {len(data)} paths; got one of {len(model)}: "
        f"{'; '.join(only) or 'the same paths in another order'}. Train again: dvc repro train"
    )


def _confusion_plot(evaluation: Evaluation, taxonomy: Taxonomy, level: int) -> Image.Image:
    categories, of_path = categories_of_level(taxonomy, level)
    shown, counts, totals = confusion(of_path[evaluation.actual], of_path[evaluation.predicted], MAX_CATEGORIES)
    return confusion_plot(_short_names([categories[index] for index in shown]), counts, totals)


def _short_names(categories: Sequence[CategoryPath]) -> list[str]:
    """The last name of each category, or the whole path if several categories have that last name."""
    times = Counter(path[-1] for path in categories)
    return [path[-1] if times[path[-1]] == 1 else SEPARATOR.join(path) for path in categories]


def _write_plots(folder: Path, test: Evaluation, plain: Evaluation, taxonomy: Taxonomy) -> None:
    """Write the data of the plots for `dvc plots`."""
    pairs = [(taxonomy.paths[a], taxonomy.paths[p]) for a, p in zip(test.actual, test.predicted, strict=True)]
    for name, level in (("confusion", taxonomy.depth), ("confusion_level_1", 1)):
        rows = ({"actual": SEPARATOR.join(a[:level]), "predicted": SEPARATOR.join(p[:level])} for a, p in pairs)
        _write_csv(folder / f"{name}.csv", ["actual", "predicted"], rows)
    for name, curve in (("categorizer", test.reliability), ("baseline", plain.reliability)):
        _write_csv(folder / f"reliability_{name}.csv", ["confidence", "accuracy", "n"], curve)
    _write_csv(folder / "abstention.csv", list(test.abstention[0]), test.abstention)


def _write_predictions(folder: Path, table: pa.Table) -> None:
    write_table(folder / "predictions.parquet", table, PREDICTIONS)
    arrow_csv.write_csv(with_guarded_cells(table.select(CSV_COLUMNS)), folder / "predictions.csv")


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
        found = model.search(split.images(rows, device), beam=beam)
    for row, path, attention in track(
        zip(rows, found.path[:, 0].tolist(), found.attention[:, 0].cpu().numpy(), strict=True),
        "evaluate attention",
        len(rows),
        "images",
    ):
        names = model.taxonomy.paths[path]
        right = path == split.paths[row]
        title = "right" if right else f"wrong: is {model.taxonomy.labels[split.paths[row]]}"
        pixels = split.pixels[row]
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        overlaid = overlay(image, names, attention, title=title)
        overlaid.save(folder / f"{split.image_ids[row][:16]}.png")


def _write_csv(path: Path, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(
            {name: for_cell(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
        )


if __name__ == "__main__":
    main(run)
