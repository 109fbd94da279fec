"""Damage to PNG and Parquet files that their libraries do not notice by themselves."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from atlas_model.core.errors import ImageError, InputError, TaxonomyError
from atlas_model.data.dataset import load_taxonomy_json
from atlas_model.data.images import decode, probe
from atlas_model.data.schemas import LABELLED, ShardWriter, iterate_shards, read_table
from atlas_model.split.files import read_columns

LABELLED_ROW: dict[str, object] = {
    "image_id": "a", "bytes": b"x", "label": "normal", "source_id": "s", "title": ""
}  # fmt: skip


def png(*, palette: bool = False, animated: bool = False, level: int = 0) -> bytes:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    written = io.BytesIO()
    more = {"save_all": True, "append_images": [image.rotate(90)]} if animated else {}
    (image.quantize(4) if palette else image).save(written, "PNG", compress_level=level, **more)
    return written.getvalue()


def test_refuses_png_whose_pixels_differ_from_their_checksum() -> None:
    whole = png()
    assert decode(whole).getpixel((5, 5)) == 45
    damaged = bytearray(whole)
    damaged[whole.index(b"IDAT") + 30] ^= 1  # not compressed: the stream stays valid
    for read in (probe, decode):
        with pytest.raises(ImageError, match="IDAT of a PNG is incomplete, or differs") as error:
            read(bytes(damaged))
        assert error.value.status == "truncated"


def test_does_not_take_further_images_of_an_animation_for_the_first() -> None:
    whole = png(animated=True)
    assert probe(whole).n_frames == 2
    at = whole.index(b"IDAT") - 4
    end = at + 12 + int.from_bytes(whole[at : at + 4], "big")
    for read in (probe, decode):
        with pytest.raises(ImageError):
            read(whole[:at] + whole[end:])


def test_refuses_png_of_palette_without_palette() -> None:
    whole = png(palette=True)
    at = whole.index(b"PLTE") - 4
    end = at + 12 + int.from_bytes(whole[at : at + 4], "big")
    for read in (probe, decode):
        with pytest.raises(ImageError):
            read(whole[:at] + whole[end:])


def test_finds_every_flipped_bit_of_a_shards_images(tmp_path: Path) -> None:
    row = {**LABELLED_ROW, "bytes": b"pixels " * 20}
    with ShardWriter(tmp_path / "shards", LABELLED, 10) as writer:
        writer.append(row)
    path = tmp_path / "shards/part-00000.parquet"
    whole = path.read_bytes()
    start = whole.index(b"pixels")
    for at in range(start, start + 140):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(InputError, match="part-00000"):
            read_table(path, LABELLED, "fetch")
    path.write_bytes(whole)
    assert read_table(path, LABELLED, "fetch").to_pylist() == [row]


def test_column_that_a_split_lacks_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"other": ["a"]}), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(InputError, match="missing: label"):
        read_columns(tmp_path, ["train"], ["label"])


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, json.dumps({"paths": 1}).encode()])
def test_taxonomy_of_a_split_that_is_no_taxonomy_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "taxonomy.json"
    path.write_bytes(content)
    with pytest.raises(TaxonomyError, match=r"taxonomy\.json: expected"):
        load_taxonomy_json(path)


def test_rows_that_a_damaged_page_header_hides_are_missed(tmp_path: Path) -> None:
    rows = [{**LABELLED_ROW, "image_id": str(number)} for number in range(40)]
    with ShardWriter(tmp_path / "shards", LABELLED, 100) as writer:
        for row in rows:
            writer.append(row)
    path = tmp_path / "shards/part-00000.parquet"
    whole = path.read_bytes()
    lost = 0
    for at in range(4, 40):  # the header of the first page, which has no checksum
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            try:
                found = [row for batch in iterate_shards(path.parent, LABELLED, "x", 8) for row in batch.to_pylist()]
            except InputError as error:
                lost += "expected 40 rows, got" in str(error)
            else:
                assert found == rows
    assert lost
