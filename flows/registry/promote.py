"""Promotes the last trained model (the challenger) to champion if it is non-inferior.

Both models predict today's validation split as `atlas predict` does; `atlas_model.evaluate.promotion` compares them. A
product stays in its split from crawl to crawl (except for a few whose group of near-duplicates gets a new first
member), so the champion was not trained on the validation split, as long as the parameters of the split are the same;
if they have changed, the reason says so. The decision is written to ``reports/promote/<champion>..<challenger>.json``
and ``.md`` (with the first digits of their hashes), and read from there while nothing has changed, because the flow
runs this step every time.
"""

import json
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_model.core.errors import CheckpointError, MissingError
from atlas_model.core.files import write_json, write_text
from atlas_model.core.params import Params
from flows.dvc import repo
from flows.paths import CATEGORIZER, CHAMPION, EVALUATION, SHARDS, SPLITS, TAXONOMY, WORK
from flows.registry import champion
from flows.registry.champion import AcceptedMetrics, Event
from flows.registry.model_folders import locked_model
from flows.report.facts.accepted import hash_of_weights
from flows.report.facts.predictions import fingerprint, read_predictions
from flows.stages.entry import read_metrics
from flows.text import in_markdown

if TYPE_CHECKING:
    import numpy as np
    import torch

    from atlas_model.data.dataset import Split
    from atlas_model.data.images import Preprocessing
    from atlas_model.evaluate.promotion import PromotionDecision
    from atlas_model.model.categorizer import Categorizer
    from atlas_model.taxonomy.tree import Taxonomy

REPORTS = Path("reports/promote")
SPLIT_KEYS = {  # decide which products are in the validation split; the last two by grouping products
    "val_share", "test_share", "respect_hint", "seed", "near_duplicate_distance", "min_side", "max_products_per_image",
}  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """The outcome of a promotion."""

    promoted: bool  # the challenger has become the champion
    changed: bool  # False: the challenger was the champion already
    version: int  # of the champion after the decision
    reason: str  # one line
    markdown: str  # the reason with the metrics, for a report
    replaced: int | None = None  # the version that was the champion before; None: there was none
    change: float | None = None  # of micro F, from that version to the challenger, on the validation split
    figures: dict[str, float] = field(default_factory=dict)  # of the challenger, on the validation split

    @property
    def accepted(self) -> bool:
        """Whether the challenger is the champion now; only then is the run committed as a version."""
        return self.promoted or not self.changed


@dataclass(frozen=True)
class Judgement:
    """The result of the comparison."""

    accepted: bool
    reason: str
    table: str = ""  # markdown
    figures: dict[str, float] = field(default_factory=dict)
    change: float | None = None  # of the first figure, from the champion to the challenger


@dataclass(frozen=True)
class ModelPredictions:
    """The predictions of a model on the validation split."""

    images: list[str]  # a label per image
    with_titles: list[str]  # a label per image and title; equal to ``images`` if the model reads no titles
    reads_titles: bool
    products: dict[str, str]  # a label per product, from all its images
    knows: set[str]  # all labels of its taxonomy


def promote(params: Params, *, force: bool = False) -> Decision:
    """Make the challenger the champion if it is non-inferior.

    Args:
        params: the sections ``promote``, ``split`` and ``evaluate``.
        force: promote it without the comparison, also if the champion's folder is damaged.

    Raises:
        InputError: no model was trained yet, or the champion's folder is damaged and ``force`` is not set.
        AtlasError: another promotion is running.
    """
    if not CATEGORIZER.is_dir():
        raise MissingError(f"{CATEGORIZER}: expected a trained model, got none. Train one: dvc repro train")
    with champion.exclusive_change():
        history = champion.read_history()
        if not force:
            champion.repair(history)
        challenger = repo.add_to_cache(CATEGORIZER)
        current = history[-1] if history else None
        if current is not None and current.model == challenger:
            if force:  # the folder may be damaged
                champion.set_champion(history[:-1], current)
            reason = f"the model is the champion already, version {current.version}"
            return Decision(False, False, current.version, reason, f"{reason[0].upper()}{reason[1:]}.\n")
        judgement = _judge(params, history, challenger, force=force)
        version = current.version if current else 0
        if judgement.accepted:
            version = max((event.version for event in history), default=0) + 1
            champion.set_champion(
                history,
                Event(
                    version=version,
                    model=challenger,
                    at=champion.now(),
                    reason=judgement.reason,
                    figures=judgement.figures,
                    replaced=current.version if current else None,
                    rollback=False,
                    split=_split_rule(params),
                    test=_test_metrics(challenger),
                ),
            )
        verdict = f"promoted to version {version}" if judgement.accepted else f"not promoted: version {version} stays"
        markdown = f"**{verdict[0].upper()}{verdict[1:]}**: {in_markdown(judgement.reason)}\n\n{judgement.table}"
        write_text(_report(current, challenger).with_suffix(".md"), markdown)
        return Decision(
            judgement.accepted,
            True,
            version,
            f"{verdict}: {judgement.reason}",
            markdown,
            replaced=current.version if current else None,
            change=judgement.change,
            figures=judgement.figures,
        )


def _test_metrics(challenger: str) -> AcceptedMetrics | None:
    """The metrics of the challenger on the test split; None if the last evaluation is not one of this model."""
    metrics = read_metrics("evaluate").get("test") or {}
    predictions = EVALUATION / "predictions.parquet"
    if locked_model("evaluate") != challenger or not predictions.is_file() or not metrics.get("n"):
        return None
    names = ("micro_f1", "macro_f1", "hierarchical_f1", "ece")
    products = metrics.get("products") or {}
    return AcceptedMetrics(
        weights=hash_of_weights(CATEGORIZER),
        images=fingerprint(read_predictions(predictions)),
        n=metrics["n"],
        **{name: metrics.get(name) for name in names},
        intervals={name: ends for name, ends in (metrics.get("intervals") or {}).items() if name in names},
        products={
            "micro_f1": products.get("micro_f1"),
            "intervals": {"micro_f1": (products.get("intervals") or {}).get("micro_f1")},
        },
    )


def _judge(params: Params, history: list[Event], challenger: str, *, force: bool) -> Judgement:
    if not history or force:
        _load(CATEGORIZER, params)  # raises if it cannot predict
        return Judgement(True, f"forced by hand, against version {history[-1].version}" if history else "the first one")
    unwanted = champion.rolled_back_models(history)
    if challenger in unwanted:
        return Judgement(
            False, f"it is version {unwanted[challenger]}, which was rolled back; `atlas promote --force` promotes it"
        )
    current = history[-1]
    given = {
        "champion": current.model,
        "challenger": challenger,
        "splits": repo.content_hash(SPLITS),
        "split": _split_rule(params),
        "promote": params.promote.model_dump(),
        "beam": params.evaluate.beam,
        "levels": "images, with titles, and products",  # a comparison without all of these is repeated
    }
    report = _report(current, challenger)
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(report.read_text(encoding="utf-8"))
        if known.pop("given") == given:
            return Judgement(**known)
    judgement = _compare(params, current)
    write_json(report, {"given": given, **asdict(judgement)})
    return judgement


def _compare(params: Params, current: Event) -> Judgement:
    """Predict with one model after the other, and compare the metrics."""
    from atlas_model.data.dataset import load_split, load_taxonomy_json
    from atlas_model.evaluate.promotion import ProductPredictions, compare_models

    taxonomy = load_taxonomy_json(TAXONOMY)
    split = load_split(SPLITS, "val", taxonomy, WORK / "pixels")
    found = [_predictions(folder, split, taxonomy, params) for folder in (CHAMPION, CATEGORIZER)]
    of_products = [each.products for each in found]
    known_to_both = set(taxonomy.labels) & found[0].knows & found[1].knows
    actual = [taxonomy.labels[path] for path in split.paths]
    right = dict(zip(split.product_ids, actual, strict=True))
    both = [product for product in of_products[0] if product in of_products[1]]
    verdict = compare_models(
        actual,
        found[0].images,
        found[1].images,
        split.product_ids,
        of_products=ProductPredictions(
            [right[each] for each in both],
            [of_products[0][each] for each in both],
            [of_products[1][each] for each in both],
        ),
        with_titles=(found[0].with_titles, found[1].with_titles) if any(each.reads_titles for each in found) else None,
        known=known_to_both,
        **params.promote.model_dump(),
    )
    reason = f"against version {current.version} {verdict.reason}"
    if current.split != _split_rule(params):
        reason += (
            f". The parameters of the split have changed since version {current.version}: it may have been trained on "
            "some of these images, which raises its metrics"
        )
    figures = {c.figure: c.challenger for c in verdict.comparisons[:1]}
    change = next((c.challenger - c.champion for c in verdict.comparisons), None)
    return Judgement(verdict.accepted, reason, _table(verdict), figures, change)


def _table(verdict: "PromotionDecision") -> str:
    """The comparisons in markdown."""
    rows = [
        "| figure | images or products | champion | challenger | difference | 95 % interval | margin | |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for c in verdict.comparisons:
        cells = [in_markdown(c.figure), f"{c.count}", f"{c.champion:.4f}", f"{c.challenger:.4f}"]
        interval = f"{c.interval[0]:+.4f} to {c.interval[1]:+.4f}".replace(" ", "\N{NO-BREAK SPACE}")
        cells += [f"{c.challenger - c.champion:+.4f}", interval, f"{c.margin:g}"]
        rows.append(f"| {' | '.join([*cells, 'passed' if c.passed else '**failed**'])} |")
    return "\n".join([*rows, ""])


def _predictions(folder: Path, split: "Split", taxonomy: "Taxonomy", params: Params) -> ModelPredictions:
    """The predictions of the model in ``folder``.

    Products of several images are predicted from all of them by exact search: as many products as
    ``evaluate.exact_nodes`` allows, sampled with ``evaluate.seed``. For products of one image, the prediction of the
    image is used.
    """
    import numpy as np

    from atlas_model.confidence.products import whole_products
    from atlas_model.core.progress import Progress
    from atlas_model.inference.predictor import Predictor
    from atlas_model.taxonomy.tree import SEPARATOR

    model, preprocessing, device = _load(folder, params)
    predictor, pixels = Predictor(model, preprocessing, device), _pixels(split, preprocessing, taxonomy)
    given, times = params.evaluate, Counter(split.product_ids)
    several = np.array([times[product] > 1 for product in split.product_ids])
    ids = [product for product in split.product_ids if times[product] > 1]
    pooled = np.zeros(len(split), dtype=np.bool_)
    pooled[several] = whole_products(ids, given.exact_nodes // predictor.nodes, given.seed)
    pools = {split.product_ids[row]: predictor.pool() for row in np.flatnonzero(pooled)}
    images: list[str] = []
    with_titles: list[str] = []
    with Progress(f"promote: predictions of {folder.name}", len(split), "images") as progress:
        for start in range(0, len(split), given.batch_size):
            rows = slice(start, start + given.batch_size)
            batch = np.array(pixels[rows])  # torch does not accept a read-only memory map
            images += [SEPARATOR.join(best.path) for (best,) in predictor.predict_prepared(batch, given.beam)]
            if predictor.reads_titles:
                found = predictor.predict_prepared(batch, given.beam, titles=split.titles[rows])
                with_titles += [SEPARATOR.join(best.path) for (best,) in found]
            if pooled[rows].any():
                log_p = predictor.distribution(batch[pooled[rows]])
                for row, of_image in zip(np.flatnonzero(pooled[rows]), log_p, strict=True):
                    pools[split.product_ids[start + row]].add(of_image[None])
            progress.advance(len(batch))
    # A category that was renamed since the training of the model has the same key; it is compared by today's name.
    today = dict(zip(taxonomy.key_labels, taxonomy.labels, strict=True))
    pairs = zip(model.taxonomy.labels, model.taxonomy.key_labels, strict=True)
    name_of = {label: today.get(key, label) for label, key in pairs}
    images, with_titles = ([name_of[label] for label in found] for found in (images, with_titles))
    products = {product: label for product, label in zip(split.product_ids, images, strict=True) if times[product] == 1}
    for product, pool in pools.items():
        products[product] = name_of[model.taxonomy.labels[pool.path]]
    reads = predictor.reads_titles
    return ModelPredictions(images, with_titles if reads else images, reads, products, set(name_of.values()))


def _load(folder: Path, params: Params) -> tuple["Categorizer", "Preprocessing", "torch.device"]:
    from atlas_model.core.device import choose_device
    from atlas_model.model.saved_models import load_categorizer

    device = choose_device(params.evaluate.device)
    try:
        return *load_categorizer(folder, device), device
    except CheckpointError as error:
        if folder != CHAMPION:
            raise
        raise CheckpointError(
            f"the champion cannot be used for a comparison: {error} `atlas promote --force` makes the last trained "
            "model the champion."
        ) from error


def _pixels(split: "Split", preprocessing: "Preprocessing", taxonomy: "Taxonomy") -> "np.ndarray":
    """The images of ``split`` in the preprocessing of a model.

    The champion may have been trained on images of another size than the stored ones. Enlarging the stored ones would
    put it at a disadvantage, so the images are preprocessed again from the original files.
    """
    if preprocessing == split.preprocessing:
        return split.pixels
    from atlas_model.data.dataset import load_split
    from atlas_model.split.files import read_columns, write_split_files

    columns = ["image_id", "product_id", "title", "taxonomy", "label", "split"]
    rows = read_columns(SPLITS, [split.name], columns).to_pylist()
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        write_split_files(Path(folder), SHARDS, rows, preprocessing)
        again = load_split(Path(folder), split.name, taxonomy, WORK / "promote")
    assert again.image_ids == split.image_ids, "both are sorted by it"
    return again.pixels


def _split_rule(params: Params) -> dict[str, Any]:
    return params.split.model_dump(include=SPLIT_KEYS)


def _report(current: Event | None, challenger: str) -> Path:
    return REPORTS / f"{current.model[:8] if current else 'none'}..{challenger[:8]}.json"
