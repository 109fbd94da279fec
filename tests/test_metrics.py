"""Figures of merit on cases small enough to do by hand."""

import numpy as np

from atlas_model.metrics import category_scores, confusion, invalid_paths, level_accuracy, path_scores
from atlas_model.taxonomy import END, PAD, Taxonomy

TAXONOMY = Taxonomy([("Men", "Shirts"), ("Men", "Jeans"), ("Women", "Shirts"), ("Bags",)])


def test_headline_figures_by_hand() -> None:
    actual, predicted = np.array([0, 0, 1, 2, 3]), np.array([0, 1, 1, 0, 3])
    scores = path_scores(actual, predicted, TAXONOMY)
    assert scores["micro_f1"] == 3 / 5
    # Men>Shirts: p 1/2, r 1/2; Men>Jeans: p 1/2, r 1; Women>Shirts: 0; Bags: 1
    assert np.isclose(scores["macro_f1"], (1 / 2 + 2 / 3 + 0 + 1) / 4)
    assert scores["n"] == 5


def test_a_level_counts_only_where_the_path_reaches_it_and_all_above_is_right() -> None:
    actual, predicted = np.array([0, 0, 2, 3]), np.array([1, 2, 0, 3])
    # level 1: right for the first (Men) and the last (Bags); level 2: Women>Shirts called Men>Shirts is wrong
    assert level_accuracy(actual, predicted, TAXONOMY) == [2 / 4, 0 / 3]


def test_no_pictures_no_figures() -> None:
    empty = np.array([], dtype=np.int64)
    assert path_scores(empty, empty, TAXONOMY) == {"micro_f1": None, "macro_f1": None, "level_accuracy": [], "n": 0}


def test_categories_and_confusion() -> None:
    actual, predicted = np.array([0, 0, 1]), np.array([0, 3, 1])
    rows = category_scores(actual, predicted, TAXONOMY)
    assert [row["category"] for row in rows] == ["Men > Shirts", "Men > Jeans", "Bags"]
    assert rows[0] == {"category": "Men > Shirts", "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "n": 2}
    met, counts = confusion(actual, predicted)
    assert met.tolist() == [0, 1, 3]
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_invalid_paths_are_judged_by_their_names() -> None:
    token = {name: index for index, name in enumerate(TAXONOMY.tokens)}
    written = np.array(
        [
            [token["Men"], token["Jeans"], END],  # a path
            [token["Women"], token["Jeans"], END],  # names exist, the path does not
            [token["Bags"], END, token["Men"]],  # a path; what follows END does not count
            [token["Men"], END, PAD],  # an inner node that is no valid end
            [token["Women"], token["Shirts"], PAD],  # a path without END
            [END, PAD, PAD],  # nothing
            [PAD, PAD, PAD],
            [token["Bags"], PAD, token["Men"]],
        ]
    )
    assert invalid_paths(written, TAXONOMY) == 5
    assert invalid_paths(TAXONOMY.targets, TAXONOMY) == 0
