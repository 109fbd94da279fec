"""Metrics of predicted category paths.

Every image has one path and one prediction, so the micro-averaged F1 is the share of exact paths. The input is indices
of paths, whatever predicted them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.metrics import f1_score, precision_recall_fscore_support

from atlas_model.taxonomy.tree import END, CategoryPath, Taxonomy

HIERARCHICAL = ("hierarchical_precision", "hierarchical_recall", "hierarchical_f1")


def path_scores(actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], taxonomy: Taxonomy) -> dict[str, Any]:
    """Headline figures; None if there are no images.

    Returns:
        ``micro_f1`` (= share of exact paths), ``macro_f1`` (mean over the categories that occur in ``actual``),
        ``hierarchical_precision``, ``hierarchical_recall``, ``hierarchical_f1`` (see `hierarchical_scores`),
        ``level_accuracy`` (see `level_accuracy`), ``n``.
    """
    if not len(actual):
        nothing = dict.fromkeys(("micro_f1", "macro_f1", *HIERARCHICAL))
        return {**nothing, "level_accuracy": [], "n": 0}
    return {
        "micro_f1": float((actual == predicted).mean()),
        "macro_f1": macro_f1(actual, predicted),
        **hierarchical_scores(actual, predicted, taxonomy),
        "level_accuracy": level_accuracy(actual, predicted, taxonomy),
        "n": len(actual),
    }


def macro_f1(actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"]) -> float:
    """The mean F1 of the categories that occur in ``actual``."""
    return float(f1_score(actual, predicted, labels=np.unique(actual), average="macro", zero_division=0))


def weighted_f1(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], weight: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """The F of each category, and how often it occurs in ``actual``, if each answer counted ``weight`` times.

    Categories are numbered from 0; the F of one that occurs on neither side is 0. The bootstrap asks for it thousands
    of times, so it is three counts, which take a hundredth of the time that scikit-learn takes.
    """
    size = int(max(actual.max(), predicted.max())) + 1
    hits, of_actual, of_predicted = (
        np.bincount(categories, weights=weights, minlength=size)
        for categories, weights in ((actual, weight * (actual == predicted)), (actual, weight), (predicted, weight))
    )
    return 2 * hits / np.maximum(of_actual + of_predicted, 1), of_actual


def hierarchical_scores(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], taxonomy: Taxonomy
) -> dict[str, float]:
    """Precision, recall and F1 over levels: a prediction that is wrong only at the end is partly right.

    A category is represented by the set of itself and its ancestors without the root. With P_i the predicted set of
    image i and A_i the right one, precision is sum_i |P_i & A_i| / sum_i |P_i|, recall sum_i |P_i & A_i| / sum_i |A_i|,
    and F1 their harmonic mean. These are hP, hR and hF of Kiritchenko et al. 2006 ("Learning and Evaluation in the
    Presence of Class Hierarchies"), the set-based measures with all ancestors in Kosmopoulos et al. 2015 ("Evaluation
    measures for hierarchical classification", arXiv 1306.6802). Their LCaF is another measure: it adds only ancestors
    below the lowest common one. If all paths have the same depth, the three are equal: the mean of the levels'
    accuracies.
    """
    shared, of_predicted, of_actual = (float(each.sum()) for each in common_levels(actual, predicted, taxonomy))
    f1 = 2 * shared / (of_predicted + of_actual)
    return dict(zip(HIERARCHICAL, (shared / of_predicted, shared / of_actual, f1), strict=True))


def common_levels(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], taxonomy: Taxonomy
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Length of the common prefix of both paths of each image, and of the predicted and the right path."""
    right, reached = _levels(actual, predicted, taxonomy)
    levels = (taxonomy.targets > END).sum(axis=1)  # of each path
    return (right & reached).sum(axis=1), levels[predicted], levels[actual]


def level_accuracy(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], taxonomy: Taxonomy
) -> list[float | None]:
    """For each level, among images whose right path reaches it: the share predicted right down to it."""
    right, reached = _levels(actual, predicted, taxonomy)
    return [
        float(right[reached[:, level], level].mean()) if reached[:, level].any() else None
        for level in range(taxonomy.depth)
    ]


def category_scores(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], taxonomy: Taxonomy
) -> list[dict[str, str | float | int | None]]:
    """Precision, recall, F1 and count of each category that occurs or is predicted, in the taxonomy's order.

    The precision of a category that is never predicted, and the recall and F1 of one without images, are None.
    """
    met = np.union1d(actual, predicted)
    is_predicted = np.isin(met, predicted)
    columns = precision_recall_fscore_support(actual, predicted, labels=met, zero_division=0)
    return [
        {
            "category": taxonomy.labels[index],
            "precision": float(precision) if predicted_once else None,
            "recall": float(recall) if count else None,
            "f1": float(f1) if count else None,
            "n": int(count),
        }
        for index, predicted_once, precision, recall, f1, count in zip(met, is_predicted, *columns, strict=True)
    ]


def confusion(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], at_most: int
) -> tuple[Int[np.ndarray, "k"], Int[np.ndarray, "k k"], Int[np.ndarray, "k"]]:
    """The confusion matrix of the most confused categories, for a plot of limited size.

    Args:
        actual: categories.
        predicted: likewise.
        at_most: number of categories. Those with the most errors, as the right or as the predicted category, are kept;
            ties go to the first.

    Returns:
        These categories in order, the confusion matrix (rows: right, columns: predicted), and the number of images of
        each category.
    """
    met, index = np.unique(np.concatenate([actual, predicted]), return_inverse=True)
    row, column = index[: len(actual)], index[len(actual) :]
    wrong = row != column
    mistakes = np.bincount(np.concatenate([row[wrong], column[wrong]]), minlength=len(met))
    kept = np.sort(np.argsort(-mistakes, kind="stable")[:at_most])
    place = np.full(len(met), -1)
    place[kept] = np.arange(len(kept))
    both = (place[row] >= 0) & (place[column] >= 0)
    counts = np.bincount(place[row[both]] * len(kept) + place[column[both]], minlength=len(kept) ** 2)
    return met[kept], counts.reshape(len(kept), len(kept)), np.bincount(row, minlength=len(met))[kept]


def categories_of_level(taxonomy: Taxonomy, level: int) -> tuple[list[CategoryPath], Int[np.ndarray, "paths"]]:
    """The distinct prefixes of ``level`` names (from 1) of all paths, and the index of the prefix of each path.

    A path with fewer names is its own prefix.
    """
    found: dict[CategoryPath, int] = {}
    of_path = [found.setdefault(path[:level], len(found)) for path in taxonomy.paths]
    return list(found), np.array(of_path)


def invalid_paths(tokens: Int[np.ndarray, "n t"], taxonomy: Taxonomy) -> int:
    """Count the token sequences that are not a path of the taxonomy.

    Compares names, without the trie that constrains the search. Tokens after END are ignored; a sequence without END is
    a path if its names are one.
    """
    valid = set(taxonomy.keys)
    return sum(_names(row, taxonomy.tokens) not in valid for row in tokens)


def exact_paths(tokens: Int[np.ndarray, "n t"], actual: Int[np.ndarray, "n"], taxonomy: Taxonomy) -> int:
    """Count the token sequences that are the right path, compared as in `invalid_paths`."""
    return sum(_names(row, taxonomy.tokens) == taxonomy.keys[path] for row, path in zip(tokens, actual, strict=True))


def _levels(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], taxonomy: Taxonomy
) -> tuple[Bool[np.ndarray, "n depth"], Bool[np.ndarray, "n depth"]]:
    """Whether each image is right down to each level, and whether its right path reaches it."""
    tokens = taxonomy.targets[:, : taxonomy.depth]  # (paths, depth)
    return np.logical_and.accumulate(tokens[actual] == tokens[predicted], axis=1), tokens[actual] > END


def _names(row: Int[np.ndarray, "t"], tokens: Sequence[str]) -> tuple[str, ...]:
    ends = np.flatnonzero(row == END)
    written = row[: ends[0]] if len(ends) else np.trim_zeros(row, "b")  # PAD is 0
    return tuple(tokens[token] for token in written)
