"""The bootstrap: figures per draw, resampling of whole products, width of the intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_model.confidence.calibration import expected_calibration_error
from atlas_model.metrics.bootstrap import HEADLINES, ScoredPredictions, differences, intervals
from atlas_model.metrics.scores import path_scores
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.slow_search import taxonomies

TAXONOMY = Taxonomy([("Men", "Shirts"), ("Men", "Jeans"), ("Women", "Shirts"), ("Bags",)])


def make_answers(taxonomy: Taxonomy, seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True paths, predicted paths (about 90 % correct), and confidences."""
    generator = np.random.default_rng(seed)
    actual, other = generator.integers(len(taxonomy), size=(2, count))
    return actual, np.where(generator.random(count) < 0.9, actual, other), generator.random(count)


@settings(max_examples=40)
@given(taxonomy=taxonomies, seed=st.integers(0, 10_000))
def test_headlines_of_a_draw_equal_figures_of_its_images(taxonomy: Taxonomy, seed: int) -> None:
    actual, predicted, confidence = make_answers(taxonomy, seed, 30)
    weight = np.random.default_rng(seed).integers(0, 3, size=30)
    weight[0] = 1
    got = ScoredPredictions.of(actual, predicted, confidence, taxonomy).headlines(weight)
    actual, predicted, confidence = (np.repeat(each, weight) for each in (actual, predicted, confidence))
    scores = path_scores(actual, predicted, taxonomy)
    scores["ece"] = expected_calibration_error(confidence, actual == predicted)
    assert got == pytest.approx([scores[name] for name in HEADLINES])


def test_interval_width_equals_that_of_a_proportion() -> None:
    given = make_answers(TAXONOMY, 0, 2000)
    answers = ScoredPredictions.of(*given, TAXONOMY)
    low, high = intervals(answers, [str(row) for row in range(2000)], resamples=500, seed=1)["micro_f1"]
    share = float(answers.right.mean())
    assert low < share < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 2000), rel=0.15)


def test_interval_of_all_right_and_of_all_wrong_has_a_width() -> None:
    actual, groups = np.arange(98) % 3, [str(row // 2) for row in range(98)]  # 49 products
    for predicted, expected in ((actual, (0.927, 1.0)), ((actual + 1) % 3, (0.0, 0.073))):
        answers = ScoredPredictions.of(actual, predicted, np.full(98, 0.9), TAXONOMY)
        found = intervals(answers, groups, resamples=20, seed=1)
        assert found["micro_f1"] == pytest.approx(expected, abs=1e-3)
        assert found["macro_f1"] == found["micro_f1"], "all right or all wrong in each category"
        assert found["ece"][0] == pytest.approx(found["ece"][1])


def test_images_of_a_product_are_resampled_together() -> None:
    answers = ScoredPredictions.of(*make_answers(TAXONOMY, 0, 40), TAXONOMY)
    found = intervals(answers, ["one product"] * 40, resamples=20, seed=1)
    assert all(low == pytest.approx(high) for low, high in found.values()), "all draws are equal"
    actual, predicted, confidence = (np.repeat(each, 2) for each in make_answers(TAXONOMY, 0, 40))
    same_twice = ScoredPredictions.of(actual, predicted, confidence, TAXONOMY)
    once = intervals(answers, [str(row) for row in range(40)], resamples=20, seed=1)
    twice = intervals(same_twice, [str(row // 2) for row in range(80)], resamples=20, seed=1)
    assert {name: pytest.approx(interval) for name, interval in twice.items()} == once, "copies add no information"


def test_differences_use_paired_draws() -> None:
    actual, predicted, confidence = make_answers(TAXONOMY, 0, 400)
    groups = [str(row) for row in range(400)]
    one = ScoredPredictions.of(actual, predicted, confidence, TAXONOMY)
    nothing = differences(one, one, groups, resamples=20, seed=1)
    assert nothing == {name: {"value": 0.0, "interval": (0.0, 0.0)} for name in HEADLINES}
    better = predicted.copy()
    better[np.flatnonzero(actual != predicted)[:10]] = actual[actual != predicted][:10]
    found = differences(ScoredPredictions.of(actual, better, confidence, TAXONOMY), one, groups, resamples=500, seed=1)
    low, high = found["micro_f1"]["interval"]
    assert found["micro_f1"]["value"] == pytest.approx(10 / 400)
    assert 0 < low < 10 / 400 < high
    apart = intervals(one, groups, resamples=500, seed=1)["micro_f1"]
    assert high - low < (apart[1] - apart[0]) * 0.75, "errors of both models cancel out"


def test_result_depends_only_on_the_seed() -> None:
    answers, groups = ScoredPredictions.of(*make_answers(TAXONOMY, 0, 60), TAXONOMY), [str(row) for row in range(60)]
    first, again, other = (intervals(answers, groups, resamples=20, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
