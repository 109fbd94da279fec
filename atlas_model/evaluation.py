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


Arrays = TypeVar("Arrays", "Best", Descent)


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
    taxonomy, normalize = model.taxonomy, model.architecture.normalize
    trie = DeviceTrie.of(taxonomy.trie, device)
    free_trie = DeviceTrie.free(len(taxonomy.tokens), taxonomy.depth + 1, device)
    beams = partial(beam_search, model.decoder, beam=beam, top=1, normalize=normalize)
    sample = _sample(len(rows), exact_nodes // len(taxonomy.trie.path), seed)
    answered, uncalibrated, free, exact, descents, right_log_p = [], [], [], [], [], []
    with Progress(f"evaluate {split.name}", len(rows), "pictures") as progress:
        for start in range(0, len(rows), batch_size):
            batch = slice(start, start + batch_size)
            cells = model.encoder(split.pictures(rows[batch], device))
            search = partial(beams, cells, trie, length_normalization=length_normalization)
            answered.append(Best.of(search(temperature=model.temperature)))
            uncalibrated.append(Best.of(search(temperature=1.0)))
            if normalize == "vocabulary":  # no other model has learnt what to write where nothing forbids the rest
                free.append(Best.of(beams(cells, free_trie, temperature=model.temperature)))
            found, log_p = exact_search(
                model.decoder,
                cells[torch.from_numpy(sample[batch]).to(device)],
                trie,
                top=1,
                normalize=normalize,
                temperature=model.temperature,
                length_normalization=length_normalization,
            )
            exact.append(Best.of(found))
            descents.append(descend(taxonomy.trie, log_p))
            ends = torch.from_numpy(taxonomy.trie.routes[split.paths[rows[batch]][sample[batch]]].max(axis=1))
            right_log_p.append(log_p.gather(1, ends.to(device).unsqueeze(1)).squeeze(1).cpu().numpy())
            progress.advance(len(cells))
    best, exact_best = _joined(answered), _joined(exact)
    actual = split.paths[rows]
    abstention = abstention_curve(taxonomy, actual[sample], _joined(descents), THRESHOLDS)
    figures = {
        "nll": -float(np.concatenate(right_log_p).mean()),
        "beam_equals_exact": float((best.path[sample] == exact_best.path).mean()),
        "exact_n": int(sample.sum()),
        "invalid_paths": invalid_paths(best.tokens, taxonomy),
        "unconstrained_invalid_share": None,
        "unconstrained_micro_f1": None,
        f"min_confidence_{HEADLINE_THRESHOLD}": abstention[THRESHOLDS.index(HEADLINE_THRESHOLD)],
    }
    if free:
        written = _joined(free).tokens
        figures["unconstrained_invalid_share"] = invalid_paths(written, taxonomy) / len(rows)
        figures["unconstrained_micro_f1"] = exact_paths(written, actual, taxonomy) / len(rows)
    evaluation = _evaluation(split, rows, best, _joined(uncalibrated), taxonomy, resamples=resamples, seed=seed)
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
