"""`atlas predict --input ... --output ...`, and what it has in common with single images."""

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from atlas_model.data.images import Preprocessing
from atlas_model.data.schemas import IMAGES, SPLIT
from atlas_model.inference.batch import BatchReport
from atlas_model.inference.predictor import Predictor
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import save
from atlas_model.taxonomy.tree import Taxonomy
from flows.cli import predict_file
from flows.cli.main import main

ORIENTATIONS = range(1, 9)
Saver = Callable[[Image.Image, Path], None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of strong opinions: other pixels, other probabilities."""
    folder = tmp_path_factory.mktemp("models") / "some"
    torch.manual_seed(1)
    taxonomy = Taxonomy([*itertools.product("AB", "CD", "EF"), ("G",)])
    net = Categorizer(Architecture("small", 3, "native", 8, 8, 8, 0.0, "children"), taxonomy)
    with torch.no_grad():
        net.decoder.output.weight.mul_(20)
    save(net, folder, Preprocessing(28, "RGB", "squash"), params={}, metrics={})
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shades(seed: int = 1) -> Image.Image:
    """Eight shades of grey, so that all kinds of files can hold them."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 8, (28, 28), dtype=np.uint8) * 36)


def save_many(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    names = [f"{number:02d}.png" for number in range(count)]
    for number, name in enumerate(names):
        shades(number).save(folder / name)
    return names


def to_file(*arguments: str | Path) -> int:
    return main(["predict", "--output", "out.parquet", *map(str, arguments)])


def written() -> list[dict[str, object]]:
    return pq.read_table("out.parquet").to_pylist()


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_file_output_equals_terminal_output(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = save_many(here / "in", 70)
    assert to_file("--input", "in", "--model", model, "--top", "3", "--batch-size", "16") == 0
    assert capsys.readouterr().err.splitlines() == [
        f"model: {model}",
        "engine: torch",
        "predict: 70/70 images, done",
        "out.parquet: 70 ok",
    ]
    assert main(["predict", "in", "--model", str(model), "--top", "3", "--json", "--engine", "torch"]) == 0
    lines = printed(capsys)
    assert [line["image"] for line in lines] == [f"in/{name}" for name in names]
    rows = written()
    assert len(rows) == 3 * 70
    said = [(line["image"], rank, answer) for line in lines for rank, answer in enumerate(line["predictions"], 1)]
    for row, (image, rank, answer) in zip(rows, said, strict=True):
        assert (f"in/{row['image']}", row["rank"], row["path"]) == (image, rank, answer["path"])
        assert row["label"] == " > ".join(answer["path"])
        assert row["probability"] == pytest.approx(answer["probability"], rel=1e-4)
        assert row["level_probabilities"] == pytest.approx(answer["levels"], rel=1e-4)
        assert answer["levels"][-1] == pytest.approx(answer["probability"])
        assert answer["levels"] == sorted(answer["levels"], reverse=True)
        assert len(answer["levels"]) == len(answer["path"])


def test_predicts_shards_and_splits(here: Path, model: Path) -> None:
    names = save_many(here / "in", 5)
    images = [(here / "in" / name).read_bytes() for name in names]
    common = {"width": 28, "height": 28, "format": "PNG", "mode": "L", "orientation": 1, "n_frames": 1}
    shard = [{"image_id": name, "bytes": data, **common} for name, data in zip(names, images, strict=True)]
    product = {"product_id": "", "title": "", "taxonomy": ["another"], "label": "another", "split": "test"}
    split = [
        {"image": {"bytes": data, "path": "x"}, "image_id": name, **product}
        for name, data in zip(names, images, strict=True)
    ]
    (here / "shards").mkdir()
    pq.write_table(pa.Table.from_pylist(shard[:2], schema=IMAGES), "shards/part-00000.parquet")
    pq.write_table(pa.Table.from_pylist(shard[2:], schema=IMAGES), "shards/part-00001.parquet")
    pq.write_table(
        pa.Table.from_pylist([{**row, "label": "", "split": ""} for row in split], schema=SPLIT), "s.parquet"
    )
    answers = []
    for given in ("in", "shards", "s.parquet"):
        assert to_file("--input", given, "--model", model) == 0
        answers.append(written())
    assert answers[0] == answers[1] == answers[2]
    assert [row["image"] for row in answers[0]] == names


def test_does_not_resume_with_another_engine_or_device(
    here: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one `auto` is depends on the machine."""
    keys: list[str] = []

    def remember(*_: object, model_key: str, **__: object) -> BatchReport:
        keys.append(model_key)
        return BatchReport(Counter(), 0, 0.0, 0.0)

    monkeypatch.setattr(predict_file, "predict_all", remember)
    save_many(here / "in", 1)
    for engine in ("torch", "openvino", "openvino"):
        monkeypatch.setattr(Predictor, "accelerate", lambda *_, engine=engine: engine)
        assert to_file("--input", "in", "--model", model) == 0
    assert keys[0] != keys[1] == keys[2]
    real_init = Predictor.__init__
    monkeypatch.setattr(
        Predictor, "__init__", lambda *given: real_init(given[0], given[1], given[2], torch.device("cuda"))
    )
    assert to_file("--input", "in", "--model", model) == 0
    assert keys[3] != keys[2]


def test_unreadable_images_get_a_row_and_exit_code(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_many(here / "in", 3)
    (here / "in/01.png").write_bytes((here / "in/00.png").read_bytes()[:150])
    (here / "in/03.gif").symlink_to("03.gif")
    (here / "in/04.jpg").write_text("<html>")
    assert to_file("--input", "in", "--model", model) == 2
    assert [(row["image"], row["status"]) for row in written()] == [
        ("00.png", "ok"),
        ("01.png", "truncated"),
        ("02.png", "ok"),
        ("03.gif", "unreadable"),
        ("04.jpg", "not_an_image"),
    ]
    assert "symbolic links" in written()[3]["reason"]
    assert capsys.readouterr().err.endswith("out.parquet: 1 not_an_image, 2 ok, 1 truncated, 1 unreadable\n")


def test_min_confidence_stops_at_deepest_confident_level(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_many(here / "in", 30)
    given = ["in", "--model", str(model), "--json", "--min-confidence"]
    assert main(["predict", *given, "0"]) == 0
    descents = [line["predictions"][0] for line in printed(capsys)]
    confidence = str(np.median([descent["levels"][0] for descent in descents]))
    expected = [sum(level >= float(confidence) for level in descent["levels"]) for descent in descents]
    assert {0, 1} <= set(expected), "some are surer than others"

    assert main(["predict", *given, confidence]) == 0
    lines = printed(capsys)
    assert to_file("--input", "in", "--model", model, "--min-confidence", confidence, "--batch-size", "30") == 0
    for line, row, descent, depth in zip(lines, written(), descents, expected, strict=True):
        (answer,) = line["predictions"]
        assert answer["path"] == row["path"] == descent["path"][:depth]
        assert answer["levels"] == descent["levels"][:depth]
        assert answer["probability"] == (answer["levels"][-1] if depth else None)
        assert line["status"] == row["status"] == ("ok" if depth else "not_sure")
        if depth:
            assert row["level_probabilities"] == pytest.approx(answer["levels"], rel=1e-4)
        else:
            assert row["label"] is row["probability"] is row["level_probabilities"] is row["reason"] is None
    capsys.readouterr()
    assert main(["predict", "in", "--model", str(model), "--min-confidence", confidence]) == 0
    unsure = [line for line in capsys.readouterr().out.splitlines() if line.endswith("\tnot sure")]
    assert unsure == [f"in/{number:02d}.png\t-\tnot sure" for number, depth in enumerate(expected) if not depth]


def grey_inks(image: Image.Image) -> Image.Image:
    none = Image.new("L", image.size)
    return Image.merge("CMYK", [none, none, none, image.point(lambda shade: 255 - shade)])


def stored(image: Image.Image, orientation: int) -> Image.Image:
    """How a camera held so would have stored what people see as ``image``."""
    turns = Image.Transpose
    undo = [turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM]
    undo += [turns.TRANSPOSE, turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    return image if orientation == 1 else image.transpose(undo[orientation - 2])


def turned(kind: str, orientation: int) -> Saver:
    def save_as(image: Image.Image, path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored(image, orientation).save(path, kind, exif=exif)

    return save_as


def on_glass(image: Image.Image) -> Image.Image:
    """With white as what shines through."""
    glass = Image.merge("LA", [Image.new("L", image.size), image.point(lambda shade: 255 - shade)])
    return glass.convert("RGBA")


def sixteen(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image, dtype=np.uint16) * 257)


def film(image: Image.Image, path: Path, **options: Any) -> None:
    image.save(path, save_all=True, append_images=[Image.new(image.mode, image.size)], **options)


KINDS: dict[str, Saver] = {
    "grey.tif": lambda image, path: image.save(path),
    "rgb.bmp": lambda image, path: image.convert("RGB").save(path),
    "opaque.png": lambda image, path: image.convert("RGBA").save(path),
    "glass.png": lambda image, path: on_glass(image).save(path),
    "glass.webp": lambda image, path: on_glass(image).save(path, lossless=True, exact=True),
    "palette.png": lambda image, path: image.convert("P").save(path),
    "cmyk.tif": lambda image, path: grey_inks(image).save(path),
    "16-bit.png": lambda image, path: sixteen(image).save(path),
    "16-bit.tif": lambda image, path: sixteen(image).save(path),
    "film.gif": film,
    "film.png": film,
    "film.tif": film,
    "film.webp": lambda image, path: film(image.convert("RGB"), path, lossless=True),
    **{f"turned-{each}.png": turned("PNG", each) for each in ORIENTATIONS},
    **{f"turned-{each}.tif": turned("TIFF", each) for each in ORIENTATIONS},
}


def test_same_image_in_every_file_format_gets_same_prediction(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "in").mkdir()
    shades().save(here / "in/.plain.png")
    for name, save_as in KINDS.items():
        save_as(shades(), here / "in" / name)
    shades(2).save(here / "in/zzz.png")
    assert main(["predict", "in", "--model", str(model), "--json"]) == 0
    answers = {Path(line["image"]).name: line["predictions"][0] for line in printed(capsys)}
    assert to_file("--input", "in", "--model", model) == 0
    rows = {row["image"]: row for row in written()}
    plain, other = answers.pop(".plain.png"), answers.pop("zzz.png")
    assert abs(plain["probability"] - other["probability"]) > 0.01, "it would be noticed"
    assert answers.keys() == KINDS.keys()
    for name, answer in answers.items():
        assert answer["path"] == rows[name]["path"] == plain["path"], name
        assert answer["probability"] == pytest.approx(plain["probability"], rel=1e-5), name
        assert rows[name]["probability"] == pytest.approx(plain["probability"], rel=1e-5), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "in"], "expected both"),
        (["--output", "out.parquet"], "expected both"),
        (["a.png", "--input", "in", "--output", "out.parquet"], "excludes named images"),
        (["--input", "in", "--output", "out.parquet", "--json"], "--attention, --json"),
        (["--input", "in", "--output", "out.parquet", "--attention", "a.png"], "--attention, --json"),
        (["--input", "in", "--output", "out.parquet", "--top", "2", "--min-confidence", "0.5"], "one prediction"),
        (["a.png", "--top", "2", "--min-confidence", "0.5"], "one prediction"),
        (["--input", "in", "--output", "in"], "expected a file"),
        (["--input", "in", "--output", "in/out.parquet"], "neither the input nor inside its folder"),
        (["--input", "in/00.png", "--output", "in/00.png"], "neither the input nor inside its folder"),
        (["--input", "in", "--output", "in/00.png/out.parquet"], "cannot be written"),
        (["--input", "missing", "--output", "out.parquet"], "got nothing of that name"),
        (["--input", "x" * 300, "--output", "out.parquet"], "File name too long"),
        (["--input", "in", "--output", "x" * 300], "File name too long"),
        (["--input", "circle", "--output", "out.parquet"], "a link that leads nowhere"),
    ],
)
def test_refuses_contradictory_options(
    arguments: list[str], words: str, here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_many(here / "in", 1)
    (here / "circle").symlink_to("circle")
    assert main(["predict", "--model", str(model), *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not (here / "out.parquet").exists()


@pytest.mark.parametrize("option", ["--min-confidence", "--engine", "--batch-size"])
@pytest.mark.parametrize("value", ["1.1", "-1", "nan", "fast", "9" * 20])
def test_refuses_invalid_option_values(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", "a.png", f"{option}={value}"])
    assert caught.value.code == 2
    assert option in capsys.readouterr().err


@pytest.mark.usefixtures("untraced_onnx")
@pytest.mark.parametrize(
    "engine", ["torch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("onnxruntime", "openvino"))]
)
def test_engines_agree(engine: str, here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if engine != "torch":
        pytest.importorskip(engine)
        pytest.importorskip("onnxscript")
    save_many(here / "in", 2)
    answers = []
    for name in ("auto", engine):
        given = ["in", "--model", str(model), "--engine", name, "--json"]
        assert main(["predict", *given]) == 0
        answers += [[line["predictions"][0] for line in printed(capsys)]]
    for one, other in zip(*answers, strict=True):
        assert one["path"] == other["path"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
    assert main(["predict", "in/00.png", "--model", str(model), "--engine", engine, "--attention", "seen.png"]) == 0
    with Image.open("seen.png") as seen:
        assert seen.width > seen.height
