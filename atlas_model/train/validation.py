"""Validation after an epoch: share of exact paths, macro F1, and the effect of the taxonomy's constraint.

For speed it uses a beam of one, and searches without the constraint on a sample only. `evaluate.evaluation` measures
the final model.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlas_model.data.dataset import Split
from atlas_model.data.titles import Modality
from atlas_model.encoders.encoder import encode
from atlas_model.metrics.scores import macro_f1
from atlas_model.model.categorizer import Categorizer, Model, reads_titles
from atlas_model.model.evidence import ModelEvidence
from atlas_model.train.feature_cache import Activations

SAMPLE = 1000  # maximum number of images that are searched without the constraint

Examples = Split | Activations


@dataclass(frozen=True)
class ConstraintEffect:
    """Results of the same weights on the same images with and without the constraint."""

    constrained_accuracy: float  # share of exact paths with it
    free_accuracy: float  # without it
    free_invalid: float  # share of the sequences found without it that are not a path


def path_accuracies(model: Model, examples: Examples, batch_size: int, device: torch.device) -> list[float]:
    """Share of images whose best path is exactly right, and macro F1.

    For a model with a title head, followed by the same two for titles alone.
    """
    figures: list[float] = []
    for found in _best_paths(model, examples, np.arange(len(examples)), batch_size, device):
        figures += [float((found == examples.paths).mean()), macro_f1(examples.paths, found)]
    return figures


@torch.inference_mode()
def constraint_effect(
    model: Model, examples: Examples, batch_size: int, device: torch.device
) -> ConstraintEffect | None:
    """Measure an evenly spaced sample; None for models with probabilities over children.

    Their training never ruled out tokens outside the taxonomy, so search without the constraint is meaningless.
    """
    if not isinstance(model, Categorizer) or model.architecture.normalize == "children":
        return None
    rows = np.linspace(0, len(examples) - 1, min(SAMPLE, len(examples))).astype(int)
    found = _best_paths(model, examples, rows, batch_size, device)[0]
    cells = encode_batches(model, examples, rows, batch_size, device)
    written = torch.cat([model.search_cells(each, beam=1, constrained=False).tokens[:, 0] for each in cells]).cpu()
    right = torch.from_numpy(model.taxonomy.targets[examples.paths[rows]])
    valid = set(map(tuple, model.taxonomy.targets.tolist()))
    return ConstraintEffect(
        constrained_accuracy=float((found == examples.paths[rows]).mean()),
        free_accuracy=float((written == right).all(dim=1).float().mean()),
        free_invalid=sum(tuple(tokens) not in valid for tokens in written.tolist()) / len(rows),
    )


@torch.inference_mode()
def encode_batches(
    model: Model, examples: Examples, rows: Int[np.ndarray, "n"], batch_size: int, device: torch.device
) -> Iterator[Float[Tensor, "b cells d"]]:
    """Yield the cells of ``rows`` in batches, computed from cached activations or from images."""
    model.eval()
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        if isinstance(examples, Activations):
            yield model.encoder.cells(examples.read(batch, device))
        else:
            yield encode(model.encoder, examples.images(batch, device))


@torch.inference_mode()
def evidence_batches(
    model: Categorizer,
    examples: Examples,
    rows: Int[np.ndarray, "n"],
    *,
    modality: Modality,
    batch_size: int,
    device: torch.device,
) -> Iterator[ModelEvidence]:
    """Yield the search's input for ``rows`` in batches, from images, titles, or both."""
    model.eval()
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    images = (
        itertools.repeat(None) if modality == "title" else encode_batches(model, examples, rows, batch_size, device)
    )
    for batch, cells in zip(batches, images, strict=False):
        yield model.evidence(cells, None if modality == "image" else [examples.titles[row] for row in batch])


def _best_paths(
    model: Model, examples: Examples, rows: Int[np.ndarray, "n"], batch_size: int, device: torch.device
) -> list[Int[np.ndarray, "n"]]:
    """The best path of each image; for a model with a title head, also of each title."""
    found: list[list[Tensor]] = [[], []]
    for number, cells in enumerate(encode_batches(model, examples, rows, batch_size, device)):
        found[0].append(model.best_path_of_cells(cells))
        if isinstance(model, Categorizer) and reads_titles(model):
            batch = rows[number * batch_size : (number + 1) * batch_size]
            found[1].append(model.best_path_of_cells(model.evidence(None, [examples.titles[row] for row in batch])))
    return [torch.cat(each).cpu().numpy() for each in found if each]
