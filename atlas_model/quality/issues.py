"""Scores images by their measures, one kind of issue at a time, and lists those that reach a threshold.

The kinds dark, light, blank and odd_aspect are those of the package cleanvision, whose scores are 1 minus these.
docs/data-quality.md compares the results.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from atlas_model.data.schemas import QUALITY
from atlas_model.quality.measures import SMALL_THUMBNAIL

IMAGE_ISSUES = ("dark", "light", "blurred", "blank", "tiny", "odd_aspect")
MAX_ENTROPY = 8  # bits, of 256 levels of grey

Thresholds = Mapping[str, float | None]  # issue -> score from which it is listed; None: the issue is not searched


def score_images(
    measures: Mapping[str, Float[np.ndarray, "n"]],
    width: Int[np.ndarray, "n"],
    height: Int[np.ndarray, "n"],
    *,
    input_side: int,
) -> dict[str, Float[np.ndarray, "n"]]:
    """The score of each image for each of `IMAGE_ISSUES`, range [0, 1], 1: most suspicious; NaN: unknown.

    Args:
        measures: the columns of `measures.ImageMeasures`; NaN for images that cannot be decoded.
        width: px.
        height: px.
        input_side: of the model's square input, px. An image is tiny by the share that its shorter side lacks, and its
            blur is that of the thumbnail of about this size.
    """
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    return {
        "dark": 1 - measures["brightness_high"],
        "light": measures["brightness_low"],
        "blurred": measures["blur_32" if input_side <= SMALL_THUMBNAIL else "blur_64"],
        "blank": 1 - measures["entropy"] / MAX_ENTROPY,
        "tiny": np.clip(1 - shorter / input_side, 0, 1),
        "odd_aspect": 1 - shorter / longer,
    }


def list_issue(
    issue: str,
    image_ids: Sequence[str],
    scores: Float[np.ndarray, "n"],
    threshold: float | None,
    details: Sequence[str | None] | None = None,
) -> pa.Table:
    """A row of `schemas.QUALITY` for each image whose score is known and at least ``threshold``; none if it is None."""
    at = np.flatnonzero(scores >= threshold).tolist() if threshold is not None else []
    return pa.table(
        {
            "image_id": [image_ids[index] for index in at],
            "issue": [issue] * len(at),
            "score": scores[at].astype(np.float32),
            "detail": [details[index] for index in at] if details is not None else pa.nulls(len(at), pa.string()),
        },
        schema=QUALITY,
    )


def join_issues(tables: Iterable[pa.Table]) -> pa.Table:
    """One table of `schemas.QUALITY`: the issues in their order, each with the most suspicious image first."""
    ranked = (table.sort_by([("score", "descending"), ("image_id", "ascending")]) for table in tables)
    return pa.concat_tables([QUALITY.empty_table(), *ranked])


def count_issues(table: pa.Table, kept: Collection[str]) -> dict[str, dict[str, int]]:
    """Count the rows of ``table`` by issue: images that are in a split (``kept``), and the others."""
    counts = Counter(
        (issue, image_id in kept)
        for issue, image_id in zip(table["issue"].to_pylist(), table["image_id"].to_pylist(), strict=True)
    )
    issues = dict.fromkeys(issue for issue, _ in counts)
    return {issue: {"kept": counts[issue, True], "discarded": counts[issue, False]} for issue in issues}
