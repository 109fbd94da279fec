"""Guaranteed accuracies of a trained model: for each, the thresholds of `risk_control`, saved in its description.

They are computed on the validation split, which also selected the epoch and the temperature, so the model may be
slightly better there than on new images. The stage `evaluate` checks the guarantees on the test split.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from atlas_model.confidence.calibration import descend
from atlas_model.confidence.products import ProductPool, rows_of_products, whole_products
from atlas_model.confidence.risk_control import (
    ACCURACIES,
    RISK,
    SEED,
    HeldOutItems,
    Subject,
    Thresholds,
    apply_thresholds,
    find_thresholds,
    min_held_out,
    sample_one_per_product,
    simulate_resplits,
)
from atlas_model.core.checkpoint import read_description
from atlas_model.core.errors import CheckpointError, InputError
from atlas_model.data.titles import Modality
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.evidence import ModelEvidence
from atlas_model.taxonomy.tree import Taxonomy

KEY = "guarantees"  # of a model's description
MEASURED_ACCURACIES = (0.9, 0.95, 0.99)  # for which `guarantee_figures` are computed
RESPLITS = 100
WITH_TITLES = "with_titles"  # key of the guarantees for predictions with titles
NODES = 100_000_000  # limit of images x nodes of the taxonomy that are searched


@dataclass(frozen=True)
class Guarantee:
    """The accuracies guaranteed for images, or for products."""

    held_out: int  # number of products that it is computed from
    thresholds: dict[float, Thresholds]  # by the guaranteed accuracy, ascending

    @classmethod
    def of(cls, held_out: HeldOutItems) -> "Guarantee":
        """Find the thresholds for all of `risk_control.ACCURACIES` that can be guaranteed."""
        found = {accuracy: find_thresholds(held_out, accuracy) for accuracy in ACCURACIES}
        return cls(len(held_out), {accuracy: each for accuracy, each in found.items() if each is not None})

    def at(self, accuracy: float, what: str) -> tuple[float, Thresholds]:
        """The smallest guaranteed accuracy of at least ``accuracy``, and its thresholds; ``what`` is for the error.

        Raises:
            InputError: there is none.
        """
        found = [each for each in self.thresholds if each >= accuracy]
        if found:
            return found[0], self.thresholds[found[0]]
        why = f"it has {self.held_out} held-out products"
        least = min_held_out(accuracy)
        if least > self.held_out:
            why += f", and {accuracy:g} needs at least {least}"
        most = f"at most {max(self.thresholds):g}" if self.thresholds else "no accuracy at all"
        raise InputError(
            f"--accuracy {accuracy:g}: expected an accuracy that this model guarantees for {what}, which is {most}: "
            f"{why}. Request less, use --min-confidence, which has no guarantee, or train with more products"
        )

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, in columns."""
        return {
            "held_out": self.held_out,
            "accuracy": list(self.thresholds),
            "whole": [each.whole for each in self.thresholds.values()],
            "shorter": [each.shorter for each in self.thresholds.values()],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Guarantee":
        """Read what `to_json` returned.

        Raises:
            ValueError, TypeError, KeyError: the value has another form.
        """
        columns = zip(value["accuracy"], value["whole"], value["shorter"], strict=True)
        found = {
            _share(accuracy): Thresholds(None if whole is None else _share(whole), _share(shorter))
            for accuracy, whole, shorter in columns
        }
        if not isinstance(value["held_out"], int) or list(found) != sorted(found):
            raise ValueError("expected a count, and accuracies in ascending order")
        return cls(value["held_out"], found)


@dataclass(frozen=True)
class Guarantees:
    """The guarantees of a model for single images, and for products predicted from all their images."""

    images: Guarantee
    products: Guarantee

    def for_subject(self, subject: Subject) -> Guarantee:
        """The guarantee for images or for products."""
        return self.images if subject == "images" else self.products

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, which `load_guarantees` reads."""
        return {"risk": RISK, "images": self.images.to_json(), "products": self.products.to_json()}


def rows_for_guarantees(product_ids: Sequence[str], taxonomy: Taxonomy) -> Int[np.ndarray, "n"]:
    """The rows for `find_guarantees`, product after product: all, or a sample of products within `NODES`."""
    chosen = np.flatnonzero(whole_products(product_ids, NODES // len(taxonomy.trie.path), SEED)).tolist()
    _, _, rows = rows_of_products([product_ids[row] for row in chosen])
    return np.array(chosen, dtype=np.int64)[np.concatenate(rows)] if rows else np.empty(0, dtype=np.int64)


@torch.inference_mode()
def find_guarantees(
    model: Categorizer,
    evidence: Iterable[ModelEvidence],
    paths: Int[np.ndarray, "n"],
    product_ids: Sequence[str],
) -> Guarantees:
    """Compute the guarantees of ``model``.

    Args:
        model: trained, with its temperature.
        evidence: of the held-out images, their titles, or both, in batches.
        paths: the right one of each image.
        product_ids: of each image; the images of a product are adjacent.
    """
    model.eval()
    trie = model.taxonomy.trie
    found: list[HeldOutItems] = []  # images
    products: list[HeldOutItems] = []
    pool, start = ProductPool(model.taxonomy), 0
    for batch in evidence:
        _, log_p = model.exact_cells(batch)
        end = start + len(batch)
        found.append(HeldOutItems.of(model.taxonomy, descend(trie, log_p), paths[start:end]))
        for row, of_image in enumerate(log_p.cpu().numpy(), start=start):
            pool.add(of_image[None])
            if row + 1 == len(paths) or product_ids[row + 1] != product_ids[row]:
                of_product = descend(trie, torch.from_numpy(pool.log_p[None]))
                products.append(HeldOutItems.of(model.taxonomy, of_product, paths[row + 1 - pool.images :][:1]))
                pool = ProductPool(model.taxonomy)
        start = end
    if not found:
        return Guarantees(Guarantee(0, {}), Guarantee(0, {}))
    images = HeldOutItems.concatenated(found).at(sample_one_per_product(product_ids))
    return Guarantees(Guarantee.of(images), Guarantee.of(HeldOutItems.concatenated(products)))


def guarantee_figures(
    guarantees: Guarantees | None, val: Mapping[Subject, HeldOutItems], test: Mapping[Subject, HeldOutItems], seed: int
) -> dict[str, Any]:
    """Check whether the guarantees hold.

    Args:
        guarantees: of the model, from the validation split; None if it has none.
        val: items of the validation split.
        test: items of the test split.
        seed: of the resplits.

    Returns:
        For images and products, for each of `MEASURED_ACCURACIES`: ``test``, the `ThresholdOutcome` of the test split
        with the model's thresholds, None if it does not guarantee that accuracy; ``resplits``, how often the guarantee
        would have held with other held-out products of the two splits (`risk_control.simulate_resplits`).
    """
    figures: dict[str, Any] = {}
    for subject in val:
        figures[subject] = {}
        both = HeldOutItems.concatenated([val[subject], test[subject]])
        for accuracy in MEASURED_ACCURACIES:
            own = None if guarantees is None else guarantees.for_subject(subject).thresholds.get(accuracy)
            figures[subject][f"{accuracy:g}"] = {
                "test": None if own is None else asdict(apply_thresholds(test[subject], own)),
                "resplits": simulate_resplits(both, len(val[subject]), accuracy, times=RESPLITS, seed=seed),
            }
    return figures


def load_guarantees(folder: Path, modality: Modality = "image") -> Guarantees:
    """Read the guarantees of the model in ``folder`` for a modality.

    Raises:
        CheckpointError: there is no model, it is of a version without guarantees, or it is damaged.
    """
    value = read_description(folder).get(KEY)
    if value is None:
        raise CheckpointError(
            f"{folder}: expected a model with guaranteed accuracies, got one of an earlier version without them. "
            "Train it again, or use --min-confidence, which has no guarantee"
        )
    try:
        if modality != "image":
            value = value[WITH_TITLES][modality]
        return Guarantees(*(Guarantee.from_json(value[name]) for name in ("images", "products")))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: expected thresholds for accuracies in its description, got {error}"
        ) from error


def _share(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} instead of a number from 0 to 1")
    return float(value)
