"""Scoring every image as zoomed or normal, and fingerprinting it on the way, since it is decoded here anyway.

Nothing is deleted: each image keeps its row, with the reason why it is kept or not. Knows nothing of products.
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
from atlas_model.zoom.model import ZoomModel, binary_scores

BATCH = 64  # images that a model sees at once, unless the caller says otherwise
READ_ROWS = 8  # of a shard, whose bytes are in memory together


def score_shard(shard: Path, *, model: Path | None, device: str, threshold: float, batch_size: int) -> pa.Table:
    """Score the images of one file of `records.IMAGES`, whoever does it: all that it needs are files.

    Args:
        shard: the file.
        model: folder of the model; None: nothing is scored, and every readable image is kept.
        device: where the model runs, as of `choose_device`.
        threshold: as of `score_images`, as is what comes back.
        batch_size: images that the model sees at once.
    """
    with single_threaded_torch():
        trained = None if model is None else ZoomModel.load(model, choose_device(device))
        return score_images(iterate_shards(shard, IMAGES, "fetch", READ_ROWS), trained, threshold, batch_size)


def score_images(
    batches: Iterable[pa.RecordBatch], model: ZoomModel | None, threshold: float, batch_size: int = BATCH
) -> pa.Table:
    """Score images (`records.IMAGES`), whatever batches they come in.

    Memory has the bytes of the batch that is read, one decoded image, and the few pixels that the model sees of each
    of ``batch_size`` others.

    Args:
        batches: rows with ``image_id`` and ``bytes``.
        model: that scores them; None: nothing does, and every readable image is kept.
        threshold: an image whose p_zoomed reaches it is not kept.
        batch_size: images that the model sees at once.

    Returns:
        A row of `records.SCORES` per image, sorted by ``image_id``.
    """
    images = (
        (image_id.as_py(), content.as_py())
        for batch in batches
        for image_id, content in zip(batch["image_id"], batch["bytes"], strict=True)
    )
    scored = (_score_batch(islice(images, batch_size), model, threshold) for _ in count())
    return concatenate_scores(takewhile(lambda table: table.num_rows, scored))


def concatenate_scores(tables: Iterable[pa.Table]) -> pa.Table:
    """The rows of all tables of `records.SCORES`, sorted by ``image_id``."""
    return pa.concat_tables([SCORES.empty_table(), *tables]).sort_by("image_id")


def measure(table: pa.Table, zoomed_ids: Collection[str]) -> dict[str, Any]:
    """Precision, recall and F1 of the readable images in ``table``, where ``zoomed_ids`` is the truth."""
    readable = table.filter(pc.is_valid(table["p_zoomed"]))
    actual = np.array([image_id in zoomed_ids for image_id in readable["image_id"].to_pylist()], dtype=np.int64)
    predicted = np.array(pc.equal(readable["reason"], "zoomed").to_pylist(), dtype=np.int64)
    return binary_scores(predicted, actual)


def discarded_share(table: pa.Table) -> float:
    """Of the readable images in ``table``, those that count as zoomed; 0 where there are none."""
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
        rows.append({**_row(image_id, keep=True, reason=reason), "phash": int(perceptual_hash(image))})
    if model is not None and pixels:
        scored = [row for row in rows if row["keep"]]
        for row, p_zoomed in zip(scored, model.probabilities(np.stack(pixels)), strict=True):
            row["p_zoomed"] = float(p_zoomed)
            if p_zoomed >= threshold:
                row.update(keep=False, reason="zoomed")
    return pa.Table.from_pylist(rows, schema=SCORES)


def _row(image_id: str, *, keep: bool, reason: str) -> dict[str, Any]:
    return {"image_id": image_id, "p_zoomed": None, "keep": keep, "reason": reason, "phash": None}
