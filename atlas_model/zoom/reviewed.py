"""Adds images that reviewers labelled as zoomed or normal to the labelled images of the close-up filter."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas_model.data.decisions import Verdict
from atlas_model.data.reviews import stored_image
from atlas_model.data.schemas import LABELLED

EFFECTS = {  # key in the report -> text of the message
    "added": "images added",
    "changed": "labels of labelled images changed",
    "confirmed": "labels confirmed",
    "unsure": "not sure",
    "disagreement": "no majority of the reviewers",
    "no_image": "image not in data/reviews/images",
}


def add_reviewed(labelled: pa.Table, verdicts: Mapping[str, Verdict], reviews: Path) -> tuple[pa.Table, dict[str, int]]:
    """Add the reviewed images to ``labelled``, and correct the labels of those that it contains.

    Args:
        labelled: `schemas.LABELLED`.
        verdicts: on close-ups, by image_id.
        reviews: the folder of the reviews, which contains the images.

    Returns:
        The table, in which images of one product have one ``source_id``, so that they stay in one split; and the number
        of decisions for each key of `EFFECTS` that occurs.
    """
    rows: list[dict[str, Any]] = labelled.to_pylist()
    of_image: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of_image.setdefault(row["image_id"], []).append(row)
    effects: Counter[str] = Counter()
    added: list[dict[str, Any]] = []
    for image_id, verdict in verdicts.items():
        if verdict.answer is None:
            effects["disagreement" if verdict.votes else "unsure"] += 1
        elif image_id in of_image:
            right = all(row["label"] == verdict.answer for row in of_image[image_id])
            effects["confirmed" if right else "changed"] += 1
            for row in of_image[image_id]:
                row["label"] = verdict.answer
        elif (data := stored_image(reviews, image_id)) is None:
            effects["no_image"] += 1
        else:
            effects["added"] += 1
            source_id = f"review:{verdict.product_id}"
            added.append(
                {"image_id": image_id, "bytes": data, "label": verdict.answer, "source_id": source_id, "title": ""}
            )
    counts = {effect: effects[effect] for effect in EFFECTS if effects[effect]}
    return pa.Table.from_pylist(rows + added, schema=LABELLED), counts
