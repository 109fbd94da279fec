"""Metrics on cases small enough to compute by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_model.metrics.scores import (
    categories_of_level,
    category_scores,
    confusion,
    exact_paths,
    hierarchical_scores,
    invalid_paths,
    level_accuracy,
    path_scores,
)
from atlas_model.taxonomy.tree import END, PAD, Taxonomy
from tests.support.slow_search import taxonomies

TAXONOMY = Taxonomy([("Men", "Shirts"), ("Men", "Jeans"), ("Women", "Shirts"), ("Bags",)])


def test_headline_metrics_of_a_hand_computed_case() -> None:
    actual, predicted = np.array([0, 0, 1, 2, 3]), np.array([0, 1, 1, 0, 3])
    scores = path_scores(actual, predicted, TAXONOMY)
    assert scores["micro_f1"] == 3 / 5
    # Men>Shirts: p 1/2, r 1/2; Men>Jeans: p 1/2, r 1; Women>Shirts: 0; Bags: 1
    assert np.isclose(scores["macro_f1"], (1 / 2 + 2 / 3 + 0 + 1) / 4)
    assert scores["n"] == 5


def test_level_accuracy_needs_correct_levels_above() -> None:
    actual, predicted = np.array([0, 0, 2, 3]), np.array([1, 2, 0, 3])
    # level 1: correct for the first (Men) and the last (Bags); level 2: Women>Shirts predicted as Men>Shirts is wrong
    assert level_accuracy(actual, predicted, TAXONOMY) == [2 / 4, 0 / 3]


def test_no_images_give_no_metrics() -> None:
    empty = np.array([], dtype=np.int64)
    scores = path_scores(empty, empty, TAXONOMY)
    assert (scores.pop("level_accuracy"), scores.pop("n")) == ([], 0)
    assert set(scores.values()) == {None}


def test_hierarchical_metrics_of_a_hand_computed_case() -> None:
    # Men>Shirts as Men>Jeans: 1 of 2, 1 of 2; as Bags: 0 of 1, 0 of 2; Bags as Women>Shirts: 0 of 2, 0 of 1
    scores = hierarchical_scores(np.array([0, 0, 3, 2]), np.array([1, 3, 2, 2]), TAXONOMY)
    assert scores["hierarchical_precision"] == 3 / 7
    assert scores["hierarchical_recall"] == 3 / 7
    scores = hierarchical_scores(np.array([0, 0]), np.array([0, 3]), TAXONOMY)
    assert scores == pytest.approx(
        {"hierarchical_precision": 2 / 3, "hierarchical_recall": 2 / 4, "hierarchical_f1": 4 / 7}
    )


@given(taxonomy=taxonomies, seed=st.integers(0, 10_000))
def test_hierarchical_metrics_equal_ancestor_set_definition(taxonomy: Taxonomy, seed: int) -> None:
    actual, predicted = np.random.default_rng(seed).integers(len(taxonomy), size=(2, 6))
    shared = of_predicted = of_actual = 0
    for a, p in zip(actual, predicted, strict=True):
        a_set, p_set = (
            {path[: end + 1] for end in range(len(path))} for path in (taxonomy.paths[a], taxonomy.paths[p])
        )
        shared, of_predicted, of_actual = shared + len(a_set & p_set), of_predicted + len(p_set), of_actual + len(a_set)
    precision, recall = shared / of_predicted, shared / of_actual
    scores = hierarchical_scores(actual, predicted, taxonomy)
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    assert list(scores.values()) == pytest.approx([precision, recall, f1])


def test_hierarchical_metrics_are_equal_for_paths_of_one_depth() -> None:
    taxonomy = Taxonomy(TAXONOMY.paths[:3])
    actual, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 2, 2])
    by_level = np.mean(np.array(level_accuracy(actual, predicted, taxonomy)))
    assert list(hierarchical_scores(actual, predicted, taxonomy).values()) == pytest.approx([by_level] * 3)


def test_categories_of_a_level() -> None:
    names, of_path = categories_of_level(TAXONOMY, 1)
    assert (names, of_path.tolist()) == ([("Men",), ("Women",), ("Bags",)], [0, 0, 1, 2])
    names, of_path = categories_of_level(TAXONOMY, 2)
    assert (tuple(names), of_path.tolist()) == (TAXONOMY.paths, [0, 1, 2, 3]), "Bags ends at a higher level"


def test_category_metrics_and_confusion_matrix() -> None:
    actual, predicted = np.array([0, 0, 1]), np.array([0, 3, 1])
    rows = category_scores(actual, predicted, TAXONOMY)
    assert [row["category"] for row in rows] == ["Men > Shirts", "Men > Jeans", "Bags"]
    assert rows[0] == {"category": "Men > Shirts", "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "n": 2}
    assert rows[1] == {"category": "Men > Jeans", "precision": 1.0, "recall": 1.0, "f1": 1.0, "n": 1}
    assert rows[2] == {"category": "Bags", "precision": 0.0, "recall": None, "f1": None, "n": 0}, "it has no image"
    (_, never) = category_scores(np.array([0, 1]), np.array([0, 0]), TAXONOMY)
    assert never == {"category": "Men > Jeans", "precision": None, "recall": 0.0, "f1": 0.0, "n": 1}
    met, counts, totals = confusion(actual, predicted, at_most=9)
    assert met.tolist() == [0, 1, 3]
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert totals.tolist() == [2, 1, 0]


def test_confusion_matrix_keeps_the_most_confused_categories() -> None:
    right = np.arange(4).repeat(9)
    actual, predicted = np.append(right, [0, 1]), np.append(right, [3, 3])
    assert [confusion(actual, predicted, at_most)[0].tolist() for at_most in (1, 2)] == [[3], [0, 3]], (
        "ties keep the first"
    )
    _, counts, totals = confusion(actual, predicted, at_most=2)
    assert counts.tolist() == [[9, 1], [0, 9]]
    assert totals.tolist() == [10, 9]
    vast = np.arange(200_000)  # too many for a square matrix
    met, counts, totals = confusion(vast, vast[::-1].copy(), at_most=40)
    assert met.tolist() == list(range(40))
    assert not counts.any() and totals.tolist() == [1] * 40


def test_invalid_path_is_one_that_the_taxonomy_lacks() -> None:
    token = {name: index for index, name in enumerate(TAXONOMY.tokens)}
    written = np.array(
        [
            [token["Men"], token["Jeans"], END],  # a path
            [token["Women"], token["Jeans"], END],  # the names exist, the path does not
            [token["Bags"], END, token["Men"]],  # a path; tokens after END are ignored
            [token["Men"], END, PAD],  # an inner node that is not a valid end
            [token["Women"], token["Shirts"], PAD],  # a path without END
            [END, PAD, PAD],  # empty
            [PAD, PAD, PAD],
            [token["Bags"], PAD, token["Men"]],
        ]
    )
    assert invalid_paths(written, TAXONOMY) == 5
    assert invalid_paths(TAXONOMY.targets, TAXONOMY) == 0
    assert exact_paths(written, np.array([1, 1, 3, 0, 2, 3, 3, 0]), TAXONOMY) == 3
    assert exact_paths(TAXONOMY.targets, np.arange(4)[::-1], TAXONOMY) == 0
