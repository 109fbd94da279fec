"""Damage to PNG and Parquet files that their libraries do not notice by themselves."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from atlas_model.core.errors import ImageError, InputError, TaxonomyError
from atlas_model.data.dataset import load_taxonomy_json
from atlas_model.data.images import decode, probe
from atlas_model.data.schemas import LABELLED, ShardWriter, read_table
from atlas_model.split.files import read_columns


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


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
    row: dict[str, object] = {
        "image_id": "a",
        "bytes": b"pixels " * 20,
        "label": "normal",
        "source_id": "s",
        "title": "",
    }
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
