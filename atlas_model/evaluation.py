"""Measuring trained models on a split: what they answer, how right and how honest that is, what the constraint does.

Every picture is encoded once and searched several times with the same weights: as in prediction; at temperature 1,
for what calibration does; free of any mask, for what the taxonomy does; and exactly, for what the beam loses and how
probable each node of the tree is. The baseline is the plain classifier of the same encoder, trained on the same
pictures in the same order for as many epochs: what is different is the decoder's merit, or its fault.

Knows nothing of where the figures go.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from atlas_model.calibration import (
    Descent,
    abstention_curve,
    descend,
    expected_calibration_error,
    reliability,
)
from atlas_model.categorizer import Categorizer, Classifier
from atlas_model.dataset import Split
from atlas_model.exact_search import exact_search
from atlas_model.intervals import Answers, intervals
from atlas_model.metrics import exact_paths, invalid_paths, path_scores
from atlas_model.progress import Progress
from atlas_model.records import PREDICTIONS
from atlas_model.search import DeviceTrie, Found, beam_search
from atlas_model.taxonomy import Taxonomy

THRESHOLDS = (*(step / 50 for step in range(50)), 0.99)  # least confidences of the abstention curve
HEADLINE_THRESHOLD = 0.9  # the one of them that is among the figures


Arrays = TypeVar("Arrays", "Best", "Exact")


@dataclass(frozen=True)
class Best:
    """The best path of each picture."""

    path: Int[np.ndarray, "n"]
    log_probability: Float[np.ndarray, "n"]
    tokens: Int[np.ndarray, "n t"]

    @classmethod
    def of(cls, found: Found) -> "Best":
        """The first of those found."""
        return cls(*(each[:, 0].cpu().numpy() for each in (found.path, found.log_probability, found.tokens)))

    @classmethod
    def of_paths(cls, log_p: Float[Tensor, "b paths"]) -> "Best":
        """The most probable path, which nobody wrote."""
        best, path = log_p.max(dim=1)
        return cls(path.cpu().numpy(), best.cpu().numpy(), np.empty((len(log_p), 0), dtype=np.int64))


@dataclass(frozen=True)
class Exact:
    """What only exact search can say of each picture."""

    path: Int[np.ndarray, "n"]
    right_log_probability: Float[np.ndarray, "n"]  # of the right path
    node: Int[np.ndarray, "n levels"]  # with the next as in `calibration.Descent`
    node_probability: Float[np.ndarray, "n levels"]

    @classmethod
    def of(
        cls, found: Found, log_p: Float[Tensor, "n nodes"], actual: Int[np.ndarray, "n"], taxonomy: Taxonomy
    ) -> "Exact":
        """Of the search's results and the right paths."""
        ends = torch.from_numpy(taxonomy.trie.routes[actual].max(axis=1)).to(log_p.device)
        right = log_p.gather(1, ends.unsqueeze(1)).squeeze(1)
        descent = descend(taxonomy.trie, log_p)
        return cls(found.path[:, 0].cpu().numpy(), right.cpu().numpy(), descent.node, descent.probability)


@dataclass(frozen=True)
class Evaluation:
    """What a model answered for the ``rows`` of a split."""

    split: Split
    rows: Int[np.ndarray, "n"]
    predicted: Int[np.ndarray, "n"]  # indices of paths
    log_probability: Float[np.ndarray, "n"]
    answers: Answers
    figures: dict[str, Any]  # as in metrics/evaluate.json
    reliability: list[dict[str, float | int]]  # as in `calibration.reliability`
    uncalibrated_reliability: list[dict[str, float | int]]  # the same at temperature 1
    abstention: list[dict[str, float | None]]  # as in `calibration.abstention_curve`; of a classifier empty

    @property
    def actual(self) -> Int[np.ndarray, "n"]:
        """Indices of the right paths."""
        paths: np.ndarray = self.split.paths[self.rows]
        return paths

    @property
    def groups(self) -> list[str]:
        """The product of each picture."""
        return [self.split.product_ids[row] for row in self.rows]

    def table(self, taxonomy: Taxonomy) -> pa.Table:
        """One row a picture: `records.PREDICTIONS`."""
        rows = self.rows.tolist()
        return pa.table(
            {
                "file_name": [self.split.image_ids[row] for row in rows],
                "product_id": self.groups,
                "actual_category": [taxonomy.labels[path] for path in self.actual],
                "predicted_category": [taxonomy.labels[path] for path in self.predicted],
                "log_probability": self.log_probability,
                "split_value": [self.split.name] * len(rows),
            },
            schema=PREDICTIONS,
        )


@torch.inference_mode()
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
) -> Evaluation:
    """The sequence model's answers for ``rows`` (at least one), and all that there is to say about them.

    Args:
        model: in evaluation mode.
        split: where the pictures are.
        rows: which of them.
        beam: hypotheses of the search.
        length_normalization: of the search.
        exact_nodes: pictures x nodes of the taxonomy that the exact search may cost; where it would cost more, a
            sample of the pictures is searched exactly.
        resamples: of the bootstrap.
        seed: of the sample and of the bootstrap.
        batch_size: pictures at once.
        device: where the model is.
    """
    taxonomy, actual = model.taxonomy, split.paths[rows]
    trie = DeviceTrie.of(taxonomy.trie, device)
    free_trie = DeviceTrie.free(len(taxonomy.tokens), taxonomy.depth + 1, device)
    normalize = model.architecture.normalize
    search = partial(
        beam_search, model.decoder, beam=beam, top=1, normalize=normalize, length_normalization=length_normalization
    )
    search_all = partial(exact_search, model.decoder, top=1, normalize=normalize, temperature=model.temperature)
    sample = _sample(len(rows), exact_nodes // len(taxonomy.trie.path), seed)
    answers: list[Best] = []
    uncalibrated: list[Best] = []
    free: list[Best] = []
    exact: list[Exact] = []
    with Progress(f"evaluate {split.name}", len(rows), "pictures") as progress:
        for start in range(0, len(rows), batch_size):
            batch = slice(start, start + batch_size)
            cells = model.encoder(split.pictures(rows[batch], device))
            for temperature, found in ((model.temperature, answers), (1.0, uncalibrated)):
                found.append(Best.of(search(cells, trie, temperature=temperature)))
            if normalize == "vocabulary":  # others know nothing of what nowhere can follow
                free.append(Best.of(search(cells, free_trie, temperature=model.temperature)))
            if sample[batch].any():
                chosen = cells[torch.from_numpy(sample[batch]).to(device)]
                of_chosen = search_all(chosen, trie, length_normalization=length_normalization)
                exact.append(Exact.of(*of_chosen, actual[batch][sample[batch]], taxonomy))
            progress.advance(len(cells))
    evaluation = _evaluation(
        split, rows, _joined(answers), _joined(uncalibrated), taxonomy, resamples=resamples, seed=seed
    )
    exactly = _joined(exact)
    descent = Descent(exactly.node, exactly.node_probability)
    abstention = abstention_curve(taxonomy, actual[sample], descent, THRESHOLDS)
    figures = {
        "nll": -float(exactly.right_log_probability.mean()),
        "beam_equals_exact": float((evaluation.predicted[sample] == exactly.path).mean()),
        "exact_n": len(exactly.path),
        "invalid_paths": invalid_paths(_joined(answers).tokens, taxonomy),
        "unconstrained_invalid_share": invalid_paths(_joined(free).tokens, taxonomy) / len(rows) if free else None,
        "unconstrained_micro_f1": exact_paths(_joined(free).tokens, actual, taxonomy) / len(rows) if free else None,
        f"min_confidence_{HEADLINE_THRESHOLD}": abstention[THRESHOLDS.index(HEADLINE_THRESHOLD)],
    }
    return replace(evaluation, figures=evaluation.figures | figures, abstention=abstention)


@torch.inference_mode()
def evaluate_baseline(
    model: Classifier, split: Split, *, resamples: int, seed: int, batch_size: int, device: torch.device
) -> Evaluation:
    """The plain classifier's answers on the whole split; arguments as of `evaluate`."""
    answered, uncalibrated, right_log_p = [], [], []
    for rows in np.array_split(np.arange(len(split)), np.arange(batch_size, len(split), batch_size)):
        logits = model(split.pictures(rows, device)).float()
        log_p = (logits / model.temperature).log_softmax(dim=1)
        answered.append(Best.of_paths(log_p))
        uncalibrated.append(Best.of_paths(logits.log_softmax(dim=1)))
        right_log_p.append(log_p.cpu().numpy()[np.arange(len(rows)), split.paths[rows]])
    evaluation = _evaluation(
        split,
        np.arange(len(split)),
        _joined(answered),
        _joined(uncalibrated),
        model.taxonomy,
        resamples=resamples,
        seed=seed,
    )
    return replace(evaluation, figures=evaluation.figures | {"nll": -float(np.concatenate(right_log_p).mean())})


def _evaluation(
    split: Split,
    rows: Int[np.ndarray, "n"],
    best: Best,
    uncalibrated: Best,
    taxonomy: Taxonomy,
    *,
    resamples: int,
    seed: int,
) -> Evaluation:
    """What can be said of any model's answers."""
    actual, confidence = split.paths[rows], np.exp(best.log_probability)
    right, confidence_before = actual == best.path, np.exp(uncalibrated.log_probability)
    right_before = actual == uncalibrated.path
    answers = Answers.of(actual, best.path, confidence, taxonomy)
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


def _sample(count: int, at_most: int, seed: int) -> Bool[np.ndarray, "n"]:
    """Which of ``count`` are among at most ``at_most``, and one at least."""
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[np.random.default_rng(seed).permutation(count)[: max(1, at_most)]] = True
    return chosen


def _joined(parts: Sequence[Arrays]) -> Arrays:
    """Batches of arrays, one after the other."""
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
