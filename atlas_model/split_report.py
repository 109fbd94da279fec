"""How a split turned out, for people and metrics. Knows nothing of how it was made."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_model.splitting import SPLITS


def category_counts(labels: Sequence[str], splits: Sequence[str]) -> dict[str, Counter[str]]:
    """For each label, sorted, its number of pictures in each split."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for label, split in zip(labels, splits, strict=True):
        counts[label][split] += 1
    return dict(sorted(counts.items()))


def share_deviations(counts: Mapping[str, Counter[str]], asked: Mapping[str, float]) -> dict[str, float]:
    """For each label how far its share of pictures in a split is from the asked one, in the worst split.

    Args:
        counts: as `category_counts` returns.
        asked: share of each split.
    """
    return {
        label: round(max(abs(count[split] / count.total() - asked[split]) for split in SPLITS), 4)
        for label, count in counts.items()
    }


def count_outcomes(outcomes: Sequence[str], product_ids: Sequence[str]) -> dict[str, Any]:
    """Refs by what became of them: pictures and products of each split, and what was left out by reason."""
    counts = Counter(outcomes)
    products = {
        split: len({product for product, outcome in zip(product_ids, outcomes, strict=True) if outcome == split})
        for split in SPLITS
    }
    return {
        "refs": len(outcomes),
        "pictures": {split: counts[split] for split in SPLITS},
        "products": products,
        "dropped": {reason: count for reason, count in sorted(counts.items()) if reason not in SPLITS},
    }


def categories_csv(counts: Mapping[str, Counter[str]]) -> str:
    """``category,split,n`` for plotting."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["category", "split", "n"])
    writer.writerows([label, split, count[split]] for label, count in counts.items() for split in SPLITS)
    return text.getvalue()
