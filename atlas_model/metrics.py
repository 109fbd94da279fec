"""Figures of merit of predicted category paths.

Every picture has one path and gets one, so the micro-averaged F score is the share of exact paths. Knows nothing
of models or splits: indices of paths in, plain numbers out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from atlas_model.taxonomy import END, Taxonomy


def path_scores(actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], taxonomy: Taxonomy) -> dict[str, Any]:
    """Headline figures; each None where there is no picture.

    Returns:
        ``micro_f1`` (= share of exact paths), ``macro_f1`` (mean over the categories that occur in ``actual``),
        ``level_accuracy`` (see `level_accuracy`), ``n``.
    """
    if not len(actual):
        return {"micro_f1": None, "macro_f1": None, "level_accuracy": [], "n": 0}
    macro = f1_score(actual, predicted, labels=np.unique(actual), average="macro", zero_division=0)
    return {
        "micro_f1": float((actual == predicted).mean()),
        "macro_f1": float(macro),
        "level_accuracy": level_accuracy(actual, predicted, taxonomy),
        "n": len(actual),
    }


def level_accuracy(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], taxonomy: Taxonomy
) -> list[float | None]:
    """For each level, among pictures whose path reaches it: the share that is right down to it."""
    tokens = taxonomy.targets[:, : taxonomy.depth]  # (paths, depth)
    right = np.logical_and.accumulate(tokens[actual] == tokens[predicted], axis=1)  # (n, depth)
    reached = tokens[actual] > END
    return [
        float(right[reached[:, level], level].mean()) if reached[:, level].any() else None
        for level in range(taxonomy.depth)
    ]


def category_scores(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], taxonomy: Taxonomy
) -> list[dict[str, str | float | int]]:
    """Precision, recall, F and count of each category that is met on either side, in the taxonomy's order."""
    met = np.union1d(actual, predicted)
    columns = precision_recall_fscore_support(actual, predicted, labels=met, zero_division=0)
    return [
        {
            "category": taxonomy.labels[index],
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "n": int(count),
        }
        for index, precision, recall, f1, count in zip(met, *columns, strict=True)
    ]


def confusion(
    actual: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m m"]]:
    """The categories that are met on either side, and how often each (row) was called each (column)."""
    met = np.union1d(actual, predicted)
    return met, confusion_matrix(actual, predicted, labels=met)


def invalid_paths(tokens: Int[np.ndarray, "n t"], taxonomy: Taxonomy) -> int:
    """How many of the written sequences are no path of the taxonomy.

    Judged by the names alone, without the trie that the search walked. What stands after END does not count; a
    sequence that never ends is a path if its names are one.
    """
    valid = set(taxonomy.paths)
    return sum(_names(row, taxonomy.tokens) not in valid for row in tokens)


def _names(row: Int[np.ndarray, "t"], tokens: Sequence[str]) -> tuple[str, ...]:
    ends = np.flatnonzero(row == END)
    written = row[: ends[0]] if len(ends) else np.trim_zeros(row, "b")  # PAD is 0
    return tuple(tokens[token] for token in written)
