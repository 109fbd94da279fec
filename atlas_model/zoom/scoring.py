"""Applies a zoom filter to every image, and computes its perceptual hash and its quality, from one decoded image.

Each image gets a row that says whether it is kept and why.
"""

from collections.abc import Collection, Iterable
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas_model.core.device import choose_device, single_threaded_torch
from atlas_model.core.errors import ImageError
from atlas_model.data.images import HASH_SIDE, decode, perceptual_hash
from atlas_model.data.schemas import IMAGES, SCORES, iterate_shards
from atlas_model.quality.measures import measure_image
from atlas_model.zoom.model import ZoomModel, binary_scores

BATCH = 64  # default of batch_size
READ_ROWS = 8  # rows of a shard in memory at once


def score_shard(shard: Path, *, model: Path | None, device: str, threshold: float, batch_size: int) -> pa.Table:
    """Score the images of one file of `schemas.IMAGES`; reads files only, so that any process can do it.

    Args:
        shard: the file.
        model: folder of the model; None: every readable image is kept.
        device: as in `choose_device`.
        threshold: as in `score_images`.
        batch_size: images per batch of the model.

    Returns:
        As `score_images`.
    """
    with single_threaded_torch():
        trained = None if model is None else ZoomModel.load(model, choose_device(device))
        return score_images(iterate_shards(shard, IMAGES, "fetch", READ_ROWS), trained, threshold, batch_size)


def score_images(
    batches: Iterable[pa.RecordBatch], model: ZoomModel | None, threshold: float, batch_size: int = BATCH
) -> pa.Table:
    """Score images (`schemas.IMAGES`).

    In memory are the bytes of one of ``batches``, one decoded image, and the model's input for ``batch_size`` images.

    Args:
        batches: rows with ``image_id`` and ``bytes``.
        model: the filter; None: every readable image is kept.
        threshold: images with at least this p_zoomed are not kept.
        batch_size: images per batch of the model.

    Returns:
        A row of `schemas.SCORES` per image, sorted by ``image_id``.
    """
    images = (
        (image_id.as_py(), content.as_py())
        for batch in batches
        for image_id, content in zip(batch["image_id"], batch["bytes"], strict=True)
    )
    scored = (_score_batch(islice(images, batch_size), model, threshold) for _ in count())
    return concatenate_scores(takewhile(lambda table: table.num_rows, scored))


def concatenate_scores(tables: Iterable[pa.Table]) -> pa.Table:
    """Concatenate tables of `schemas.SCORES`, sorted by ``image_id``."""
    return pa.concat_tables([SCORES.empty_table(), *tables]).sort_by("image_id")


def measure(table: pa.Table, zoomed_ids: Collection[str]) -> dict[str, Any]:
    """Precision, recall and F1 on the readable images in ``table``; ``zoomed_ids`` is the ground truth."""
    readable = table.filter(pc.is_valid(table["p_zoomed"]))
    actual = np.array([image_id in zoomed_ids for image_id in readable["image_id"].to_pylist()], dtype=np.int64)
    predicted = np.array(pc.equal(readable["reason"], "zoomed").to_pylist(), dtype=np.int64)
    return binary_scores(predicted, actual)


def discarded_share(table: pa.Table) -> float:
    """Share of the readable images in ``table`` that are discarded as zoomed; 0 if there are none."""
    zoomed = pc.sum(pc.equal(table["reason"], "zoomed"), min_count=0).as_py()
    readable = pc.sum(pc.not_equal(table["reason"], "unreadable"), min_count=0).as_py()
    return zoomed / readable if readable else 0.0


def _score_batch(images: Iterable[tuple[str, bytes]], model: ZoomModel | None, threshold: float) -> pa.Table:
    pixels, rows = [], []
    side = HASH_SIDE if model is None else model.preprocessing.size
    for image_id, content in images:
        try:
            image = decode(content, side=side)
        except ImageError:
            rows.append(_row(image_id, keep=False, reason="unreadable"))
            continue
        if model is not None:
            pixels.append(model.pixels(image))
        reason = "not_filtered" if model is None else "normal"
        row = _row(image_id, keep=True, reason=reason)
        rows.append({**row, "phash": int(perceptual_hash(image)), **measure_image(image)})
    if model is not None and pixels:
        scored = [row for row in rows if row["keep"]]
        for row, p_zoomed in zip(scored, model.probabilities(np.stack(pixels)), strict=True):
            row["p_zoomed"] = float(p_zoomed)
            if p_zoomed >= threshold:
                row.update(keep=False, reason="zoomed")
    return pa.Table.from_pylist(rows, schema=SCORES)


def _row(image_id: str, *, keep: bool, reason: str) -> dict[str, Any]:
    return {"image_id": image_id, "p_zoomed": None, "keep": keep, "reason": reason, "phash": None}
