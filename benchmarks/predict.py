"""Measures the time to the first prediction, and the rate of many predictions.

The first: from the start of a process to its first line, against a process that only imports torch. The rate: 5,000
small images from a Parquet file (`atlas predict --input`), against the model alone on their pixels in memory, and the
share of that time spent in the model.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import flows  # noqa: F401 - before torch: it says how torch's threads wait
from atlas_model.data.image_sources import open_source
from atlas_model.data.images import decode, encode_png
from atlas_model.data.schemas import IMAGES, write_rows
from atlas_model.inference.batch import BatchReport, predict_all
from atlas_model.inference.predictor import Predictor
from benchmarks.report import paired_medians, report
from flows.registry.model_folders import bundled_model

SAMPLE = Path("data/sample.parquet")  # 28 x 28, grey
N_IMAGES, BATCH, RUNS = 5_000, 64, 3
ATLAS = [sys.executable, "-m", "flows.cli.main", "predict", "--model", "pretrained"]
TORCH = [sys.executable, "-c", "import torch; print()"]


def main() -> None:
    """Run the benchmark."""
    pixels = pq.read_table(SAMPLE, columns=["pixels"])["pixels"][:N_IMAGES].to_pylist()
    images = [encode_png(Image.frombytes("L", (28, 28), each)) for each in pixels]
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "image.png").write_bytes(images[0])
        first = paired_medians(
            2 * RUNS, torch=lambda: _first_line(TORCH), atlas=lambda: _first_line([*ATLAS, folder / "image.png"])
        )
        row = {"width": 28, "height": 28, "format": "PNG", "mode": "L", "orientation": 1, "n_frames": 1}
        rows = ({"image_id": f"{number:05d}", "bytes": each, **row} for number, each in enumerate(images))
        write_rows(folder / "in.parquet", rows, IMAGES)
        predictor = Predictor.load(bundled_model(), "cpu")
        predictor.accelerate("torch", None)
        prepared = np.stack([predictor.prepare(decode(each)) for each in images])
        reports: list[BatchReport] = []
        seconds = paired_medians(
            RUNS,
            model=lambda: [
                predictor.predict_prepared(prepared[start : start + BATCH]) for start in range(0, N_IMAGES, BATCH)
            ],
            file=lambda: reports.append(_predict(predictor, folder)),
        )
    figures = {
        "first_line_s": first["atlas"],
        "first_line_over_import_torch": first["atlas"] / first["torch"],
        "images_per_s": N_IMAGES / seconds["file"],
        "file_over_model": seconds["file"] / seconds["model"],
        "model_share": float(np.median([each.model_seconds / each.seconds for each in reports[1:]])),
    }
    units = {"first_line_s": "s", "images_per_s": "/s"}
    report("predict", [(key, value, units.get(key, "x")) for key, value in figures.items()], figures)


def _first_line(command: Sequence[str | Path]) -> float:
    started = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        return perf_counter() - started


def _predict(predictor: Predictor, folder: Path) -> BatchReport:
    return predict_all(
        open_source(folder / "in.parquet"),
        folder / "out.parquet",
        prepare=predictor.prepare,
        side=predictor.side,
        predict=predictor.predict_prepared,
        model_key="",
        batch_size=BATCH,
    )


if __name__ == "__main__":
    main()
