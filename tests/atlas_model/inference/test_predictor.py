"""The predictor: from a model folder and a decoded image to paths and an attention overlay."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from atlas_model.core.device import choose_device
from atlas_model.core.errors import CheckpointError, InputError
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.inference.predictor import BATCH, NOT_SURE, Prediction, Predictor, RowOptions
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import load_categorizer, save
from atlas_model.taxonomy.tree import Taxonomy
from atlas_model.viz.attention import overlay
from tests.support import title_models

TAXONOMY = Taxonomy([*itertools.product(["Men", "Women"], ["Tops", "Jeans"], ["Long", "Short"]), ("Bags",)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    architecture = Architecture("small", 3, "native", 8, 8, 8, 0.0)
    path = tmp_path_factory.mktemp("model") / "categorizer"
    save(Categorizer(architecture, TAXONOMY), path, Preprocessing(28, "RGB", "pad"), params={}, metrics={})
    return path


def images(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(1)
    return [Image.fromarray(generator.integers(0, 256, (40, 30 + row % 5, 3), dtype=np.uint8)) for row in range(count)]


def test_top_paths_are_valid_distinct_and_sorted(folder: Path) -> None:
    answers = Predictor.load(folder, "cpu").predict(images(3), beam=5, top=4)
    assert len(answers) == 3
    for answer in answers:
        assert len({prediction.path for prediction in answer}) == 4
        assert all(prediction.path in TAXONOMY for prediction in answer)
        probabilities = [prediction.probability or 0.0 for prediction in answer]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1


def test_top_is_limited_by_the_size_of_the_taxonomy(folder: Path) -> None:
    (answer,) = Predictor.load(folder, "cpu").predict(images(1), beam=2, top=50)
    assert {prediction.path for prediction in answer} == set(TAXONOMY.paths)


def test_image_decoded_small_gets_the_same_prediction(folder: Path) -> None:
    predictor = Predictor.load(folder, "cpu")
    (small,) = [predictor.read(encode_png(image)) for image in images(1)]
    assert small.size == (predictor.side, predictor.side) == (28, 28)
    assert np.array_equal(predictor.prepare(small), predictor.prepare(images(1)[0]))
    assert predictor.predict([small]) == predictor.predict(images(1))


def test_predictions_do_not_depend_on_the_batch(folder: Path) -> None:
    predictor = Predictor.load(folder, "cpu")
    many = images(BATCH + 3)
    together = predictor.predict(many)
    alone = [predictor.predict([image])[0] for image in (many[0], many[-1])]
    for one, other in zip(alone, (together[0], together[-1]), strict=True):
        assert one[0].path == other[0].path
        assert one[0].probability == pytest.approx(other[0].probability, rel=1e-4)
    assert predictor.predict([]) == []


def test_answers_have_the_names_and_ids_of_today(folder: Path, tmp_path: Path) -> None:
    model, preprocessing = load_categorizer(folder, torch.device("cpu"))
    today = [tuple("Gents" if name == "Men" else name for name in path) for path in TAXONOMY.paths]
    ids = {path[:level]: "/".join(path[:level]) for path in today for level in range(1, len(path) + 1)}
    model.taxonomy = Taxonomy(today, keys=TAXONOMY.paths, ids=ids)
    save(model, tmp_path / "renamed", preprocessing, params={}, metrics={})
    before, after = (Predictor.load(each, "cpu") for each in (folder, tmp_path / "renamed"))
    for rule in (None, 0.2):
        old, new = (predictor.predict(images(3), top=9, min_confidence=rule) for predictor in (before, after))
        for one, other in zip(itertools.chain(*old), itertools.chain(*new), strict=True):
            assert other.path == tuple("Gents" if name == "Men" else name for name in one.path)
            assert (other.probability, other.levels) == (one.probability, one.levels)
            assert other.category_id == ("/".join(other.path) or None)
            assert one.category_id is None
    pool = after.pool()
    pool.add(after.distribution(np.stack([after.prepare(image) for image in images(2)])))
    (best,) = after.predict_product(pool).predictions
    assert best.category_id == "/".join(best.path)
    drawn, expected = (
        predictor.attention_overlay(images(1)[0], Prediction((name, "Tops"), None, ()))
        for predictor, name in ((after, "Gents"), (before, "Men"))
    )
    assert drawn.size == expected.size


def test_refuses_pickle_as_model(tmp_path: Path) -> None:
    torch.save({"state": 1}, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text('{"format": 1, "kind": "categorizer"}')
    with pytest.raises(CheckpointError, match="safetensors"):
        Predictor.load(tmp_path)


def test_missing_model_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a model's description"):
        Predictor.load(tmp_path / "nothing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_reports_cuda_without_gpu() -> None:
    with pytest.raises(InputError, match="torch finds no GPU"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_overlay_highlights_the_attended_cells(folder: Path) -> None:
    predictor = Predictor.load(folder, "cpu")
    (image,) = images(1)
    ((answer,),) = predictor.predict([image])
    strip = predictor.attention_overlay(image, answer)
    assert strip.width > strip.height
    attention = np.zeros((1, 4))
    attention[0, 1] = 1.0  # top right
    lit = np.asarray(overlay(Image.new("L", (28, 28)), ["$x_$ <b>"], attention, title="$a$")).astype(int)
    panel = lit[:, lit.shape[1] // 2 :]
    bright = np.argwhere((panel[..., 0] > 90) & (panel[..., 0] < 200))  # the heat map, neither background nor black
    centre = bright.mean(axis=0) / panel.shape[:2]
    assert centre[0] < 0.55 and centre[1] > 0.5


def test_overlay_shows_only_the_predicted_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(
        "atlas_model.viz.attention.overlay",
        lambda seen, names, attention, title: drawn.append((names, attention, title)) or seen,
    )
    predictor, (image,) = Predictor.load(folder, "cpu"), images(1)
    path = ("Men", "Tops", "Long")
    model = load_categorizer(folder, torch.device("cpu"))[0]
    found = model.search(torch.from_numpy(predictor.prepare(image)[None]), beam=9, top=9)
    attention = found.attention[0, found.path[0].tolist().index(TAXONOMY.index(path))].detach()
    for answer, says in (
        (Prediction(path, 0.5, (0.8, 0.7, 0.5)), "Men > Tops > Long   (50%)"),
        (Prediction(path[:2], 0.7, (0.8, 0.7)), "Men > Tops   (70%)"),
        (NOT_SURE, "not sure"),
    ):
        predictor.attention_overlay(image, answer)
        names, looked, title = drawn.pop()
        assert (names, title) == (answer.path, says)
        np.testing.assert_allclose(looked[: len(names)], attention[: len(names)], atol=1e-5)


@pytest.mark.parametrize("min_confidence", [None, 0.5])
def test_nan_weights_raise_an_error(folder: Path, tmp_path: Path, min_confidence: float | None) -> None:
    model, preprocessing = load_categorizer(folder, torch.device("cpu"))
    model.decoder.output.weight.data.fill_(float("nan"))
    save(model, tmp_path / "nan", preprocessing, params={}, metrics={})
    with pytest.raises(CheckpointError, match="weights are damaged"):
        Predictor.load(tmp_path / "nan", "cpu").predict(images(1), min_confidence=min_confidence)


def test_huge_top_is_limited_by_the_taxonomy(folder: Path) -> None:
    (answer,) = Predictor.load(folder, "cpu").predict(images(1), top=10**12)
    assert len(answer) == len(TAXONOMY)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("preprocessing", {"mode": "RGB"}),
        ("preprocessing", {"mode": "CMYK"}),
        ("preprocessing", {"size": 27}),
        ("preprocessing", {"size": 28.0}),
        ("preprocessing", {"size": 0}),
        ("preprocessing", {"size": 10**6}),
        ("preprocessing", {"resize": "stretch"}),
        ("preprocessing", {"interpolation": "nearest"}),
        ("architecture", {"grid": 0}),
        ("architecture", {"grid": -1}),
        ("architecture", {"grid": "x"}),
        ("architecture", {"grid": 10**6}),
        ("architecture", {"encoder": "vgg"}),
    ],
)
def test_refuses_invalid_description_before_loading(tmp_path: Path, part: str, change: dict[str, Any]) -> None:
    model = Categorizer(Architecture("small", 1, "native", 8, 8, 8, 0.0), TAXONOMY)
    save(model, tmp_path / "bad", Preprocessing(28, "L", "squash"), params={}, metrics={})
    file = tmp_path / "bad/model.json"
    description = json.loads(file.read_text())
    description["format"] = 1  # without a checksum
    description[part].update(change)
    file.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="its description is not one of a categorizer"):
        Predictor.load(tmp_path / "bad", "cpu").predict(images(1))


def test_mixed_options_in_one_batch_give_the_predictions_of_separate_calls() -> None:
    model, pixels = title_models.make()
    predictor = Predictor(model, title_models.PREPROCESSING, torch.device("cpu"))
    rows = list(pixels.numpy())
    titles = ["Blue tee", None, "Bag", None, None, "!"]
    options = [
        RowOptions(),
        RowOptions(top=3),
        RowOptions(),
        RowOptions(min_confidence=0.3),
        RowOptions(distribution=True),
    ]
    found = predictor.predict_mixed([rows[0], rows[1], None, rows[3], rows[4], rows[5]], titles, [*options, options[0]])

    def separate(row: int, **given: Any) -> list[Prediction]:
        return predictor.predict_prepared(pixels.numpy()[row : row + 1], titles=titles[row : row + 1], **given)[0]

    expected = {0: separate(0), 1: separate(1, top=3), 3: separate(3, min_confidence=0.3), 5: separate(5)}
    expected[2] = predictor.predict_prepared(None, titles=["Bag"])[0]
    for row, predictions in expected.items():
        answers = found[row]
        assert isinstance(answers, list)
        assert [each.path for each in answers] == [each.path for each in predictions]
        for one, other in zip(answers, predictions, strict=True):
            assert np.allclose(one.levels, other.levels, atol=1e-5)
    assert np.allclose(np.asarray(found[4]), predictor.distribution(pixels.numpy()[4:5])[0], atol=1e-5)
