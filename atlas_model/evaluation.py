"""Measuring a trained sequence model on a split: constrained search, unconstrained search, and what they say.

Knows nothing of where the figures go.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from atlas_model.categorizer import Categorizer, Classifier
from atlas_model.dataset import Split
from atlas_model.metrics import invalid_paths, path_scores
from atlas_model.progress import Progress
from atlas_model.records import PREDICTIONS
from atlas_model.taxonomy import Taxonomy


@dataclass(frozen=True)
class Evaluation:
    """What the model answered for the ``rows`` of a split."""

    split: Split
    rows: Int[np.ndarray, "n"]
    predicted: Int[np.ndarray, "n"]  # indices of paths
    log_probability: Float[np.ndarray, "n"]
    figures: dict[str, Any]  # as in metrics/evaluate.json

    @property
    def actual(self) -> Int[np.ndarray, "n"]:
        """Indices of the right paths."""
        paths: np.ndarray = self.split.paths[self.rows]
        return paths

    def table(self, taxonomy: Taxonomy) -> pa.Table:
        """One row a picture: `records.PREDICTIONS`."""
        rows = self.rows.tolist()
        return pa.table(
            {
                "file_name": [self.split.image_ids[row] for row in rows],
                "product_id": [self.split.product_ids[row] for row in rows],
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
    batch_size: int,
    device: torch.device,
) -> Evaluation:
    """Search each of ``rows`` twice, constrained and free of any mask, with the same weights."""
    paths, scores, written, free = [], [], [], []
    with Progress(f"evaluate {split.name}", len(rows), "pictures") as progress:
        for start in range(0, len(rows), batch_size):
            pictures = split.pictures(rows[start : start + batch_size], device)
            found = model.search(pictures, beam=beam, length_normalization=length_normalization)
            paths.append(found.path[:, 0].cpu().numpy())
            scores.append(found.log_probability[:, 0].cpu().numpy())
            written.append(found.tokens[:, 0].cpu().numpy())
            free.append(model.search(pictures, beam=beam, constrained=False).tokens[:, 0].cpu().numpy())
            progress.advance(len(pictures))
    predicted = np.concatenate(paths)
    figures = path_scores(split.paths[rows], predicted, model.taxonomy)
    figures["invalid_paths"] = invalid_paths(np.concatenate(written), model.taxonomy)
    figures["unconstrained_invalid_share"] = invalid_paths(np.concatenate(free), model.taxonomy) / len(rows)
    return Evaluation(split, rows, predicted, np.concatenate(scores), figures)


@torch.inference_mode()
def evaluate_baseline(model: Classifier, split: Split, *, batch_size: int, device: torch.device) -> dict[str, Any]:
    """The plain classifier's headline figures on the whole split."""
    found = torch.cat([model.best_path(pictures) for pictures in split.batches(batch_size, device)])
    return path_scores(split.paths, found.cpu().numpy(), model.taxonomy)
