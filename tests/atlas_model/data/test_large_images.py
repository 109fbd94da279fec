"""Decoding large images at a reduced size in bounded memory."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atlas_model.core.errors import ImageError
from atlas_model.data import images
from atlas_model.data.images import LARGE_PIXELS, Preprocessing, decode, perceptual_hash, probe
from atlas_model.data.schemas import IMAGES, ShardWriter
from tests.support.paths import ROOT

WIDTH, HEIGHT = 2400, 3600  # 8.6 MP
MEASURE = """
import json, sys
from pathlib import Path
from atlas_model.zoom.scoring import score_shard
from tests.support.memory import peak_mb

score = dict(model=None, device="cpu", threshold=1.0, batch_size=256)
score_shard(Path(sys.argv[1]), **score)
few = peak_mb()
table = score_shard(Path(sys.argv[2]), **score)
print(json.dumps([few, peak_mb(), table["reason"].to_pylist()]))
"""


def photograph(kind: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> bytes:
    """Random soft blotches of the given size."""
    blotches = np.random.default_rng(1).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    image = Image.fromarray(blotches).resize(size, Image.Resampling.BICUBIC).convert(mode)
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("PNG", "RGB", {"compress_level": 1}),
        ("PNG", "P", {"compress_level": 1}),
        ("PNG", "L", {"compress_level": 1}),
    ],
)
def test_large_image_is_decoded_smaller_and_looks_the_same(kind: str, mode: str, options: dict[str, Any]) -> None:
    data = photograph(kind, mode, **options)
    whole, small = decode(data), decode(data, side=64)
    assert (whole.size, small.size) == ((WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2))
    assert small.mode == whole.mode
    for resize in ("squash", "pad", "crop"):
        preprocessing = Preprocessing(64, "RGB", resize)
        one, other = (np.asarray(preprocessing.apply(image), dtype=np.int64) for image in (whole, small))
        assert np.abs(one - other).max() <= 4
    assert (int(perceptual_hash(whole)) ^ int(perceptual_hash(small))).bit_count() <= 2
    assert np.array_equal(np.asarray(preprocessing.read(data)), np.asarray(preprocessing.apply(small)))


def test_small_images_are_decoded_in_full() -> None:
    data = photograph(size=(2000, 2000))
    assert LARGE_PIXELS == 2000 * 2000
    assert decode(data, side=28).tobytes() == decode(data).tobytes()


def test_reduced_sides_are_at_least_twice_the_wanted_side() -> None:
    assert decode(photograph(), side=1024).size == (WIDTH, HEIGHT)
    assert decode(photograph(), side=600).size == (WIDTH // 2, HEIGHT // 2)
    assert decode(photograph(size=(8000, 3001)), side=600).size == (4000, 1501)
    assert decode(photograph(size=(8000, 3001)), side=16).size == (2000, 751), "by a factor of 4 at most"
    assert decode(photograph(size=(50_000, 90)), side=16).size == (50_000, 90)


def test_reduced_images_keep_orientation_and_transparency() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(photograph(exif=exif), side=64).size == (HEIGHT // 2, WIDTH // 2)
    clear = Image.new("RGBA", (2200, 2203), (200, 0, 0, 0))
    clear.paste((0, 0, 200, 255), (0, 0, 2200, 1001))
    data = io.BytesIO()
    clear.save(data, "PNG", compress_level=1)
    small = decode(data.getvalue(), side=64)
    assert (small.mode, small.size) == ("RGB", (1100, 1102))
    assert [small.getpixel((9, y)) for y in (0, 499, 501, 1101)] == [(0, 0, 200)] * 2 + [(255, 255, 255)] * 2
    deep = Image.fromarray(np.full((2100, 2100), 257 * 100, dtype=np.uint16))
    data = io.BytesIO()
    deep.save(data, "TIFF")
    assert decode(data.getvalue(), side=64).getextrema() == (100, 100)


def test_refuses_damaged_large_image_at_any_side() -> None:
    for data in (photograph(), photograph("PNG", compress_level=1)):
        broken = data[: len(data) // 2]
        for read in (probe, decode, lambda some: decode(some, side=64)):
            with pytest.raises(ImageError) as caught:
                read(broken)
            assert caught.value.status == "truncated"


def test_fully_decoded_large_images_are_reduced_under_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    reduced = images._reduced
    monkeypatch.setattr(
        images, "_reduced", lambda *args: (held.append(images._large_image_lock.locked()), reduced(*args))[1]
    )
    decode(photograph("PNG", compress_level=1), side=64)
    assert held == [True]


@pytest.mark.slow
def test_memory_of_stage_zoom_does_not_grow_with_the_batch(tmp_path: Path) -> None:
    data = photograph()
    info = {"width": WIDTH, "height": HEIGHT, "format": "JPEG", "mode": "RGB", "orientation": 1, "n_frames": 1}
    for name, count in (("few", 2), ("many", 24)):
        with ShardWriter(tmp_path / name, IMAGES, 1000) as writer:
            for number in range(count):
                writer.append({"image_id": f"{number:03d}", "bytes": data + b"%d" % number, **info})
    arguments = [str(tmp_path / name / "part-00000.parquet") for name in ("few", "many")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    few, many, reasons = json.loads(done.stdout)
    print(f"{few:.0f} MB for 2 images, {many:.0f} MB for 24")
    assert reasons == ["not_filtered"] * 24
    assert many - few < 40, "24 decoded images would take 620 MB"
