"""Statistics of a split, for reports and metrics."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atlas_model.split.names import SPLITS
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath


def category_counts(labels: Sequence[str], splits: Sequence[str]) -> dict[str, Counter[str]]:
    """For each label, sorted, its number of images in each split."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for label, split in zip(labels, splits, strict=True):
        counts[label][split] += 1
    return dict(sorted(counts.items()))


def share_deviations(counts: Mapping[str, Counter[str]], asked: Mapping[str, float]) -> dict[str, float]:
    """For each label the largest difference, over the splits, between its share of images and the requested one.

    Args:
        counts: as `category_counts` returns.
        asked: share of each split.
    """
    return {
        label: round(max(abs(count[split] / count.total() - asked[split]) for split in SPLITS), 4)
        for label, count in counts.items()
    }


def missing_categories(
    labels: Iterable[str], outcomes: Sequence[tuple[CategoryPath, str, str]], *, only_trained: int
) -> dict[str, list[str]]:
    """For each split the labels without an image in it; for val and test only those with images in another split.

    Args:
        labels: of the taxonomy. Other labels of products are included, unless they were discarded as rare.
        outcomes: of each ref: its product's category and id, and its split or the reason why it was discarded.
        only_trained: categories with fewer products are in train only, by design.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)  # label -> splits
    products: defaultdict[str, set[str]] = defaultdict(set)
    rare: set[str] = set()
    for category, product_id, outcome in outcomes:
        label = SEPARATOR.join(category)
        if outcome in SPLITS:
            found[label].add(outcome)
            products[label].add(product_id)
        elif outcome == "rare_category":
            rare.add(label)
        elif outcome not in ("not_in_taxonomy", "duplicate"):
            found.setdefault(label, set())
    missing: dict[str, list[str]] = {split: [] for split in SPLITS}
    for label in dict.fromkeys([*labels, *sorted(found.keys() - rare - {""})]):
        measured = found[label] and len(products[label]) >= only_trained
        for split in SPLITS:
            if split not in found[label] and (split == "train" or measured):
                missing[split].append(label)
    return missing


def count_outcomes(outcomes: Sequence[str], product_ids: Sequence[str]) -> dict[str, Any]:
    """Count images and products of each split, and discarded images by reason."""
    counts = Counter(outcomes)
    products = {
        split: len({product for product, outcome in zip(product_ids, outcomes, strict=True) if outcome == split})
        for split in SPLITS
    }
    return {
        "refs": len(outcomes),
        "images_per_split": {split: counts[split] for split in SPLITS},
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
