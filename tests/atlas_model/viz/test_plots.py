"""Plots are drawn for any figures; checks the chosen data and that the plot is not blank."""

import numpy as np
import pytest
from PIL import Image

from atlas_model.viz.plots import MAX_CATEGORIES, abstention_plot, confusion_plot, reliability_plot


def is_drawn(image: Image.Image) -> bool:
    return len(image.getcolors(maxcolors=2**24) or []) > 10


@pytest.mark.parametrize("count", [1, 3, MAX_CATEGORIES])
def test_draws_confusion_matrix(count: int) -> None:
    counts = 3 * np.eye(count, dtype=int)
    image = confusion_plot([f"category {n}" for n in range(count)], counts, counts.sum(axis=1) + 1)
    assert is_drawn(image)
    assert image.width <= 2500


@pytest.mark.parametrize("n", [1, 10_000])
def test_draws_reliability_diagram(n: int) -> None:
    rows = [{"confidence": 0.0, "accuracy": 0.0, "n": 1}, {"confidence": 0.9, "accuracy": 0.8, "n": n}]
    assert is_drawn(reliability_plot({"many": rows, "one": rows[:1], "none": []}))


def test_draws_abstention_curve_without_predictions() -> None:
    answered = {"min_confidence": 0.0, "accuracy": 0.5, "coverage_1": 1.0, "coverage_2": 1.0}
    nobody = {"min_confidence": 0.99, "accuracy": None, "coverage_1": 0.0, "coverage_2": None}
    assert is_drawn(abstention_plot([answered, nobody]))
