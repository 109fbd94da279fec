"""Reasons for which the split discards images, and how to keep them."""

NOT_FETCHED = "not_fetched"  # the kind of all reasons that are statuses of fetch: http_404, timeout, ...
REMEDIES = {  # kind of reason -> explanation and remedy
    "zoomed": "the stage zoom classified them as close-ups. zoom.enabled: false keeps every image; zoom.filter and "
    "zoom.threshold change the classifier",
    "unreadable": "the files cannot be decoded. Download them again, or replace them",
    "category_split": "split.taxonomy_changes splits their categories, so someone has to decide: "
    "reports/split/undecided.csv lists the products",
    "category_removed": "split.taxonomy_changes removes their categories. Name successors there",
    "not_in_taxonomy": "their categories are not in split.taxonomy. Add them there, or set split.labels: met",
    "too_small": "their shorter side is below split.min_side, as with tracking pixels and placeholders",
    "shared_image": "each belongs to more than split.max_products_per_image products, as a size chart or a placeholder "
    "does. Raise that number if these are images of products",
    "label_conflict": "each belongs to products of several categories. Give each image one category",
    "duplicate": "another product has the same image. Use more distinct images",
    "rare_category": "their categories have fewer than split.min_products products. Lower it, or set split.rare: train",
    "near_duplicate": "they look like images of another split. Lower split.near_duplicate_distance",
    NOT_FETCHED: "they could not be downloaded. reports/fetch/metrics.json counts the reasons; "
    "atlas fetch --retry-failed requests them again",
}


def kind_of(reason: str) -> str:
    """The key of `REMEDIES` for a reason of `assign.split_refs`."""
    kind = "near_duplicate" if reason.startswith("near_duplicate") else reason
    return kind if kind in REMEDIES else NOT_FETCHED
