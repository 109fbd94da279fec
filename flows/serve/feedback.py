"""Feedback of users, appended to the records of reviews, from which the next `dvc repro` learns.

A confirmed or corrected category is a decision of the named reviewer, like one that is made in `atlas review`; a
prediction that is only called wrong is stored as "unsure", which is no vote. The image is stored beside the records.
"""

import uuid
from pathlib import Path

from atlas_model.data.reviews import CategoryDecision, Shown, append_record, now, reviewer_name, store_image
from flows.serve.schemas import FeedbackRequest

ANONYMOUS = "service"  # reviewer of feedback without a name
ORDER = "service"  # marks records of the service: they were shown on request, and not from a queue


def store_feedback(folder: Path, given: FeedbackRequest, image_id: str | None, data: bytes | None) -> CategoryDecision:
    """Append one record; returns it.

    Args:
        folder: of the reviews.
        given: the feedback.
        image_id: of the image, if one was sent.
        data: its bytes, which were decoded before.

    Raises:
        InputError: the name of the reviewer is not valid.
        AtlasError: it could not be stored.
    """
    category = tuple(given.predicted) if given.verdict == "right" else tuple(given.category or ()) or None
    record = CategoryDecision(
        id=uuid.uuid4().hex,
        at=now(),
        reviewer=reviewer_name(given.reviewer or ANONYMOUS),
        product_id=given.product_id or f"image-{image_id}",
        image_id=image_id,
        answer="unsure" if category is None else "category",
        category=category,
        shown=Shown(predicted=tuple(given.predicted) or None, probability=given.probability, order=ORDER),
    )
    if image_id is not None and data is not None:
        store_image(folder, image_id, data)
    append_record(folder, record)
    return record
