"""Labels that are likely wrong, by confident learning on out-of-fold probabilities.

Northcutt, Jiang and Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70. The
probabilities of an image come from a classifier that saw neither it nor another image of its product.

The number of errors is estimated from the confident joint (section 3.1, equation 1): an image counts as one if another
category than its label reaches its threshold, the mean probability of the images that are labelled so. As many images
with the lowest probability of their label are listed. Listing those that were counted finds fewer errors:
docs/data-quality.md has the figures. The package cleanlab calls the methods ``low_self_confidence`` and
``confident_learning``. If several categories reach their thresholds, it takes the most probable of all categories
instead of the most probable of these.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from atlas_model.core.progress import say
from atlas_model.quality.gaussians import parts
from atlas_model.quality.logistic import LogisticRegression, fit_logistic, standardized

FOLDS = 5
MAX_WORK = 20_000_000_000  # images x dimensions x categories that a classifier is fitted to: minutes on one core
MIN_FITTED = 10  # images per category, on average
MIN_PRODUCTS = 2  # of a category: with one, no other fold has an image of it


@dataclass(frozen=True)
class LabelErrors:
    """Likely wrong labels, the most likely first."""

    row: Int[np.ndarray, "m"]
    score: Float[np.ndarray, "m"]  # 1 - probability of the label
    suggested: Int[np.ndarray, "m"]  # the most probable other category
    checked: int  # images whose label was checked
    accuracy: float  # share of them whose most probable category is the label


def find_label_errors(
    points: Float[np.ndarray, "n d"], category: Int[np.ndarray, "n"], product_ids: Sequence[str], *, seed: int
) -> LabelErrors:
    """Find labels that are likely wrong.

    Args:
        points: embeddings of images.
        category: label of each, as an index; the same for all images of a product.
        product_ids: the product of each.
        seed: of the folds.
    """
    fold, checked = assign_folds(category, product_ids, seed)
    rows = np.flatnonzero(checked)
    empty = np.empty(0, dtype=np.int64)
    nothing = LabelErrors(empty, np.empty(0), empty, 0, 0.0)
    if not len(rows):
        return nothing
    used, compact = np.unique(category[rows], return_inverse=True)
    fitted = MAX_WORK // (points.shape[1] * len(used))
    if fitted < min(len(rows), MIN_FITTED * len(used)):
        say(
            f"warning: the labels are not checked, because it would take too long: {len(used)} categories, and "
            f"embeddings of {points.shape[1]} dimensions"
        )
        return nothing
    labels = torch.from_numpy(compact.astype(np.int64))
    ready = standardized(torch.from_numpy(points[rows]))
    held_out = _HeldOut(ready, labels, fold[rows], categories=len(used), fitted=fitted, seed=seed)
    order, score, other, accuracy = rank_label_errors(held_out, labels, len(used))
    return LabelErrors(rows[order.numpy()], score.numpy(), used[other.numpy()], len(rows), accuracy)


def rank_label_errors(
    probabilities: Iterable[tuple[Int[Tensor, "_"], Float[Tensor, "_ k"]]], labels: Int[Tensor, "n"], categories: int
) -> tuple[Int[Tensor, "e"], Float[Tensor, "e"], Int[Tensor, "e"], float]:
    """The likely errors among ``labels``, the most likely first.

    Args:
        probabilities: rows with their out-of-fold probabilities; iterated twice.
        labels: of all rows.
        categories: their number.

    Returns:
        The rows of the errors; 1 - the probability of the label; the most probable other category; and the share of all
        rows whose most probable category is the label.
    """
    label_p = torch.zeros(len(labels), dtype=torch.float64)
    for at, p in probabilities:
        label_p[at] = p.gather(1, labels[at, None]).squeeze(1)
    sums = torch.zeros(categories, dtype=torch.float64).index_add_(0, labels, label_p)
    thresholds = sums / torch.bincount(labels, minlength=categories)
    errors, right = 0, 0
    other = torch.zeros_like(labels)
    for at, p in probabilities:
        errors += int(confident_errors(p, labels[at], thresholds).sum())
        right += int((p.argmax(dim=1) == labels[at]).sum())
        other[at] = p.scatter(1, labels[at, None], -1.0).argmax(dim=1)
    order = torch.argsort(label_p, stable=True)[:errors]
    return order, 1 - label_p[order], other[order], right / len(labels)


def confident_errors(
    p: Float[Tensor, "n k"], labels: Int[Tensor, "n"], thresholds: Float[Tensor, "k"]
) -> Bool[Tensor, "n"]:
    """Whether the most probable of the categories that reach their threshold is another one than the label.

    As in cleanlab, an image whose most probable category of all is its label does not count.
    """
    reaching = p.masked_fill(p < thresholds, -1.0)
    best, category = reaching.max(dim=1)
    return (best >= 0) & (category != labels) & (p.argmax(dim=1) != labels)


def assign_folds(
    category: Int[np.ndarray, "n"], product_ids: Sequence[str], seed: int
) -> tuple[Int[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Assign each image to one of `FOLDS`, together with the others of its product and category.

    The products of a category are spread evenly, so a category with `MIN_PRODUCTS` is in more than one fold.

    Returns:
        The fold of each image; and whether its category has `MIN_PRODUCTS`, so that its label can be checked.
    """
    products, product = np.unique(np.asarray(product_ids, dtype=str), return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(len(products))[product]
    pair, pair_of = np.unique(np.stack([category, drawn]), axis=1, return_inverse=True)  # sorted by category
    first = np.searchsorted(pair[0], pair[0])
    rank = np.arange(pair.shape[1]) - first  # of the product among those of its category
    size = np.searchsorted(pair[0], pair[0], side="right") - first
    return (rank % FOLDS)[pair_of.reshape(-1)], (size >= MIN_PRODUCTS)[pair_of.reshape(-1)]


class _HeldOut:
    """Out-of-fold probabilities, in parts: iterate as often as needed.

    Args:
        points: standardized embeddings.
        labels: of these.
        fold: of each.
        categories: their number.
        fitted: images that a classifier is fitted to, at most; a sample if there are more.
        seed: of the sample.
    """

    def __init__(
        self,
        points: Float[Tensor, "n d"],
        labels: Int[Tensor, "n"],
        fold: Int[np.ndarray, "n"],
        *,
        categories: int,
        fitted: int,
        seed: int,
    ) -> None:
        self._points, self._categories = points, categories
        self._folds: list[tuple[Int[Tensor, "_"], LogisticRegression]] = []
        order = np.random.default_rng(seed).permutation(len(labels))
        for number in range(FOLDS):
            held_out = np.flatnonzero(fold == number)
            if len(held_out):
                others = torch.from_numpy(order[fold[order] != number][:fitted])
                classifier = fit_logistic(points[others], labels[others], categories)
                self._folds.append((torch.from_numpy(held_out), classifier))

    def __iter__(self) -> Iterator[tuple[Int[Tensor, "_"], Float[Tensor, "_ k"]]]:
        """Yield rows, and the probability of each category for them."""
        for held_out, classifier in self._folds:
            for part in parts(len(held_out), self._categories):
                yield held_out[part], classifier.probabilities(self._points[held_out[part]]).double()
