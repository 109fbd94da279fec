"""Batch prediction of images to one file: completeness, order, resuming and memory."""

import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import locked
from atlas_model.data.image_sources import ImageSource, SourceImage, open_source
from atlas_model.data.images import encode_png
from atlas_model.data.schemas import PREDICTED
from atlas_model.inference import batch
from atlas_model.inference.predictor import NOT_SURE, Prediction
from tests.support.batch_prediction import Model, run
from tests.support.paths import ROOT

COUNT = 50


def shade(number: int) -> bytes:
    return encode_png(Image.new("L", (2, 2), number))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of one shade each."""
    for number in range(COUNT):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{number:03d}.png").write_bytes(shade(number))
    return tmp_path / "in"


def test_each_image_has_a_row_in_order(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "007.png").write_bytes(b"")
    (folder / "008.png").write_bytes(encode_png(Image.effect_noise((50, 50), 99))[:400])
    for number in (12, 13, 14, 15):  # a whole batch
        (folder / f"{number:03d}.png").write_bytes(b"<html>")
    source, model = open_source(folder), Model()
    report = run(source, tmp_path / "new/out.parquet", model.answer)
    table = pq.read_table(tmp_path / "new/out.parquet")
    assert table.schema.equals(PREDICTED)
    rows = table.to_pylist()
    assert [row["image"] for row in rows] == [f"{number:03d}.png" for number in range(COUNT)]
    good = [row for row in rows if row["status"] == "ok"]
    assert [row["path"] for row in good] == [["shade", str(int(row["image"][:3]))] for row in good]
    assert good[0] == {
        "image": "000.png",
        "rank": 1,
        "path": ["shade", "0"],
        "label": "shade > 0",
        "probability": 0.5,
        "level_probabilities": [1.0, 0.5],
        "status": "ok",
        "reason": None,
        "category_id": None,
    }
    bad = {row["image"]: row["status"] for row in rows if row["status"] != "ok"}
    assert bad == {"007.png": "empty", "008.png": "truncated", **{f"0{n}.png": "not_an_image" for n in range(12, 16)}}
    assert all(row["reason"] and row["path"] == [] and row["label"] is None for row in rows if row["image"] in bad)
    assert report.statuses == {"ok": COUNT - 6, "empty": 1, "truncated": 1, "not_an_image": 4}
    assert (report.unreadable, report.images) == (6, COUNT)
    assert [len(batch) for batch in model.batches] == [4, 3, 3, *[4] * 8, 2], (
        "no call for the batch without readable images"
    )
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out.parquet"], "parts are deleted"
    assert f"predict: {COUNT}/{COUNT} images, done" in capsys.readouterr().err


def test_writes_several_predictions_or_none_per_image(folder: Path, tmp_path: Path) -> None:
    def answer(pixels: np.ndarray) -> list[list[Prediction]]:
        return [
            [NOT_SURE]
            if shade % 2
            else [Prediction(("A",), 0.5, (0.5,), category_id="7"), Prediction(("B", "C"), 0.25, (0.4, 0.3))]
            for shade in pixels[:, 0, 0, 0].tolist()
        ]

    report = run(open_source(folder), tmp_path / "out.parquet", answer)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["image"], row["rank"], row["label"], row["status"], row["category_id"]) for row in rows[:3]] == [
        ("000.png", 1, "A", "ok", "7"),
        ("000.png", 2, "B > C", "ok", None),
        ("001.png", 1, None, "not_sure", None),
    ]
    assert rows[2]["path"] == [] and rows[2]["probability"] is None and rows[2]["reason"] is None
    assert report.statuses == {"ok": COUNT / 2, "not_sure": COUNT / 2}, "counts images, not rows"
    assert report.unreadable == 0


CHILD = """
import os, signal, sys
from pathlib import Path
from atlas_model.inference import batch
from atlas_model.data.image_sources import open_source
from tests.support.batch_prediction import Model, run

batch.PART_IMAGES = 8
model = Model()

def answer(pixels):
    if len(model.batches) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return model.answer(pixels)

run(open_source(Path(sys.argv[1])), Path(sys.argv[2]), answer)
"""


def test_parts_after_a_gap_are_predicted_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run may have removed some of its parts, and not the others."""
    output, parts = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    kept = tmp_path / "kept"
    monkeypatch.setattr(batch, "PART_IMAGES", 8)
    with monkeypatch.context() as patch:
        patch.setattr(batch.OutputParts, "join", lambda self, output: shutil.copytree(parts, kept) and Counter())
        run(open_source(folder), output, Model().answer)
    run(open_source(folder), output, Model().answer)
    whole = output.read_bytes()
    names = [path.relative_to(kept) for path in sorted(kept.rglob("*.parquet"))]
    assert len(names) >= 3
    for lost, of_images in ((names[0], 0), (names[1], 8)):
        output.unlink()
        shutil.copytree(kept, parts)
        (parts / lost).unlink()
        model = Model()
        run(open_source(folder), output, model.answer)
        assert output.read_bytes() == whole
        assert list(chain(*model.batches)) == list(range(of_images, COUNT))


def test_killed_run_resumes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, output = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    (folder / "003.png").write_bytes(b"")
    run(open_source(folder), whole, Model().answer)
    child = subprocess.run([sys.executable, "-c", CHILD, folder, output], cwd=ROOT, check=False, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not output.exists(), "the output appears only when complete"
    model = Model()
    report = run(open_source(folder), output, model.answer)
    assert list(chain(*model.batches)) == list(range(24, COUNT)), "completed batches are not predicted again"
    assert output.read_bytes() == whole.read_bytes()
    assert report.images == COUNT - 24
    assert report.unreadable == 1, "the one of the first run"
    assert not (tmp_path / "out.parquet.parts").exists()
    assert "resumes after 24 images" in capsys.readouterr().err


def interrupted(folder: Path, output: Path) -> None:
    """A run that fails in its fourth batch."""
    model = Model()

    def answer(pixels: np.ndarray) -> list[list[Prediction]]:
        if len(model.batches) == 3:
            raise KeyboardInterrupt
        return model.answer(pixels)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batch, "PART_S", 0.0)  # a part per batch
        run(open_source(folder), output, answer)
    assert not output.exists()


@pytest.mark.parametrize("change", ["nothing", "model", "batch", "image", "more", "fewer"])
def test_restarts_when_inputs_or_settings_changed(folder: Path, tmp_path: Path, change: str) -> None:
    output, model = tmp_path / "out.parquet", Model()
    interrupted(folder, output)
    if change == "image":
        (folder / "049.png").write_bytes(shade(200))
    elif change == "more":
        (folder / "050.png").write_bytes(shade(50))
    elif change == "fewer":
        (folder / "049.png").unlink()
    key, size = ("other" if change == "model" else "model"), (5 if change == "batch" else 4)
    run(open_source(folder), output, model.answer, key, size)
    assert model.batches[0][0] == (12 if change == "nothing" else 0)
    assert len(pq.read_table(output)) == {"more": 51, "fewer": 49}.get(change, COUNT)
    assert not (tmp_path / "out.parquet.parts").exists()


def test_row_groups_do_not_depend_on_parts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "ROW_GROUP", 15)
    written = []
    for part in (1, 8, 1000):
        monkeypatch.setattr(batch, "PART_IMAGES", part)
        run(open_source(folder), tmp_path / "out.parquet", Model().answer)
        written.append((tmp_path / "out.parquet").read_bytes())
    assert written[0] == written[1] == written[2]
    metadata = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert [metadata.row_group(group).num_rows for group in range(4)] == [15, 15, 15, 5]


def test_reads_the_next_batch_while_the_model_runs(tmp_path: Path) -> None:
    read = [threading.Event() for _ in range(30)]

    def reading(number: int) -> Callable[[], bytes]:
        def one() -> bytes:
            read[number].set()
            return shade(number)

        return one

    def start_at(first: int) -> Iterator[SourceImage]:
        return (SourceImage(str(number), reading(number)) for number in range(first, 30))

    class Waiting(Model):
        def answer(self, pixels: np.ndarray) -> list[list[Prediction]]:
            next_batch = min(29, 4 * (len(self.batches) + 2) - 1)
            assert read[next_batch].wait(60), "the next batch was not read while the model was running"
            return super().answer(pixels)

    model = Waiting()
    run(ImageSource(30, "key", start_at), tmp_path / "out.parquet", model.answer)
    assert list(chain(*model.batches)) == list(range(30))


@pytest.mark.parametrize("count", [29, 31])
def test_reports_image_count_that_changed_during_the_run(tmp_path: Path, count: int) -> None:
    def start_at(first: int) -> Iterator[SourceImage]:
        return (SourceImage(str(number), lambda: shade(1)) for number in range(first, 30))

    with pytest.raises(AtlasError, match=f"expected {count} images, got 30"):
        run(ImageSource(count, "key", start_at), tmp_path / "out.parquet", Model().answer)
    assert not list(tmp_path.iterdir()), "no parts are left to resume from"


def test_refuses_two_runs_at_once(folder: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "out.parquet.parts", "prediction"), pytest.raises(AtlasError, match="another prediction"):
        run(open_source(folder), tmp_path / "out.parquet", Model().answer)


MEMORY = """
import sys
from pathlib import Path
from atlas_model.data.image_sources import open_source
from tests.support.memory import peak_mb
from tests.support.batch_prediction import Model, run

model = Model()
run(open_source(Path(sys.argv[1])), Path(sys.argv[2]), model.answer, batch_size=16)
few = peak_mb()
run(open_source(Path(sys.argv[3])), Path(sys.argv[2]), model.answer, batch_size=16)
print(few, peak_mb())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 300), dtype=np.uint8)
    buffer = tmp_path / "noise.bmp"
    Image.fromarray(noise).save(buffer)
    data = [buffer.read_bytes()] * 90  # 90 kB each: a row group of 8 MB, as in the shards of the pipeline
    schema = pa.schema([("image_id", pa.string()), ("bytes", pa.binary())])
    for name, count in (("few", 180), ("many", 3060)):
        path = tmp_path / f"{name}.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for first in range(0, count, len(data)):
                image_ids = [str(number) for number in range(first, first + len(data))]
                writer.write_table(pa.table({"image_id": image_ids, "bytes": data}, schema=schema))
    output = tmp_path / "out.parquet"
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "few.parquet", output, tmp_path / "many.parquet"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    few, many = map(float, done.stdout.split())
    assert len(pq.read_table(output)) == 3060
    assert many - few < 80, f"{few:.0f} -> {many:.0f} MB for 260 MB more"
