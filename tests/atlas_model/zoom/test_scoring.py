"""Scoring of all images: one row with a reason per image."""

import io
import weakref

import pyarrow as pa
import pytest
from PIL import Image

from atlas_model.data.images import decode, perceptual_hash
from atlas_model.data.schemas import IMAGES, SCORES
from atlas_model.zoom import scoring
from atlas_model.zoom.model import ZoomModel
from atlas_model.zoom.scoring import discarded_share, measure, score_images
from atlas_model.zoom.training import ZoomEpoch
from tests.support.zoom_images import IMAGE_ROWS, image, image_row


def test_each_image_has_a_row_and_a_reason(trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    batches = pa.Table.from_pylist(IMAGE_ROWS, schema=IMAGES).to_batches(max_chunksize=3)
    table = score_images(batches, trained[0], trained[0].threshold)
    assert table.schema == SCORES
    rows = table.to_pylist()
    assert [found["image_id"] for found in rows] == ["a", "b", "c", "d"]
    assert [found["reason"] for found in rows] == ["zoomed", "unreadable", "normal", "zoomed"]
    assert [found["keep"] for found in rows] == [False, False, True, False]
    assert rows[1]["p_zoomed"] is None and rows[1]["phash"] is None
    with Image.open(io.BytesIO(IMAGE_ROWS[3]["bytes"])) as image:
        assert rows[0]["phash"] == perceptual_hash(image)
    found = measure(table, zoomed_ids={"a", "c", "b"})
    assert (found["precision_zoomed"], found["recall_zoomed"], found["n"]) == (0.5, 0.5, 3)
    strict = score_images(batches, trained[0], threshold=0.0)
    assert strict["reason"].to_pylist() == ["zoomed", "unreadable", "zoomed", "zoomed"]


def test_no_images_give_an_empty_table(trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    table = score_images([], trained[0], 0.5)
    assert (table.num_rows, table.schema) == (0, SCORES)
    assert measure(table, {"a"})["f1_zoomed"] is None


def test_without_a_filter_every_readable_image_is_kept() -> None:
    table = score_images(pa.Table.from_pylist(IMAGE_ROWS, schema=IMAGES).to_batches(), None, 0.0)
    assert table.schema == SCORES
    assert table["reason"].to_pylist() == ["not_filtered", "unreadable", "not_filtered", "not_filtered"]
    assert table["keep"].to_pylist() == [True, False, True, True]
    assert table["p_zoomed"].to_pylist() == [None] * 4
    with Image.open(io.BytesIO(IMAGE_ROWS[3]["bytes"])) as image:
        assert table["phash"].to_pylist()[0] == perceptual_hash(image)
    assert discarded_share(table) == 0.0


def test_keeps_few_decoded_images_in_memory(
    trained: tuple[ZoomModel, list[ZoomEpoch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    most = 0

    def decode_and_count(content: bytes, **options: int) -> Image.Image:
        nonlocal most
        image = decode(content, **options)
        alive.append(weakref.ref(image))
        most = max(most, sum(reference() is not None for reference in alive))
        return image

    monkeypatch.setattr(scoring, "decode", decode_and_count)
    images = [image_row(str(number), image("normal", number)) for number in range(20)]
    score_images(pa.Table.from_pylist(images, schema=IMAGES).to_batches(), trained[0], 0.5)
    assert len(alive) == 20
    assert most <= 2, "the previous image and the current one"
