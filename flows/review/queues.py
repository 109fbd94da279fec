"""In which order products and images are reviewed.

An order is a list of all subjects of a queue, computed once; `session` leaves out those that are decided.
"""

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

from atlas_model.core.errors import InputError
from flows.review.catalogue import LABEL_ERROR, Catalogue

Queue = Literal["categories", "zoom"]
Order = Literal["uncertain", "errors", "unlabelled", "issues", "feedback", "disagreements", "random"]
QUEUES: tuple[Queue, ...] = get_args(Queue)
ORDERS: dict[Order, str] = {  # order -> its name on the page
    "uncertain": "Least certain first",
    "errors": "Likely errors first",
    "unlabelled": "Without a usable label",
    "issues": "Quality issues first",
    "feedback": "Feedback to the service",
    "disagreements": "Reviewers disagree",
    "random": "Random sample",
}
OF_CATEGORIES_ONLY: set[Order] = {"unlabelled", "feedback"}


def available_orders(queue: Queue) -> list[Order]:
    """The orders of a queue."""
    return [order for order in ORDERS if queue == "categories" or order not in OF_CATEGORIES_ONLY]


def ordered(catalogue: Catalogue, queue: Queue, order: Order, seed: int) -> list[str]:
    """The subjects of a queue (product ids or image ids) in ``order``; disagreements and feedback are in `session`.

    * uncertain: by the probability of the prediction, the lowest first. Then products without a stored prediction,
      those without a usable label first. For close-ups: the nearest to the filter's threshold first.
    * errors: likely label errors by their score (confident learning, of the stage evaluate); without that file,
      products whose label differs from the prediction, the most confident first. For close-ups: the images that the
      filter discards, the least certain first.
    * unlabelled: products whose label is not in the taxonomy.
    * issues: by the highest score of a quality issue.
    * random: a seeded sample. For categories of products on which the model was not trained (val and test), so that
      the accuracy in the sample estimates that of the model and of the labels.

    Raises:
        InputError: the queue does not have this order.
    """
    if order not in available_orders(queue):
        raise InputError(f"order: expected one of {', '.join(available_orders(queue))} for {queue}, got {order}")
    return _of_categories(catalogue, order, seed) if queue == "categories" else _of_zoom(catalogue, order, seed)


def _of_categories(catalogue: Catalogue, order: Order, seed: int) -> list[str]:
    predictions = catalogue.predictions
    products = [product_id for product_id in catalogue.row_of if product_id in catalogue.images_of]
    if order == "random":
        held_out = [each for each in products if each in predictions and predictions[each].split in ("val", "test")]
        return _shuffled(held_out or products, seed)
    if order == "errors":
        return _by_score(products, _label_error_scores(catalogue))
    if order == "issues":
        return _by_score(products, {product_id: _issue_score(catalogue, product_id) for product_id in products})
    if order == "unlabelled":
        return [each for each in products if each in catalogue.unlabelled]
    predicted = [each for each in products if each in predictions]
    others = [each for each in products if each not in predictions]
    predicted.sort(key=lambda each: predictions[each].probability)
    others.sort(key=lambda each: each not in catalogue.unlabelled)
    return predicted + others


def _label_error_scores(catalogue: Catalogue) -> dict[str, float]:
    found: dict[str, float] = {}
    for image_id, issues in catalogue.issues.items():
        for issue in issues:
            if issue.issue == LABEL_ERROR and image_id in catalogue.product_of:
                product_id = catalogue.product_of[image_id]
                found[product_id] = max(found.get(product_id, 0.0), issue.score)
    if found:
        return found
    from atlas_model.taxonomy.tree import SEPARATOR

    return {
        product_id: prediction.probability
        for product_id, prediction in catalogue.predictions.items()
        if product_id in catalogue.row_of and prediction.label != SEPARATOR.join(catalogue.label(product_id))
    }


def _issue_score(catalogue: Catalogue, product_id: str) -> float:
    issues = (issue for image_id in catalogue.images_of[product_id] for issue in catalogue.issues.get(image_id, ()))
    return max((issue.score for issue in issues if issue.issue != LABEL_ERROR), default=0.0)


def _of_zoom(catalogue: Catalogue, order: Order, seed: int) -> list[str]:
    scores = catalogue.zoom_scores
    images = [each for each in catalogue.product_of if each in scores and scores[each].p_zoomed is not None]
    if order == "random":
        return _shuffled(sorted(images), seed)
    if order == "issues":
        worst = {
            each: max(
                (issue.score for issue in catalogue.issues.get(each, ()) if issue.issue != LABEL_ERROR), default=0
            )
            for each in images
        }
        return _by_score(images, worst)
    if order == "errors":
        images = [each for each in images if not scores[each].keep]
    probabilities = np.array([scores[each].p_zoomed for each in images], dtype=np.float64).clip(1e-12, 1 - 1e-12)
    threshold = min(max(catalogue.threshold, 1e-12), 1 - 1e-12)
    # In log-odds: many scores are within rounding of 0 or 1, which probabilities would not tell apart.
    distance = np.abs(np.log(probabilities / (1 - probabilities)) - np.log(threshold / (1 - threshold)))
    return [images[index] for index in np.argsort(distance, kind="stable").tolist()]


def _by_score(subjects: Iterable[str], scores: dict[str, float]) -> list[str]:
    """Those with a score above 0, the highest first."""
    scored = [each for each in subjects if scores.get(each, 0) > 0]
    return sorted(scored, key=lambda each: -scores[each])


def _shuffled(subjects: list[str], seed: int) -> list[str]:
    order = np.random.default_rng(seed).permutation(len(subjects))
    return [subjects[index] for index in order.tolist()]
