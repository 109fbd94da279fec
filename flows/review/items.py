"""What the page shows of a product or an image, as JSON values. All texts are untrusted: the page never parses them."""

from typing import Any
from urllib.parse import urlsplit

from atlas_model.data.decisions import answer_of
from atlas_model.data.reviews import CategoryDecision, Decision
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath
from flows.review.catalogue import LABEL_ERROR, Catalogue
from flows.review.model import ALTERNATIVES, Advisor

MAX_IMAGES = 24  # of a product

Item = dict[str, Any]


def category_item(catalogue: Catalogue, advisor: Advisor, product_id: str) -> Item:
    """A product, its images, and the categories to choose from, the prediction first."""
    label = catalogue.label(product_id)
    shown = catalogue.shown_first(product_id)
    facts = catalogue.facts(product_id)
    issues = [issue for image_id in shown for issue in catalogue.issues.get(image_id, ())]
    suspected = [issue for issue in issues if issue.issue == LABEL_ERROR]
    return {
        **_facts(facts),
        "queue": "categories",
        "subject": product_id,
        "product_id": product_id,
        "images": [_image(catalogue, image_id) for image_id in shown[:MAX_IMAGES]],
        "label": list(label),
        "label_known": label in catalogue.taxonomy and not catalogue.successors(product_id),
        "suspected": max((issue.score for issue in suspected), default=None),
        "choices": _choices(catalogue, advisor, product_id, facts["title"], label),
        "split": catalogue.predictions[product_id].split if product_id in catalogue.predictions else None,
    }


def _choices(
    catalogue: Catalogue, advisor: Advisor, product_id: str, title: str, label: CategoryPath
) -> list[dict[str, Any]]:
    """At most `ALTERNATIVES` paths; the label is always among them, if it is in the taxonomy.

    If the label was split, its successors are the first ones, the most probable first.
    """
    taxonomy = catalogue.taxonomy
    scores = catalogue.zoom_scores
    shown = catalogue.shown_first(product_id)
    kept = [image_id for image_id in shown if image_id not in scores or scores[image_id].keep]
    found: dict[CategoryPath, float | None] = dict(advisor.alternatives(tuple(kept or shown), title))
    stored = catalogue.predictions.get(product_id)
    if not found and stored is not None:
        path = tuple(stored.label.split(SEPARATOR))
        if path in taxonomy:
            found[path] = stored.probability
    if label in taxonomy and label not in found:
        found = dict(list(found.items())[: ALTERNATIVES - 1])
        found[label] = None
    successors = [path for path in catalogue.successors(product_id) if path in taxonomy]
    first = sorted(successors, key=lambda path: -(found.get(path) or 0))
    found = dict(list(({path: found.get(path) for path in first} | found).items())[: max(ALTERNATIVES, len(first))])
    return [
        {"index": taxonomy.index(path), "path": list(path), "probability": probability, "is_label": path == label}
        for path, probability in found.items()
    ]


def suggest(catalogue: Catalogue, item: Item, suggestion: CategoryDecision) -> Item:
    """``item`` with the category that a user of `atlas serve` suggests, if any, as the first choice."""
    path = suggestion.category or ()
    others = [choice for choice in item["choices"] if tuple(choice["path"]) != path]
    found = [choice for choice in item["choices"] if tuple(choice["path"]) == path]
    if not found and path in catalogue.taxonomy:
        index, is_label = catalogue.taxonomy.index(path), list(path) == item["label"]
        found = [{"index": index, "path": list(path), "probability": None, "is_label": is_label}]
    said = vote(suggestion)["answer"] if path else "the prediction is wrong"
    votes = [{"reviewer": f"{suggestion.reviewer}, to the service", "answer": said}]
    return item | {"choices": (found + others)[:ALTERNATIVES], "votes": votes}


def zoom_item(catalogue: Catalogue, image_id: str) -> Item:
    """An image, its product, and the filter's answer first."""
    product_id = catalogue.product_of[image_id]
    score = catalogue.zoom_scores[image_id]
    p_zoomed = 0.0 if score.p_zoomed is None else score.p_zoomed
    choices = [
        {"answer": "zoomed", "probability": p_zoomed},
        {"answer": "normal", "probability": 1 - p_zoomed},
    ]
    return {
        **_facts(catalogue.facts(product_id)),
        "queue": "zoom",
        "subject": image_id,
        "product_id": product_id,
        "images": [_image(catalogue, image_id)],
        "label": list(catalogue.label(product_id)),
        "choices": choices if score.reason == "zoomed" else choices[::-1],
    }


def vote(decision: Decision) -> dict[str, Any]:
    """A reviewer's decision, for the lists of disagreements."""
    answer = decision.answer
    if answer in ("unsure", "none"):
        return {"reviewer": decision.reviewer, "answer": answer}
    found = answer_of(decision)
    return {"reviewer": decision.reviewer, "answer": found if isinstance(found, str) else SEPARATOR.join(found)}


def _facts(facts: dict[str, Any]) -> dict[str, Any]:
    price = facts["price"]
    url = facts["page_url"] or ""
    return {
        "title": facts["title"],
        "site": facts["site"],
        "brand": facts["brand"],
        "breadcrumb": facts["breadcrumb"],
        "price": None if price is None else f"{price:,.2f} {facts['currency'] or ''}".strip(),
        "page_url": url if _is_web(url) else None,
    }


def _is_web(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:
        return False


def _image(catalogue: Catalogue, image_id: str) -> dict[str, Any]:
    score = catalogue.zoom_scores.get(image_id)
    issues = catalogue.issues.get(image_id, ())
    return {
        "id": image_id,
        "kept": score is None or score.keep,
        "reason": None if score is None else score.reason,
        "issues": [
            {"issue": each.issue, "score": each.score, "detail": each.detail}
            for each in sorted(issues, key=lambda issue: -issue.score)
        ],
    }
