"""The interval of a share, compared with scipy's."""

import pytest
from scipy.stats import binomtest

from atlas_model.metrics.proportions import CONFIDENCE, score_interval


@pytest.mark.parametrize(("right", "known"), [(0, 1), (1, 1), (0, 49), (49, 49), (3, 7), (180, 200)])
def test_interval_equals_that_of_scipy(right: int, known: int) -> None:
    expected = binomtest(right, known).proportion_ci(CONFIDENCE, method="wilson")
    assert score_interval(right, known) == pytest.approx((expected.low, expected.high))
