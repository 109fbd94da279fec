"""Thresholds that guarantee an accuracy: compared with a slow reference, and how often the guarantee holds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from atlas_model.confidence.calibration import descend
from atlas_model.confidence.risk_control import (
    GRID,
    RISK,
    START_FACTOR,
    HeldOutItems,
    ThresholdOutcome,
    Thresholds,
    apply_thresholds,
    find_thresholds,
    min_held_out,
    sample_one_per_product,
    simulate_resplits,
)
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.held_out import items
from tests.support.node_probabilities import images, nodes_of
from tests.support.slow_search import taxonomies


def slow_outcome(held_out: HeldOutItems, thresholds: Thresholds) -> tuple[int, int, int, int]:
    """The numbers of accepted, accepted and right, answered, answered and right items."""
    accepted = accepted_right = answered = answered_right = 0
    for probability, depth, right in zip(held_out.probability, held_out.depth, held_out.right, strict=True):
        level = 0
        if thresholds.whole is not None and probability[depth - 1] >= thresholds.whole:
            level = depth
            accepted += 1
            accepted_right += right == depth
        else:
            while level + 1 < depth and probability[level] >= thresholds.shorter:
                level += 1
        answered += level > 0
        answered_right += level > 0 and right >= level
    return accepted, accepted_right, answered, answered_right


def slow_thresholds(held_out: HeldOutItems, accuracy: float) -> Thresholds | None:
    """Threshold by threshold, as the module's docstring describes."""
    least = next(n for n in range(1, 100_000) if accuracy**n <= RISK / 4)
    enough = min(START_FACTOR * least, max(least, -(-len(held_out) // 2)))
    for accepting in (True, False):
        found = None
        for t in GRID:
            tried = Thresholds(t, max(t, accuracy)) if accepting else Thresholds(None, t)
            accepted, accepted_right, answered, answered_right = slow_outcome(held_out, tried)
            if (accepted if accepting else answered) < enough:
                continue
            tails = [binom.sf(answered_right - 1, answered, accuracy)]
            tails += [binom.sf(accepted_right - 1, accepted, accuracy)] * accepting
            if max(tails) > RISK / 4:
                break
            found = tried
        if found is not None:
            return found
    return None


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize(("boast", "skill", "deepest"), [(1, 5, 3), (3, 5, 3), (0.5, 5, 3), (1, 2, 3), (1, 5, 1)])
def test_thresholds_equal_slow_reference(boast: float, skill: float, deepest: int, accuracy: float) -> None:
    for seed in range(3):
        held_out = items(150 + 40 * seed, seed, boast, skill, deepest)
        found, expected = find_thresholds(held_out, accuracy), slow_thresholds(held_out, accuracy)
        assert found == expected
        if found is not None:
            accepted, accepted_right, answered, answered_right = slow_outcome(held_out, found)
            assert apply_thresholds(held_out, found) == ThresholdOutcome(
                float(accepted / len(held_out)),
                float(accepted_right / accepted) if accepted else None,
                float(answered / len(held_out)),
                float(answered_right / answered) if answered else None,
            )


@pytest.mark.parametrize("accuracy", [0.8, 0.9, 0.95])
@pytest.mark.parametrize(("boast", "skill"), [(1.0, 10.0), (3.0, 10.0), (0.4, 10.0), (1.0, 20.0)])
def test_guarantee_holds_with_the_stated_probability(boast: float, skill: float, accuracy: float) -> None:
    """On a very large set of new items, with calibrated, overconfident and underconfident scores."""
    world = items(40_000, 10_000, boast, skill)
    draws = [find_thresholds(items(600, seed, boast, skill), accuracy) for seed in range(120)]
    broken = sum(not apply_thresholds(world, each).holds(accuracy) for each in draws if each is not None)
    assert sum(each is not None for each in draws) > 100, "otherwise the test has no effect"
    assert broken <= binom.ppf(0.99, len(draws), RISK / 2)


def test_guaranteed_thresholds_accept_many_items() -> None:
    world = items(40_000, 10_000)
    found = apply_thresholds(world, find_thresholds(items(1200, 1), 0.9) or Thresholds(None, 1.0))
    assert found.accepted > 0.5 and found.answered > 0.7
    assert found.answered_right is not None and 0.9 <= found.answered_right < 0.97
    strict = apply_thresholds(world, find_thresholds(items(1200, 1), 0.97) or Thresholds(None, 1.0))
    assert strict.accepted < found.accepted


def test_plain_threshold_fails_for_overconfident_scores() -> None:
    """The reason for risk control: a threshold equal to the accuracy is not enough."""
    world = items(40_000, 10_000, boast=3.0)
    assert not apply_thresholds(world, Thresholds(0.9, 0.9)).holds(0.9)
    found = find_thresholds(items(1200, 3, boast=3.0), 0.9)
    assert found is not None and apply_thresholds(world, found).holds(0.9)


def test_too_few_items_give_no_guarantee() -> None:
    for accuracy in (0.9, 0.95):
        least = min_held_out(accuracy)
        assert accuracy**least <= RISK / 4 < accuracy ** (least - 1)
        all_right = HeldOutItems(np.full((least, 2), 0.99), np.full(least, 2), np.full(least, 2))
        assert find_thresholds(all_right, accuracy) == Thresholds(0.0, accuracy)
        assert find_thresholds(all_right.at(np.arange(least - 1)), accuracy) is None
    assert find_thresholds(items(0, 1), 0.9) is None


def test_shorter_paths_may_be_guaranteed_without_whole_paths() -> None:
    """The first level is always right, the last one in half of the cases."""
    generator = np.random.default_rng(1)
    right = 1 + (generator.random(500) < 0.5)
    held_out = HeldOutItems(np.tile([0.999, 0.5], (500, 1)), np.full(500, 2), right)
    found = find_thresholds(held_out, 0.95)
    assert found is not None and found.whole is None
    assert apply_thresholds(held_out, found) == ThresholdOutcome(0.0, None, 1.0, 1.0)


@pytest.mark.parametrize(("boast", "accuracy"), [(1.0, 0.9), (3.0, 0.9), (1.0, 0.95)])
def test_resplits_average_the_outcome_of_each_draw(boast: float, accuracy: float) -> None:
    pool = items(700, 5, boast)
    found = simulate_resplits(pool, 400, accuracy, times=20, seed=3)
    generator, held, promised, accepted, answered, right = np.random.default_rng(3), 0, 0, [], [], []
    for _ in range(20):
        order = generator.permutation(700)
        thresholds = find_thresholds(pool.at(order[:400]), accuracy)
        if thresholds is None:
            held += 1
            continue
        promised += 1
        others = apply_thresholds(pool.at(order[400:]), thresholds)
        held += others.holds(accuracy)
        accepted.append(others.accepted)
        answered.append(others.answered)
        right.append(others.answered_right)
    assert found == {
        "promised": promised / 20,
        "held": pytest.approx(held / 20),
        "accepted": pytest.approx(np.mean(accepted)),
        "answered": pytest.approx(np.mean(answered)),
        "right": pytest.approx(np.mean(np.array(right))),
    }


def test_guarantee_holds_in_the_stated_share_of_resplits() -> None:
    """The test parts are finite, which adds sampling error; nine of ten still hold."""
    for boast in (1.0, 2.0, 0.5):
        found = simulate_resplits(items(2200, 8, boast), 1100, 0.9, times=300, seed=1)
        assert found["promised"] == 1
        assert found["held"] is not None and found["held"] >= 1 - RISK
        assert found["accepted"] is not None and found["accepted"] > 0.2


def test_resplits_without_guarantee_are_reported() -> None:
    assert simulate_resplits(items(40, 1), 20, 0.99, times=5, seed=1) == {
        "promised": 0.0,
        "held": None,
        "accepted": None,
        "answered": None,
        "right": None,
    }


@settings(max_examples=40)
@given(taxonomy=taxonomies, seed=st.integers(0, 999))
def test_held_out_items_count_correct_levels(taxonomy: Taxonomy, seed: int) -> None:
    probabilities = images(taxonomy, 5, seed)
    actual = np.random.default_rng(seed).integers(len(taxonomy), size=5)
    descent = descend(taxonomy.trie, torch.from_numpy(nodes_of(taxonomy, probabilities)))
    found = HeldOutItems.of(taxonomy, descent, actual)
    for row in range(5):
        way = [node for node in descent.node[row].tolist() if node >= 0]
        route = [node for node in taxonomy.trie.routes[actual[row]].tolist()[1:] if node >= 0]
        same = 0
        while same < min(len(way), len(route)) and way[same] == route[same]:
            same += 1
        assert (found.depth[row], found.right[row]) == (len(way), same)


def test_samples_one_random_image_per_product() -> None:
    products = ["a", "b", "a", "c", "a", "b"]
    rows = sample_one_per_product(products)
    assert [products[row] for row in rows] == ["a", "b", "c"]
    assert rows.tolist() == sample_one_per_product(products).tolist()
    drawn = {tuple(sample_one_per_product(products, seed).tolist()) for seed in range(60)}
    assert len(drawn) == 6, "any image of a product may be drawn"
