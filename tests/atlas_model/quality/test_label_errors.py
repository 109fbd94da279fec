"""Likely label errors: the same as cleanlab's on given probabilities, and found among labels that are made wrong."""

import numpy as np
import pytest
import torch

from atlas_model.quality.label_errors import FOLDS, assign_folds, confident_errors, find_label_errors, rank_label_errors
from atlas_model.quality.outliers import outlier_scores

# Rows that cleanlab 2.9.0 finds among those of `noisy_probabilities`: cleanlab.filter.find_label_issues, with filter_by
# "confident_learning" and "low_self_confidence" (ranked by self_confidence).
CLEANLAB_CONFIDENT = [17, 26, 33, 36, 57, 60]
CLEANLAB_LOWEST = [33, 57, 17, 26, 32, 0]


def noisy_probabilities() -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of 80 images, eight of them wrong, and probabilities of four categories."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 4, 80)
    logits = generator.normal(0, 1.0, (80, 4))
    logits[np.arange(80), labels] += 2
    wrong = generator.permutation(80)[:8]
    labels[wrong] = (labels[wrong] + 1 + generator.integers(0, 3, 8)) % 4
    return torch.from_numpy(logits).softmax(dim=1), torch.from_numpy(labels)


def test_finds_what_cleanlab_finds() -> None:
    p, labels = noisy_probabilities()
    label_p = p.gather(1, labels[:, None]).squeeze(1)
    thresholds = torch.stack([label_p[labels == category].mean() for category in range(4)])
    assert torch.nonzero(confident_errors(p, labels, thresholds)).squeeze(1).tolist() == CLEANLAB_CONFIDENT
    in_parts = [(rows, p[rows]) for rows in torch.arange(80).flip(0).split(30)]
    rows, score, other, accuracy = rank_label_errors(in_parts, labels, 4)
    assert rows.tolist() == CLEANLAB_LOWEST
    assert torch.allclose(score, 1 - label_p[rows])
    assert accuracy == float((p.argmax(dim=1) == labels).double().mean())
    best = p.argsort(dim=1, descending=True)[rows, :2]
    assert other.tolist() == torch.where(best[:, 0] == labels[rows], best[:, 1], best[:, 0]).tolist()


def embeddings(categories: int = 12, products: int = 20, images: int = 3) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Embeddings around the centre of each category, their labels, and their products."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(categories), products * images)
    centres = generator.normal(0, 2, (categories, 16))
    points = centres[labels] + generator.normal(0, 1, (len(labels), 16)) @ generator.normal(0, 0.5, (16, 16))
    names = [f"product {row // images}" for row in range(len(labels))]
    return points.astype(np.float32), labels, names


def test_finds_wrong_labels_of_products() -> None:
    points, labels, products = embeddings()
    wrong = np.zeros(len(labels), dtype=bool)
    for start in range(0, len(labels), 60):  # one product of each category, with its three images
        wrong[start + 6 : start + 9] = True
    given = np.where(wrong, (labels + 5) % 12, labels)
    found = find_label_errors(points, given, products, seed=1)
    assert found.checked == len(labels)
    assert wrong[found.row].mean() > 0.95
    assert wrong[found.row].sum() > 0.5 * wrong.sum()  # the estimate counts only confident errors
    right = found.row[wrong[found.row]]
    assert (found.suggested[wrong[found.row]] == labels[right]).mean() > 0.9
    assert (np.diff(found.score) <= 0).all()
    assert ((found.score >= 0) & (found.score <= 1)).all()
    none = find_label_errors(points, labels, products, seed=1)
    assert len(none.row) < 0.02 * len(labels)


def test_category_with_a_single_product_is_not_checked() -> None:
    points, labels, products = embeddings(categories=4)
    rare = np.r_[labels[:-3], 4, 4, 4]  # the last product alone
    found = find_label_errors(points, rare, products, seed=1)
    assert found.checked == len(labels) - 3
    assert not set(found.row.tolist()) & {len(labels) - 3, len(labels) - 2, len(labels) - 1}
    nothing = find_label_errors(points[:3], labels[:3], products[:3], seed=1)
    assert (len(nothing.row), nothing.checked) == (0, 0)


@pytest.mark.parametrize("seed", [1, 2])
def test_images_of_a_product_are_in_one_fold_and_products_of_a_category_in_several(seed: int) -> None:
    _, labels, products = embeddings(categories=3, products=7)
    fold, checked = assign_folds(labels, products, seed)
    assert checked.all()
    for product in set(products):
        assert len(set(fold[np.array(products) == product])) == 1
    for category in range(3):
        sizes = np.bincount(fold[labels == category], minlength=FOLDS)
        assert sizes.max() - sizes.min() <= 3  # one product


def test_outliers_are_far_from_every_category_and_no_wrong_labels() -> None:
    points, labels, _ = embeddings()
    strange = points.copy()
    strange[::100] += 40
    given = labels.copy()
    given[7] = (given[7] + 1) % 12
    scores = outlier_scores(strange, given)
    outliers = np.arange(len(labels)) % 100 == 0
    assert scores[outliers].min() > scores[~outliers].max()
    assert scores[outliers].min() > 0.5
    assert scores[7] < 0.4
    assert np.median(scores) < 0.01
    assert (outlier_scores(np.ones((10, 4), dtype=np.float32), np.zeros(10, dtype=np.int64)) == 0).all()
