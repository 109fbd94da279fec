"""Measures the CPU time per image, of the size that shops serve, in fetch, zoom and split, for docs/scale.md.

The images are JPEG of 800 x 600: an ellipse of noise on white, with a spectrum like that of photographs. Milliseconds
are CPU time of all threads. There is no baseline. Weights are random: the time does not depend on them.
"""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from atlas_model.data.images import Preprocessing, encode_png, probe
from atlas_model.data.schemas import IMAGES, ShardWriter, shard_paths
from atlas_model.split.files import write_split_files
from atlas_model.zoom.model import ZoomModel, ZoomNet
from atlas_model.zoom.scoring import score_shard
from benchmarks.report import report

N_IMAGES, SIZE, QUALITY = 256, (600, 800), 85
PRODUCT = 0.8  # of the height and width of an image
ZOOM_SIZE, SPLIT = 150, Preprocessing(256, "RGB", "squash")


def main() -> None:
    """Measure the same images in each stage."""
    rng = np.random.default_rng(1)
    jpegs = [_jpeg(_image(rng)) for _ in range(N_IMAGES)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ShardWriter(folder / "shards", IMAGES, N_IMAGES) as writer:
            for number, data in enumerate(jpegs):
                writer.append({"image_id": f"{number:064d}", "bytes": data, **vars(probe(data))})
        ZoomModel(ZoomNet(ZOOM_SIZE), Preprocessing(ZOOM_SIZE, "RGB", "squash"), 0.5, {}).save(folder / "zoom")
        (shard,) = shard_paths(folder / "shards", made_by="fetch")
        row = {"product_id": "p", "title": "", "label": "a", "taxonomy": ["a"], "split": "train"}
        rows = [{**row, "image_id": f"{number:064d}"} for number in range(N_IMAGES)]
        (folder / "splits").mkdir()
        torch.set_num_threads(1)
        check_ms, _ = _cpu_and_wall_ms(lambda: list(map(probe, jpegs)))
        zoom_ms, _ = _cpu_and_wall_ms(
            lambda: score_shard(shard, model=folder / "zoom", device="cpu", threshold=0.5, batch_size=N_IMAGES)
        )
        split_ms, split_wall_ms = _cpu_and_wall_ms(
            lambda: write_split_files(folder / "splits", folder / "shards", rows, SPLIT)
        )
    stored = [len(encode_png(SPLIT.apply(Image.open(io.BytesIO(data))))) for data in jpegs]
    figures = {
        "check_ms": check_ms,
        "zoom_ms": zoom_ms,
        "split_ms": split_ms,
        "split_wall_ms": split_wall_ms,
        "jpeg_kb": sum(map(len, jpegs)) / N_IMAGES / 1000,
        "png_kb": sum(stored) / N_IMAGES / 1000,
    }
    report("images", [(name, value, "an image") for name, value in figures.items()], figures)


def _cpu_and_wall_ms(work: Callable[[], object]) -> tuple[float, float]:
    """CPU time per image, after all imports."""
    work()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return 1000 * (time.process_time() - cpu) / N_IMAGES, 1000 * (time.perf_counter() - wall) / N_IMAGES


def _image(rng: np.random.Generator) -> np.ndarray:
    """An RGB image on white: noise whose amplitudes decrease with the frequency, with similar channels."""
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in reversed(SIZE))))
    frequency[0, 0] = np.inf
    grey, *colours = np.fft.ifft2(np.fft.fft2(rng.normal(size=(4, *SIZE))) / frequency).real
    waves = grey + 0.2 * np.stack(colours)
    product = np.hypot(*np.meshgrid(*(np.linspace(-1, 1, side) for side in reversed(SIZE)))) < PRODUCT
    pixels = np.where(product, 128 + 50 * waves / waves.std(), 255)
    return np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
