"""Feedback of users, appended to the records of reviews.

It has the form of a decision, marked as feedback: a suggestion, which has no effect before somebody
decides in `atlas review --order feedback`. A prediction that is only called wrong is stored as "unsure". The image is
stored beside the records.
"""

import uuid
from pathlib import Path

from atlas_model.data.reviews import SERVICE, CategoryDecision, Shown, append_record, now, reviewer_name, store_image
from flows.serve.schemas import FeedbackRequest

ANONYMOUS = "service"  # reviewer of feedback without a name


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
        shown=Shown(predicted=tuple(given.predicted) or None, probability=given.probability, order=SERVICE),
    )
    if image_id is not None and data is not None:
        store_image(folder, image_id, data)
    append_record(folder, record)
    return record
