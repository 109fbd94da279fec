"""The pictures are drawn whatever the figures are; what is looked at is their choice and that something is there."""

import numpy as np
import pytest
from PIL import Image

from atlas_model.plots import abstention_plot, confusion_plot, most_confused, reliability_plot


def is_drawn(image: Image.Image) -> bool:
    return len(image.getcolors(maxcolors=2**24) or []) > 10


def test_the_most_confused_are_those_with_mistakes_in_row_or_column() -> None:
    counts = np.diag([9, 9, 9, 9])
    counts[0, 3] = counts[1, 3] = 1
    assert most_confused(counts, 1).tolist() == [3]
    assert most_confused(counts, 2).tolist() == [0, 3], "the first of equals"
    assert most_confused(counts, 9).tolist() == [0, 1, 2, 3]


def test_a_confusion_of_many_categories_stays_a_picture_of_a_few() -> None:
    few, many = (confusion_plot([f"category {n}" for n in range(count)], np.eye(count, dtype=int)) for count in (3, 45))
    assert is_drawn(few)
    assert few.width < many.width <= 2500


@pytest.mark.parametrize("n", [1, 10_000])
def test_reliability(n: int) -> None:
    rows = [{"confidence": 0.0, "accuracy": 0.0, "n": 1}, {"confidence": 0.9, "accuracy": 0.8, "n": n}]
    assert is_drawn(reliability_plot({"many": rows, "one": rows[:1], "none": []}))


def test_abstention_where_nobody_answers_any_more() -> None:
    answered = {"min_confidence": 0.0, "accuracy": 0.5, "coverage_1": 1.0, "coverage_2": 1.0}
    nobody = {"min_confidence": 0.99, "accuracy": None, "coverage_1": 0.0, "coverage_2": None}
    assert is_drawn(abstention_plot([answered, nobody]))
