"""Applies the decisions of reviewers to what the split is made from: labels of products, and which images are kept.

Each decision is counted by its effect, or by the reason why it has none. `atlas_model.data.decisions` says which
decisions count.
"""

from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from atlas_model.data.decisions import NO_CATEGORY, Verdict, suggestions, verdicts
from atlas_model.data.reviews import Reviews
from atlas_model.split.assign import ImageScore, SplitProduct
from atlas_model.taxonomy.names import clean_name
from atlas_model.taxonomy.tree import CategoryPath

CATEGORY_EFFECTS = {  # key in the report -> text of the message
    "changed": "labels changed",
    "confirmed": "labels confirmed",
    "excluded": "no category fits, discarded as not_in_taxonomy",
    "unsure": "not sure",
    "disagreement": "no majority of the reviewers, the label stays",
    "unknown_category": "category not in the taxonomy, or split in several, the label stays",
    "unknown_product": "product not in this snapshot",
}
ZOOM_EFFECTS = {
    "kept": "images kept that the filter discards",
    "discarded": "images discarded that the filter keeps",
    "confirmed": "as the filter decides",
    "unsure": "not sure",
    "disagreement": "no majority of the reviewers, the filter decides",
    "unreadable": "image cannot be decoded",
    "unknown_image": "image not in this snapshot",
}
Counts = dict[str, int]
Today = Callable[[CategoryPath], tuple[CategoryPath, ...]]  # what a path is after changes of the taxonomy


@dataclass(frozen=True)
class Reviewed:
    """The input of the split after the decisions."""

    products: dict[str, SplitProduct]
    scores: dict[str, ImageScore]
    messages: list[str]  # what changed, and what had no effect and why
    report: dict[str, Any]  # the key ``reviews`` of the metrics; empty if there are no records


def apply_reviews(
    reviews: Reviews,
    products: Mapping[str, SplitProduct],
    scores: Mapping[str, ImageScore],
    *,
    allowed: Container[CategoryPath] | None,
    today: Today,
) -> Reviewed:
    """Apply all decisions; arguments as of `reviewed_labels` and `reviewed_scores`."""
    corrected, of_labels = reviewed_labels(products, verdicts(reviews.records, "category"), allowed, today)
    kept, of_images = reviewed_scores(scores, verdicts(reviews.records, "zoom"))
    if not reviews.records:
        return Reviewed(corrected, kept, reviews.warnings(), {})
    count, waiting = len(reviews.reviewers), len(suggestions(reviews.records))
    messages = reviews.warnings()
    for what, counts, texts in (
        ("categories", of_labels, CATEGORY_EFFECTS),
        ("close-ups", of_images, ZOOM_EFFECTS),
    ):
        if counts:
            by = f"{count} {'reviewer' if count == 1 else 'reviewers'}"
            effects = "; ".join(f"{texts[effect]}: {number}" for effect, number in counts.items())
            messages.append(f"split: decisions on {what} of {by}: {sum(counts.values())}. {effects}")
    if waiting:
        messages.append(
            f"split: feedback of atlas serve, without effect before a review (atlas review --order feedback): {waiting}"
        )
    report = {"reviewers": count, "categories": of_labels, "zoom": of_images, "feedback": waiting}
    return Reviewed(corrected, kept, messages, {"reviews": report})


def reviewed_labels(
    products: Mapping[str, SplitProduct],
    verdicts: Mapping[str, Verdict],
    allowed: Container[CategoryPath] | None,
    today: Today = lambda path: (path,),
) -> tuple[dict[str, SplitProduct], Counts]:
    """Replace the categories of products by those that the reviewers chose.

    Args:
        products: by product_id, with the labels of the crawl.
        verdicts: on categories, by product_id.
        allowed: the taxonomy's paths; None: the taxonomy is made from the labels, so that every path is allowed.
        today: what a path is after changes of the taxonomy; a decision may be older than these.

    Returns:
        The products, and the number of decisions for each key of `CATEGORY_EFFECTS` that occurs. A product that fits
        no category gets an empty path, which is in no taxonomy.
    """
    corrected = dict(products)
    effects: Counter[str] = Counter()
    for product_id, verdict in verdicts.items():
        product = products.get(product_id)
        effect, category = _category_effect(product, verdict, allowed, today)
        effects[effect] += 1
        if product is not None and category is not None:
            corrected[product_id] = replace(product, category=category, fault="")
    return corrected, _in_order(effects, CATEGORY_EFFECTS)


def _category_effect(
    product: SplitProduct | None, verdict: Verdict, allowed: Container[CategoryPath] | None, today: Today
) -> tuple[str, CategoryPath | None]:
    """The effect of a verdict, and the new category, if it changes."""
    if product is None:
        return "unknown_product", None
    if verdict.answer is None:
        return ("disagreement" if verdict.votes else "unsure"), None
    if verdict.answer == NO_CATEGORY:
        return "excluded", NO_CATEGORY
    found = today(tuple(map(clean_name, verdict.answer)))
    if len(found) != 1 or (allowed is not None and found[0] not in allowed):
        return "unknown_category", None
    is_same = found[0] == product.category and not product.fault
    return ("confirmed", None) if is_same else ("changed", found[0])


def reviewed_scores(
    scores: Mapping[str, ImageScore], verdicts: Mapping[str, Verdict]
) -> tuple[dict[str, ImageScore], Counts]:
    """Replace the decisions of the close-up filter by those of the reviewers.

    Args:
        scores: of the stage zoom, by image_id.
        verdicts: on close-ups, by image_id.

    Returns:
        The scores, and the number of decisions for each key of `ZOOM_EFFECTS` that occurs.
    """
    corrected = dict(scores)
    effects: Counter[str] = Counter()
    for image_id, verdict in verdicts.items():
        score = scores.get(image_id)
        effect = _zoom_effect(score, verdict)
        effects[effect] += 1
        if score is not None and effect in ("kept", "discarded"):
            kept = effect == "kept"
            corrected[image_id] = replace(score, keep=kept, reason="normal" if kept else "zoomed")
    return corrected, _in_order(effects, ZOOM_EFFECTS)


def _zoom_effect(score: ImageScore | None, verdict: Verdict) -> str:
    if score is None:
        return "unknown_image"
    if verdict.answer is None:
        return "disagreement" if verdict.votes else "unsure"
    if score.phash is None:  # whatever a person saw, training could not read it
        return "unreadable"
    kept = verdict.answer == "normal"
    if kept == score.keep:
        return "confirmed"
    return "kept" if kept else "discarded"


def _in_order(effects: Counter[str], known: Mapping[str, str]) -> Counts:
    return {effect: effects[effect] for effect in known if effects[effect]}
