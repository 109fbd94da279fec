"""The predictions on the test split, and what follows from them: risk at each coverage, a fingerprint of the images."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas_model.data.schemas import PREDICTIONS, read_table

POINTS = 60  # at most, of the curve


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image of the test split."""

    image_id: str
    actual: str  # "A > B > C"
    predicted: str
    probability: float

    @property
    def right(self) -> bool:
        """Whether the whole path is correct."""
        return self.actual == self.predicted


@dataclass(frozen=True)
class RiskPoint:
    """What would be wrong if only the most certain predictions were accepted."""

    coverage: float  # share of the images that are accepted
    risk: float  # share of these whose path is wrong
    threshold: float  # least probability of these


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions on the test split in ``path`` (`schemas.PREDICTIONS`), sorted by image.

    Raises:
        MissingError: there is no such file.
        InputError: it is not such a table.
    """
    names = ["file_name", "actual_category", "predicted_category", "log_probability", "split_value"]
    rows = zip(*read_table(path, PREDICTIONS, "evaluate", names).to_pydict().values(), strict=True)
    found = [
        Prediction(image_id, actual, predicted, math.exp(log_p))
        for image_id, actual, predicted, log_p, split in rows
        if split == "test"
    ]
    return sorted(found, key=lambda each: each.image_id)


def fingerprint(predictions: Sequence[Prediction]) -> str:
    """SHA-256 of the images and their right categories, hex: equal if two models were tested on the same images."""
    digest = hashlib.sha256()
    for each in sorted(predictions, key=lambda one: one.image_id):
        digest.update(f"{each.image_id}\0{each.actual}\n".encode())
    return digest.hexdigest()


def risk_coverage(predictions: Sequence[Prediction]) -> list[RiskPoint]:
    """The risk-coverage curve (El-Yaniv and Wiener 2010) of whole paths, at no more than `POINTS` coverages."""
    ranked = sorted(predictions, key=lambda each: (-each.probability, each.image_id))
    wanted = {max(1, round(len(ranked) * step / POINTS)) for step in range(1, POINTS + 1)} if ranked else set()
    points, wrong = [], 0
    for accepted, each in enumerate(ranked, start=1):
        wrong += not each.right
        if accepted in wanted:
            points.append(RiskPoint(accepted / len(ranked), wrong / accepted, each.probability))
    return points
