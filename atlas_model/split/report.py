"""Statistics of a split, for reports and metrics."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas_model.data.csv_cells import for_cell
from atlas_model.split.names import SPLITS
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath

NO_CATEGORY_OF_TODAY = ("not_in_taxonomy", "category_split", "category_removed")  # outcomes

if TYPE_CHECKING:
    import pandas as pd  # imported where it is used: it takes tenths of a second


def category_counts(labels: Sequence[str], splits: Sequence[str]) -> "pd.DataFrame":
    """The images of each category (row, sorted) in each split (column)."""
    import pandas as pd

    counts = pd.crosstab(pd.Series(labels, name="category"), pd.Series(splits, name="split"))
    return counts.reindex(columns=list(SPLITS), fill_value=0)


def share_deviations(counts: "pd.DataFrame", asked: Mapping[str, float]) -> dict[str, float]:
    """For each category the largest difference, over the splits, between its share of images and the requested one.

    Args:
        counts: as `category_counts` returns.
        asked: share of each split.
    """
    shares = counts.div(counts.sum(axis="columns"), axis="index")
    deviations = shares.sub([asked[split] for split in SPLITS]).abs().max(axis="columns")
    return {str(category): round(deviation, 4) for category, deviation in deviations.items()}


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
        elif outcome not in NO_CATEGORY_OF_TODAY and outcome != "duplicate":
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


def categories_csv(counts: "pd.DataFrame") -> str:
    """``category,split,n`` for plotting."""
    rows = counts.reset_index().melt("category", value_name="n").sort_values("category", kind="stable")
    rows["category"] = rows["category"].map(for_cell)
    return rows.to_csv(index=False, lineterminator="\n")
