"""Counts leaks between splits: products, and near-duplicate images, that are in two of them.

A simple check that shares no code with `assign` and `grouping`: it compares every image with every image of the other
splits.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import UInt64

PAIRS_AT_ONCE = 4_000_000  # 32 MB of differences


def count_product_leaks(product_ids: Sequence[str], splits: Sequence[str]) -> int:
    """Count the products that are in more than one split."""
    splits_of: defaultdict[str, set[str]] = defaultdict(set)
    for product_id, split in zip(product_ids, splits, strict=True):
        splits_of[product_id].add(split)
    return sum(len(found) > 1 for found in splits_of.values())


def count_near_duplicate_leaks(hashes: UInt64[np.ndarray, "n"], splits: Sequence[str], distance: int) -> int:
    """Count the pairs of images in different splits whose hashes differ in at most ``distance`` bits."""
    split = np.array(splits)
    return sum(
        _count_near(hashes[split == one], hashes[split == other], distance)
        for one, other in combinations(sorted(set(splits)), 2)
    )


def _count_near(one: UInt64[np.ndarray, "n"], other: UInt64[np.ndarray, "m"], distance: int) -> int:
    rows = max(1, PAIRS_AT_ONCE // len(other))
    starts = range(0, len(one), rows)
    return sum(
        int((np.bitwise_count(one[start : start + rows, None] ^ other[None]) <= distance).sum()) for start in starts
    )
