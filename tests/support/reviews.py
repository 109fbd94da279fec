"""Decisions of reviewers, each later than the one before."""

import os
from itertools import count
from typing import Any

from atlas_model.data.reviews import CategoryDecision, Shown, Undo, ZoomDecision

_numbers = count()


def _common(reviewer: str) -> dict[str, Any]:
    number = next(_numbers)
    return {"id": f"{os.getpid():016x}{number:016x}", "at": f"2026-11-30T12:00:00.{number:06d}Z", "reviewer": reviewer}


def category(
    product_id: str,
    path: str | None,
    reviewer: str = "anna",
    answer: str = "category",
    order: str | None = None,
    image_id: str | None = None,
) -> CategoryDecision:
    """A decision on the category; ``path``: "A > B"."""
    names = tuple(path.split(" > ")) if path else None
    given: Any = {"product_id": product_id, "answer": answer, "category": names, "image_id": image_id}
    given["shown"] = Shown(order=order) if order else None
    return CategoryDecision(**_common(reviewer), **given)


def zoom(image_id: str, answer: str, reviewer: str = "anna", product_id: str = "p") -> ZoomDecision:
    """A decision on a close-up."""
    given: Any = {"image_id": image_id, "product_id": product_id, "answer": answer}
    return ZoomDecision(**_common(reviewer), **given)


def undo(of: CategoryDecision | ZoomDecision, reviewer: str | None = None) -> Undo:
    """The withdrawal of a decision."""
    return Undo(**_common(reviewer or of.reviewer), undoes=of.id)
