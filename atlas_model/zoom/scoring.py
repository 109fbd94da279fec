"""Scoring every picture as zoomed or normal, and fingerprinting it on the way, since it is decoded here anyway.

Nothing is deleted: each picture keeps its row, with the reason why it is kept or not. Knows nothing of products.
"""

from collections.abc import Collection, Iterable
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas_model.core.device import choose_device, one_thread_each
from atlas_model.core.errors import PictureError
from atlas_model.data.images import HASH_SIDE, decode, perceptual_hash
from atlas_model.data.schemas import IMAGES, SCORES, iterate_shards
from atlas_model.zoom.model import ZoomModel, scores

BATCH = 64  # pictures that a model sees at once, unless the caller says otherwise
READ_ROWS = 8  # of a shard, whose bytes are in memory together


def score_shard(shard: Path, *, model: Path | None, device: str, threshold: float, batch_size: int) -> pa.Table:
    """Score the pictures of one file of `records.IMAGES`, whoever does it: all that it needs are files.

    Args:
        shard: the file.
        model: folder of the model; None: nothing is scored, and every readable picture is kept.
        device: where the model runs, as of `choose_device`.
        threshold: as of `score_pictures`, as is what comes back.
        batch_size: pictures that the model sees at once.
    """
    with one_thread_each():
        trained = None if model is None else ZoomModel.load(model, choose_device(device))
        return score_pictures(iterate_shards(shard, IMAGES, "fetch", READ_ROWS), trained, threshold, batch_size)


def score_pictures(
    batches: Iterable[pa.RecordBatch], model: ZoomModel | None, threshold: float, batch_size: int = BATCH
) -> pa.Table:
    """Score pictures (`records.IMAGES`), whatever batches they come in.

    Memory has the bytes of the batch that is read, one decoded picture, and the few pixels that the model sees of each
    of ``batch_size`` others.

    Args:
        batches: rows with ``image_id`` and ``bytes``.
        model: that scores them; None: nothing does, and every readable picture is kept.
        threshold: a picture whose p_zoomed reaches it is not kept.
        batch_size: pictures that the model sees at once.

    Returns:
        A row of `records.SCORES` per picture, sorted by ``image_id``.
    """
    pictures = (
        (image_id.as_py(), content.as_py())
        for batch in batches
        for image_id, content in zip(batch["image_id"], batch["bytes"], strict=True)
    )
    scored = (_score_batch(islice(pictures, batch_size), model, threshold) for _ in count())
    return joined(takewhile(lambda table: table.num_rows, scored))


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """The rows of all tables of `records.SCORES`, sorted by ``image_id``."""
    return pa.concat_tables([SCORES.empty_table(), *tables]).sort_by("image_id")


def measure(table: pa.Table, zoomed_ids: Collection[str]) -> dict[str, Any]:
    """Precision, recall and F1 of the readable pictures in ``table``, where ``zoomed_ids`` is the truth."""
    readable = table.filter(pc.is_valid(table["p_zoomed"]))
    actual = np.array([image_id in zoomed_ids for image_id in readable["image_id"].to_pylist()], dtype=np.int64)
    predicted = np.array(pc.equal(readable["reason"], "zoomed").to_pylist(), dtype=np.int64)
    return scores(predicted, actual)


def discarded_share(table: pa.Table) -> float:
    """Of the readable pictures in ``table``, those that count as zoomed; 0 where there are none."""
    zoomed = pc.sum(pc.equal(table["reason"], "zoomed"), min_count=0).as_py()
    readable = pc.sum(pc.not_equal(table["reason"], "unreadable"), min_count=0).as_py()
    return zoomed / readable if readable else 0.0


def _score_batch(pictures: Iterable[tuple[str, bytes]], model: ZoomModel | None, threshold: float) -> pa.Table:
    pixels, rows = [], []
    side = HASH_SIDE if model is None else model.preprocessing.size
    for image_id, content in pictures:
        try:
            image = decode(content, side=side)
        except PictureError:
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
