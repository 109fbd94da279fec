"""Evaluates trained models on a split: predictions, metrics, calibration, and the effect of the taxonomy's constraint.

The sequence model is evaluated with four searches (`search_runner`). The baseline is the classifier with the same
encoder, trained on the same images in the same order for the same number of epochs, so the difference is due to the
decoder.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int

from atlas_model.confidence.calibration import (
    Descent,
    abstention_curve,
    descend,
    expected_calibration_error,
    reliability,
)
from atlas_model.confidence.products import PooledProducts, pool_products, whole_products
from atlas_model.confidence.risk_control import HeldOutItems, Subject, sample_one_per_product
from atlas_model.core.device import single_threaded_torch
from atlas_model.core.progress import Progress
from atlas_model.data.dataset import Split
from atlas_model.data.schemas import PREDICTIONS, PRODUCT_PREDICTIONS
from atlas_model.encoders.encoder import encode
from atlas_model.evaluate.search_runner import (
    CHUNK_BATCHES,
    BestPaths,
    Chunk,
    InputVariant,
    SearchOutputs,
    SearchSettings,
    StoredModel,
    concatenate,
    concatenate_searches,
    search,
    search_stored,
)
from atlas_model.metrics.bootstrap import ScoredPredictions, intervals
from atlas_model.metrics.scores import exact_paths, invalid_paths, path_scores
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.taxonomy.tree import Taxonomy

SearchedByVariant = dict[InputVariant, SearchOutputs]

THRESHOLDS = (*(step / 50 for step in range(50)), 0.99)  # minimum confidences of the abstention curve
HEADLINE_THRESHOLD = 0.9  # the one that is in the figures


@dataclass(frozen=True)
class Evaluation:
    """Predictions and figures of a model for the ``rows`` of a split."""

    split: Split
    rows: Int[np.ndarray, "n"]
    predicted: Int[np.ndarray, "n"]  # indices of paths
    log_probability: Float[np.ndarray, "n"]
    answers: ScoredPredictions
    figures: dict[str, Any]  # as in metrics/evaluate.json
    reliability: list[dict[str, float | int]]  # as in `calibration.reliability`
    uncalibrated_reliability: list[dict[str, float | int]]  # the same at temperature 1
    abstention: list[dict[str, float | None]]  # as in `calibration.abstention_curve`; empty for a classifier
    pooled: PooledProducts | None = None  # of the exactly searched products; None for a classifier
    held_out: Mapping[Subject, HeldOutItems] = field(default_factory=dict)  # of these; empty for a classifier
    embeddings: Float[np.ndarray, "n d"] | None = None  # of a sequence model given images alone

    @property
    def actual(self) -> Int[np.ndarray, "n"]:
        """Indices of the right paths."""
        paths: np.ndarray = self.split.paths[self.rows]
        return paths

    @property
    def groups(self) -> list[str]:
        """The product of each image."""
        return [self.split.product_ids[row] for row in self.rows]

    def table(self, taxonomy: Taxonomy) -> pa.Table:
        """A table with one row per image: `schemas.PREDICTIONS`."""
        rows = self.rows.tolist()
        return pa.table(
            {
                "file_name": [self.split.image_ids[row] for row in rows],
                "product_id": self.groups,
                "actual_category": [taxonomy.labels[path] for path in self.actual],
                "predicted_category": [taxonomy.labels[path] for path in self.predicted],
                "log_probability": self.log_probability,
                "split_value": [self.split.name] * len(rows),
                "category_id": [taxonomy.id_of(taxonomy.paths[path]) for path in self.predicted],
            },
            schema=PREDICTIONS,
        )

    def product_table(self, taxonomy: Taxonomy) -> pa.Table:
        """A table with one row per exactly searched product: `schemas.PRODUCT_PREDICTIONS`."""
        pooled = self.pooled
        if pooled is None:
            return PRODUCT_PREDICTIONS.empty_table()
        return pa.table(
            {
                "product_id": pooled.product_ids,
                "actual_category": [taxonomy.labels[path] for path in self.split.paths[pooled.first]],
                "predicted_category": [taxonomy.labels[path] for path in pooled.path],
                "log_probability": pooled.log_probability,
                "images": pooled.images.astype(np.int32),
                "disagree": pooled.disagree,
                "split_value": [self.split.name] * len(pooled.product_ids),
                "category_id": [taxonomy.id_of(taxonomy.paths[path]) for path in pooled.path],
            },
            schema=PRODUCT_PREDICTIONS,
        )


def evaluate(
    model: Categorizer,
    split: Split,
    rows: Int[np.ndarray, "n"],
    *,
    beam: int,
    length_normalization: float,
    exact_nodes: int,
    resamples: int,
    seed: int,
    batch_size: int,
    device: torch.device,
    parallel_map: Callable[[Callable[[Chunk], SearchedByVariant], Sequence[Chunk]], Iterable[SearchedByVariant]] = map,
    stored: StoredModel | None = None,
    input_variants: tuple[InputVariant, ...] = ("image",),
) -> dict[InputVariant, Evaluation]:
    """Evaluate the sequence model on ``rows`` (at least one), once for each of ``input_variants``.

    Args:
        model: in evaluation mode.
        split: of the images.
        rows: of the split.
        beam: hypotheses of the search.
        length_normalization: of the search.
        exact_nodes: limit of images x nodes of the taxonomy for exact search. Beyond it, a sample of the products is
            searched exactly, each with all its images.
        resamples: of the bootstrap.
        seed: of the sample and of the bootstrap.
        batch_size: images per batch.
        device: of the model.
        parallel_map: applied to the chunks like `map`, possibly in several threads or processes.
        stored: the same model and split on disk, for other processes.
        input_variants: the inputs of the model for each image; others than "image" need a model with a title head.
    """
    taxonomy, actual = model.taxonomy, split.paths[rows]
    groups = [split.product_ids[row] for row in rows]
    sample = whole_products(groups, exact_nodes // len(taxonomy.trie.path), seed)
    settings = SearchSettings(beam, length_normalization, batch_size, input_variants)
    if stored is None:
        work = partial(search, model=model, pixels=split.pixels, settings=settings, device=device)
    else:
        work = partial(search_stored, stored=stored, settings=settings)
    titles = [split.titles[row] for row in rows] if input_variants != ("image",) else []
    starts = range(0, len(rows), CHUNK_BATCHES * batch_size)
    parts = [slice(start, start + CHUNK_BATCHES * batch_size) for start in starts]
    searched: list[SearchedByVariant] = []
    with Progress(f"evaluate {split.name}", len(rows), "images") as progress, single_threaded_torch():
        for found in parallel_map(
            work, [Chunk(rows[part], actual[part], sample[part], titles[part]) for part in parts]
        ):
            searched.append(found)
            progress.advance(len(found[input_variants[0]].answers.path))
    summarize = partial(
        _summarize,
        split=split,
        rows=rows,
        sample=sample,
        taxonomy=taxonomy,
        length_normalization=length_normalization,
        resamples=resamples,
        seed=seed,
    )
    return {
        variant: summarize(concatenate_searches([found[variant] for found in searched])) for variant in input_variants
    }


def _summarize(
    searched: SearchOutputs,
    *,
    split: Split,
    rows: Int[np.ndarray, "n"],
    sample: Bool[np.ndarray, "n"],
    taxonomy: Taxonomy,
    length_normalization: float,
    resamples: int,
    seed: int,
) -> Evaluation:
    """Compute the figures of the searches of ``rows``, of which ``sample`` was searched exactly."""
    actual, groups = split.paths[rows], [split.product_ids[row] for row in rows]
    answers, free, exactly = searched.answers, searched.free, searched.exact
    assert exactly is not None, "at least one image is searched exactly"
    evaluation = _evaluation(split, rows, answers, searched.uncalibrated, taxonomy, resamples=resamples, seed=seed)
    descent = Descent(exactly.node, exactly.node_probability)
    abstention = abstention_curve(taxonomy, actual[sample], descent, THRESHOLDS)
    figures = {
        "nll": -float(exactly.right_log_probability.mean()),
        "beam_equals_exact": float((evaluation.predicted[sample] == exactly.path).mean()),
        "exact_n": len(exactly.path),
        "invalid_paths": invalid_paths(answers.tokens, taxonomy),
        "unconstrained_invalid_share": invalid_paths(free.tokens, taxonomy) / len(rows) if free else None,
        "unconstrained_micro_f1": exact_paths(free.tokens, actual, taxonomy) / len(rows) if free else None,
        f"min_confidence_{HEADLINE_THRESHOLD}": abstention[THRESHOLDS.index(HEADLINE_THRESHOLD)],
    }
    chosen = np.flatnonzero(sample)
    pooled = pool_products(taxonomy, exactly.log_p, [groups[row] for row in chosen], length_normalization)
    pooled = replace(pooled, first=rows[chosen[pooled.first]])  # of the split
    figures["products"] = product_figures(pooled, split.paths[pooled.first], taxonomy, resamples=resamples, seed=seed)
    of_image = HeldOutItems.of(taxonomy, descent, actual[sample]).at(
        sample_one_per_product([groups[row] for row in chosen])
    )
    of_product = HeldOutItems.of(
        taxonomy, descend(taxonomy.trie, torch.from_numpy(pooled.log_p)), split.paths[pooled.first]
    )
    return replace(
        evaluation,
        figures=evaluation.figures | figures,
        abstention=abstention,
        pooled=pooled,
        held_out={"images": of_image, "products": of_product},
        embeddings=searched.embeddings,
    )


def product_figures(
    pooled: PooledProducts, actual: Int[np.ndarray, "p"], taxonomy: Taxonomy, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Figures of the predictions for products, each from all its images.

    Returns:
        ``micro_f1``, ``macro_f1``, ``ece``, ``n`` as for images; ``intervals`` of the first three;
        ``several_images``: share of the products with more than one image; ``disagree``: share of those for which the
        best path of some image is not the product's, None if there are none.
    """
    confidence = np.exp(pooled.log_probability)
    answers = ScoredPredictions.of(actual, pooled.path, confidence, taxonomy)
    scores, several = path_scores(actual, pooled.path, taxonomy), pooled.images > 1
    around = intervals(answers, pooled.product_ids, resamples=resamples, seed=seed)
    return {
        "micro_f1": scores["micro_f1"],
        "macro_f1": scores["macro_f1"],
        "ece": expected_calibration_error(confidence, answers.right),
        "intervals": {name: around[name] for name in ("micro_f1", "macro_f1", "ece")},
        "n": len(actual),
        "several_images": float(several.mean()),
        "disagree": float(pooled.disagree[several].mean()) if several.any() else None,
    }


@torch.inference_mode()
def evaluate_baseline(
    model: Classifier, split: Split, *, resamples: int, seed: int, batch_size: int, device: torch.device
) -> Evaluation:
    """Evaluate the classifier on the whole split; arguments as in `evaluate`."""
    answered, uncalibrated, right_log_p = [], [], []
    for rows in np.array_split(np.arange(len(split)), np.arange(batch_size, len(split), batch_size)):
        logits = model.logits_of_cells(encode(model.encoder, split.images(rows, device))).float()
        log_p = (logits / model.temperature).log_softmax(dim=1)
        answered.append(BestPaths.of_paths(log_p))
        uncalibrated.append(BestPaths.of_paths(logits.log_softmax(dim=1)))
        right_log_p.append(log_p.cpu().numpy()[np.arange(len(rows)), split.paths[rows]])
    evaluation = _evaluation(
        split,
        np.arange(len(split)),
        concatenate(answered),
        concatenate(uncalibrated),
        model.taxonomy,
        resamples=resamples,
        seed=seed,
    )
    return replace(evaluation, figures=evaluation.figures | {"nll": -float(np.concatenate(right_log_p).mean())})


def _evaluation(
    split: Split,
    rows: Int[np.ndarray, "n"],
    best: BestPaths,
    uncalibrated: BestPaths,
    taxonomy: Taxonomy,
    *,
    resamples: int,
    seed: int,
) -> Evaluation:
    """The figures that exist for any model."""
    actual, confidence = split.paths[rows], np.exp(best.log_probability)
    right, confidence_before = actual == best.path, np.exp(uncalibrated.log_probability)
    right_before = actual == uncalibrated.path
    answers = ScoredPredictions.of(actual, best.path, confidence, taxonomy)
    evaluation = Evaluation(
        split=split,
        rows=rows,
        predicted=best.path,
        log_probability=best.log_probability,
        answers=answers,
        figures=path_scores(actual, best.path, taxonomy),
        reliability=reliability(confidence, right),
        uncalibrated_reliability=reliability(confidence_before, right_before),
        abstention=[],
    )
    evaluation.figures.update(
        ece=expected_calibration_error(confidence, right),
        ece_uncalibrated=expected_calibration_error(confidence_before, right_before),
        intervals=intervals(answers, evaluation.groups, resamples=resamples, seed=seed),
    )
    return evaluation
