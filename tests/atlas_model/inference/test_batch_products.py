"""`atlas predict --products` and `--product`: one prediction from all images of a product."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from atlas_model.data.image_sources import open_source
from atlas_model.data.images import Preprocessing
from atlas_model.data.schemas import PREDICTED, PREDICTED_PRODUCTS, write_table
from atlas_model.inference import batch
from atlas_model.inference.batch import predict_all
from atlas_model.inference.batch_products import DISTRIBUTIONS
from atlas_model.inference.predictor import Predictor
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import save
from atlas_model.taxonomy.tree import Taxonomy
from flows.cli.main import main
from tests.support.batch_prediction import pooled
from tests.support.paths import ROOT

TAXONOMY = Taxonomy([*itertools.product("AB", "CD", "EF"), ("G",)])

FOLDERS = ("shoes", "shoes/red", "hat")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with high confidences."""
    folder = tmp_path_factory.mktemp("models") / "some"
    torch.manual_seed(1)
    net = Categorizer(Architecture("small", 3, "native", 8, 8, 8, 0.0, "children"), TAXONOMY)
    with torch.no_grad():
        net.decoder.output.weight.mul_(60)
    save(net, folder, Preprocessing(28, "RGB", "squash"), params={}, metrics={})
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder ``in``: three products with a subfolder each, whose sort orders interleave, and two with a file each."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(1)
    for number in range(20):
        folder = tmp_path / "in" / FOLDERS[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        colour, amount = generator.integers(0, 256, 3), 16 ** generator.random()
        pixels = np.clip(colour + amount * generator.normal(0, 4, (28, 28, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{'az'[number % 2]}{number:02d}.png")
    shutil.copy(tmp_path / "in/hat/a02.png", tmp_path / "in/single.png")
    shutil.copy(tmp_path / "in/shoes/a00.png", tmp_path / "in/another.png")
    return tmp_path


def atlas(*arguments: str | Path) -> int:
    return main(["predict", *map(str, arguments)])


def to_files(given: str, model: Path, *more: str) -> int:
    options = ["--model", str(model), "--output", "out.parquet", "--products", "products.parquet", "--batch-size", "6"]
    return atlas("--input", given, *options, *more)


def products() -> dict[str, dict[str, Any]]:
    table = pq.read_table("products.parquet")
    assert table.schema.equals(PREDICTED_PRODUCTS)
    rows = table.to_pylist()
    assert [row["product_id"] for row in rows] == sorted(row["product_id"] for row in rows)
    return {row["product_id"]: row for row in rows}


def expected(model: Path, folder: Path, files: list[str], min_confidence: float | None = None) -> dict[str, Any]:
    """The mean of the model's path probabilities, computed directly."""
    predictor = Predictor.load(model, "cpu")
    pool = predictor.pool()
    for file in files:
        with Image.open(folder / file) as image:
            pool.add(predictor.distribution(predictor.prepare(image)[None]))
    found = predictor.predict_product(pool, min_confidence=min_confidence)
    (best,) = found.predictions
    return {"path": list(best.path), "probability": best.probability, "disagree": found.disagree, "images": len(files)}


def test_each_product_gets_one_prediction_from_all_its_images(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert to_files("in", model) == 0
    found = products()
    assert set(found) == {*FOLDERS, "single.png", "another.png"}
    answers = {row["image"]: row for row in pq.read_table("out.parquet").to_pylist()}
    assert len(answers) == 22
    for product_id, row in found.items():
        files = [name for name in answers if name == product_id or Path(name).parent == Path(product_id)]
        assert len(files) == (1 if product_id.endswith(".png") else 7 - (product_id == "hat"))
        reference = expected(model, here / "in", files)
        assert row["path"] == reference["path"]
        assert row["label"] == " > ".join(row["path"])
        assert row["probability"] == pytest.approx(reference["probability"], rel=1e-4)
        assert row["level_probabilities"] == sorted(row["level_probabilities"], reverse=True)
        assert len(row["level_probabilities"]) == len(row["path"])
        assert row["disagree"] == reference["disagree"]
        assert (row["images"], row["unreadable_images"], row["status"]) == (len(files), 0, "ok")
    assert found["single.png"]["path"] == answers["single.png"]["path"]
    assert found["single.png"]["probability"] == pytest.approx(answers["single.png"]["probability"], rel=1e-4)
    assert any(found[folder]["disagree"] for folder in FOLDERS), "predictions for noise images disagree"
    assert capsys.readouterr().err.endswith("out.parquet: 22 ok\nproducts.parquet: 5 ok products\n")


def test_image_predictions_are_the_same_with_products(here: Path, model: Path) -> None:
    assert to_files("in", model, "--top", "2") == 0
    with_products = Path("out.parquet").read_bytes()
    assert pq.read_schema("out.parquet").equals(PREDICTED)
    assert atlas("--input", "in", "--model", model, "--output", "o.parquet", "--batch-size", "6", "--top", "2") == 0
    assert Path("o.parquet").read_bytes() == with_products


def test_parquet_column_gives_the_product_of_an_image(here: Path, model: Path) -> None:
    """In any order: the images of a product need not be adjacent."""
    assert to_files("in", model) == 0
    by_folder = products()
    files = sorted((here / "in").rglob("*.png"), key=lambda path: path.name)
    rows = [{"image_id": file.name, "bytes": file.read_bytes(), "product_id": whose(here, file)} for file in files]
    pq.write_table(pa.Table.from_pylist(rows), "in.parquet", row_group_size=5)
    assert to_files("in.parquet", model) == 0
    by_column = products()
    assert by_column.keys() == by_folder.keys()
    for name, row in by_column.items():
        assert row["path"] == by_folder[name]["path"]
        assert row["probability"] == pytest.approx(by_folder[name]["probability"], rel=1e-4)


def whose(here: Path, file: Path) -> str:
    folder = file.relative_to(here / "in").parent
    return str(folder) if folder.name else file.name


def test_counts_unreadable_images_and_uses_the_others(here: Path, model: Path) -> None:
    (here / "in/hat/a02.png").write_bytes(b"")
    (here / "in/bad").mkdir()
    (here / "in/bad/only.jpg").write_text("<html>")
    assert to_files("in", model) == 2
    found = products()
    hat = sorted(path.name for path in (here / "in/hat").iterdir() if path.name != "a02.png")
    assert (found["hat"]["images"], found["hat"]["unreadable_images"]) == (len(hat), 1)
    assert found["hat"]["probability"] == pytest.approx(expected(model, here / "in/hat", hat)["probability"], rel=1e-4)
    bad = found["bad"]
    assert (bad["status"], bad["images"], bad["unreadable_images"]) == ("unreadable", 0, 1)
    assert bad["path"] == [] and bad["label"] is bad["probability"] is bad["disagree"] is None


def test_product_path_is_as_deep_as_its_confidence_allows(here: Path, model: Path) -> None:
    assert to_files("in", model) == 0
    level = max(float(row["level_probabilities"][0]) for row in products().values())
    assert to_files("in", model, "--min-confidence", f"{level - 1e-4}") == 0
    found = products()
    assert {row["status"] for row in found.values()} == {"ok", "not_sure"}
    for row in found.values():
        if row["status"] == "not_sure":
            assert row["path"] == [] and row["label"] is row["probability"] is None
        assert row["disagree"] is not None and row["images"]


CHILD = """
import os, signal, sys
from pathlib import Path
from tests.support.batch_prediction import pooled

calls = 0

def before():
    global calls
    calls += 1
    if calls == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

pooled(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), before, before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [5, 11, 14])  # of 11 batches and 5 products
def test_killed_run_resumes_with_identical_output(here: Path, model: Path, killed_at: int) -> None:
    pooled(here / "in", model, here / "whole/out.parquet")
    output = here / "out.parquet"
    command = [sys.executable, "-c", CHILD, here / "in", model, output, str(killed_at)]
    child = subprocess.run(list(map(str, command)), cwd=ROOT, check=False, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not (here / "products.parquet").exists()
    seen: list[None] = []
    report = pooled(here / "in", model, output, lambda: seen.append(None))
    assert len(seen) == max(0, 12 - killed_at), "completed batches are not predicted again"
    assert report.products == {"ok": 5}
    for name in ("out.parquet", "products.parquet"):
        assert (here / name).read_bytes() == (here / "whole" / name).read_bytes()
    assert not (here / "out.parquet.parts").exists()


def test_run_with_products_does_not_resume_one_without(here: Path, model: Path) -> None:
    """Its parts lack the path probabilities that products need."""

    def stop() -> NoReturn:
        raise KeyboardInterrupt

    predictor = Predictor.load(model, "cpu")
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "PART_S", 0.0)
        predict_all(
            open_source(here / "in"),
            here / "out.parquet",
            prepare=predictor.prepare,
            predict=lambda pixels: (
                predictor.predict_prepared(pixels) if not list(here.rglob("*-*.parquet")) else stop()
            ),
            model_key="model",
            batch_size=2,
        )
    assert list(here.rglob("*-*.parquet")), "at least one part was written"
    assert pooled(here / "in", model, here / "out.parquet").images == 22


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_named_images_are_pooled_to_one_product(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(path.name for path in (here / "in/hat").iterdir())
    reference = expected(model, here / "in/hat", files)
    assert atlas("in/hat", "--product", "--model", model) == 0
    line = printed(capsys)
    name, probability, label, *flag = line.rstrip("\n").split("\t")
    assert name == f"product of {len(files)} images"
    assert (float(probability), label) == (round(reference["probability"], 3), " > ".join(reference["path"]))
    assert flag == ["disagree"] * bool(reference["disagree"])

    assert atlas("in/hat", "--product", "--model", model, "--json", "--top", "3") == 0
    answer = json.loads(printed(capsys))
    assert answer["images"] == [f"in/hat/{file}" for file in files]
    assert answer["disagree"] == reference["disagree"] and answer["status"] == "ok"
    assert answer["predictions"][0]["path"] == reference["path"]
    assert [len(answer["predictions"])] == [3]
    shares = [prediction["probability"] for prediction in answer["predictions"]]
    assert shares == sorted(shares, reverse=True)

    assert atlas("in/hat/" + files[0], "in/hat/" + files[0], "--product", "--model", model) == 0
    line = printed(capsys)
    assert line.startswith("product of 2 images\t") and "disagree" not in line, "a single image cannot disagree"


def test_product_is_predicted_from_readable_images(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "in/hat/a02.png").write_bytes(b"")
    assert atlas("in/hat", "--product", "--model", model) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("product of 5 images\t") and "a02.png" in captured.err
    assert atlas("in/hat/a02.png", "gone.png", "--product", "--model", model) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].endswith("expected an image of the product that can be read, got none of 2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in/hat/a02.png", "--product", "--attention", "a.png"], "expected no --product"),
        (["--input", "in", "--output", "o.parquet", "--product"], "--products FILE"),
        (["in/hat/a02.png", "--products", "p.parquet"], "--input and --output go together"),
        (["--input", "in", "--output", "o.parquet", "--products", "o.parquet"], "another file than --output"),
        (["--input", "in", "--output", "o.parquet", "--products", "in/p.parquet"], "neither the input nor inside its"),
        (["--input", "in", "--output", "o.parquet", "--products", "in/hat/a02.png/p.parquet"], "a file in a folder"),
        (["--input", "none.parquet", "--output", "o.parquet", "--products", "p.parquet"], "the column product_id"),
        (["--input", "some.parquet", "--output", "o.parquet", "--products", "p.parquet"], "got none in row 3"),
        (["--input", "numbers.parquet", "--output", "o.parquet", "--products", "p.parquet"], "strings in the column"),
    ],
)
def test_refuses_invalid_arguments(
    arguments: list[str], words: str, here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {"image_id": list("abcd"), "bytes": [b""] * 4}
    pq.write_table(pa.table(images), "none.parquet")
    pq.write_table(pa.table({**images, "product_id": ["p", "p", "q", None]}), "some.parquet")
    pq.write_table(pa.table({**images, "product_id": [1, 2, 3, 4]}), "numbers.parquet")
    assert atlas("--model", model, *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not (here / "o.parquet").exists()


MEMORY = """
import sys
from pathlib import Path
from atlas_model.inference.batch_products import ProductOutput, write_products
from atlas_model.inference.predictor import Prediction, ProductPrediction
from atlas_model.confidence.products import ProductPool
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.memory import peak_mb

taxonomy = Taxonomy([(f"{number:04d}",) for number in range(1000)])
work, *counts = Path(sys.argv[1]), *map(int, sys.argv[2:])

def conclude(pool):
    return ProductPrediction([Prediction(taxonomy.paths[pool.path], 0.5, (0.5,))], pool.images, pool.disagree)

output = ProductOutput(work / "products.parquet", None, lambda: ProductPool(taxonomy), conclude)
for count in counts:
    parts = [work / f"{part}.parquet" for part in range(count)]
    assert write_products(parts, output, work) == {"ok": count * 500}
    print(peak_mb())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_products(tmp_path: Path) -> None:
    """Two full parts reach the memory of reading, sorting and writing; further parts add only what is retained."""
    random = np.random.default_rng(1)
    images, nodes, few, many = 1000, 1001, 2, 24
    node = np.tile(np.arange(nodes, dtype=np.int32), images)
    for part in range(many):  # 8 MB each, incompressible; the two images of a product are in different parts
        numbers = {"node": node, "log_p": random.uniform(-9, -5, images * nodes).astype(np.float32)}
        lists = {name: pa.ListArray.from_arrays(np.arange(images + 1) * nodes, of) for name, of in numbers.items()}
        product_ids = [f"{image * 7919 % images:04d}-{part // 2}" for image in range(images)]
        table = pa.table({"product_id": product_ids, **lists})
        write_table(tmp_path / f"{part}.parquet", table, DISTRIBUTIONS)
    command = [sys.executable, "-c", MEMORY, str(tmp_path), str(few), str(many)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    before, after = map(float, done.stdout.split())
    assert after - before < 40, f"{before:.0f} -> {after:.0f} MB for 176 MB more"
