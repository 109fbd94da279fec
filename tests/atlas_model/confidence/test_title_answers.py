"""Predictions of models that read titles: API, command line and Parquet; evaluation, guarantees and promotion."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from atlas_model.confidence.guarantees import WITH_TITLES, load_guarantees
from atlas_model.core.errors import InputError
from atlas_model.core.params import Params, load_params
from atlas_model.data.dataset import Split
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.titles import LabelWords
from atlas_model.evaluate.evaluation import evaluate
from atlas_model.evaluate.promotion import OF_PRODUCTS, compare_models
from atlas_model.evaluate.promotion import WITH_TITLES as COMPARED_WITH_TITLES
from atlas_model.evaluate.search_runner import InputVariant
from atlas_model.inference.predictor import Prediction, Predictor
from atlas_model.model.architecture import Architecture, TitleName
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.evidence import LogitWeights, TitleWeights
from atlas_model.model.saved_models import load_categorizer, save
from atlas_model.split.files import SplitWriter
from atlas_model.taxonomy.tree import Taxonomy
from flows import paths
from flows.cli.main import main
from flows.stages import evaluate as evaluate_stage
from flows.stages import train as train_stage
from flows.stages.entry import read_metrics
from tests.support.paths import ROOT

CPU = torch.device("cpu")
TAXONOMY = Taxonomy([*itertools.product(["Men", "Women"], ["Tops", "Jeans"]), ("Bags",)])
TITLES = ["Blue top", None, "women's jeans", "", "🎒 bag", "-"]
STORED = Preprocessing(16, "L", "squash")


def build(title: TitleName = "ngrams") -> Categorizer:
    """An untrained model whose probabilities depend strongly on pixels and titles."""
    torch.manual_seed(1)
    architecture = Architecture(
        "small", 1, "native", 8, 8, 8, 0.0, "children", title=title, title_buckets=128, title_size=8
    )
    model = Categorizer(architecture, TAXONOMY).eval()
    with torch.no_grad():
        model.decoder.output.weight.mul_(20)
        if model.title_head is not None:
            model.title_head.output.weight.mul_(20)
            model.title_weights = TitleWeights(LogitWeights(0.5, 1.5, 2.0), LogitWeights(0.8, 0.6, 0.7))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "titles"
    promised = {"held_out": 100, "accuracy": [0.9], "whole": [0.5], "shorter": [0.9]}
    stricter = promised | {"whole": [0.999]}
    guarantees = {
        "risk": 0.1,
        "images": promised,
        "products": promised,
        WITH_TITLES: {
            "image_and_title": {"risk": 0.1, "images": stricter, "products": stricter},
            "title": {"risk": 0.1, "images": stricter, "products": stricter},
        },
    }
    save(build(), path, STORED, params={}, metrics={}, guarantees=guarantees)
    return path


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "images"
    save(build("none"), path, STORED, params={}, metrics={})
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(1)
    return [Image.fromarray(generator.integers(0, 256, (16, 16), dtype=np.uint8)) for _ in range(count)]


def close(one: list[Prediction], other: list[Prediction]) -> bool:
    """Equal to single precision, since the batch size may change rounding."""
    return [each.path for each in one] == [each.path for each in other] and np.allclose(
        [each.probability or 0.0 for each in one], [each.probability or 0.0 for each in other], rtol=1e-4
    )


def test_images_with_and_without_titles_in_one_batch(folder: Path) -> None:
    predictor = Predictor.load(folder, "cpu")
    model, _ = load_categorizer(folder, CPU)
    pixels = np.stack([predictor.prepare(image) for image in images(6)])
    mixed = predictor.predict_prepared(pixels, top=3, titles=TITLES)
    alone = predictor.predict_prepared(pixels, top=3)
    same = [close(one, other) for one, other in zip(mixed, alone, strict=True)]
    assert same == [title in {None, "", "-"} for title in TITLES]
    assert predictor.predict(images(6), top=3, titles=TITLES) == mixed
    with torch.no_grad():
        evidence = model.evidence(model.encoder(torch.from_numpy(pixels)), [title or "" for title in TITLES])
        _, log_p = model.exact_cells(evidence)
    distribution = predictor.distribution(pixels, TITLES)
    for row, title in enumerate(TITLES):
        if title in {None, "", "-"}:
            np.testing.assert_allclose(distribution[row], predictor.distribution(pixels)[row], atol=1e-5)
        else:
            np.testing.assert_allclose(distribution[row], log_p[row], atol=1e-4)
            assert mixed[row][0].probability == pytest.approx(float(log_p[row, 1:].exp().max()), abs=0.5)
    answers, again = predictor.predict_with_distribution(pixels, top=3, titles=TITLES)
    assert answers == mixed
    np.testing.assert_array_equal(again, distribution)


def test_predicts_from_title_alone_if_it_has_a_word(folder: Path) -> None:
    predictor = Predictor.load(folder, "cpu")
    first, second = predictor.predict_prepared(None, titles=["Blue top", "women's jeans"], top=2)
    assert len(first) == len(second) == 2
    assert not close(first, second)
    assert close(predictor.predict_prepared(None, titles=["blue TOP!"], top=2)[0], first)
    with pytest.raises(AssertionError, match="has a word"):
        predictor.predict_prepared(None, titles=["-"])


def answered(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    assert main(["predict", "--json", "--engine", "torch", *map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_command_accepts_title_with_and_without_images(
    here: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, image in enumerate(images(2)):
        image.save(here / f"{number}.png")
    predictor = Predictor.load(folder, "cpu")
    (both,), (alone,) = (
        predictor.predict(images(1), titles=["Blue top"]),
        predictor.predict_prepared(None, titles=["Blue top"]),
    )
    found = answered(capsys, "0.png", "1.png", "--title", "Blue top", "--model", folder)
    assert [line["image"] for line in found] == ["0.png", "1.png"]
    assert found[0]["predictions"][0]["probability"] == pytest.approx(both[0].probability, rel=1e-4)
    (line,) = answered(capsys, "--title", "Blue top", "--model", folder)
    assert line["title"] == "Blue top"
    assert line["predictions"][0]["path"] == list(alone[0].path)
    (of_product,) = answered(capsys, "0.png", "1.png", "--product", "--title", "Blue top", "--model", folder)
    assert of_product["images"] == ["0.png", "1.png"]
    assert answered(capsys, "0.png", "--title", "..", "--model", folder) == answered(capsys, "0.png", "--model", folder)
    assert main(["predict", "--title", "Blue top", "--model", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("title\t")
    hostile = "\x1b[31m\ud800" + "x" * 1_000_000
    (line,) = answered(capsys, "--title", hostile, "--model", folder)
    assert line["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--title", "..."], "expected a title with a word in it"),
        (["--title", ""], "expected a title with a word in it"),
        (["--input", "in.parquet", "--output", "out.parquet", "--title", "Bag"], "expected no --title"),
    ],
)
def test_refuses_invalid_titles(
    arguments: list[str], text: str, here: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--model", str(folder), *arguments]) == 2
    assert text in capsys.readouterr().err


def test_image_only_model_refuses_a_title(here: Path, without: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(1)[0].save(here / "0.png")
    assert main(["predict", "0.png", "--title", "Blue top", "--model", str(without)]) == 2
    assert "expected a model that reads titles" in capsys.readouterr().err


def test_titles_have_their_own_guarantee(here: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_guarantees(folder).images.thresholds[0.9].whole == 0.5
    assert load_guarantees(folder, "image_and_title").images.thresholds[0.9].whole == 0.999
    images(1)[0].save(here / "0.png")
    bands = set()
    for title in ([], ["--title", "Blue top"]):
        assert main(["predict", "0.png", "--accuracy", "0.9", "--model", str(folder), *title]) == 0
        bands.add(capsys.readouterr().err.splitlines()[-1])
    assert bands == {
        "accuracy 0.9 of images: whole paths from probability 0.5, shorter paths from 0.9",
        "accuracy 0.9 of images with titles: whole paths from probability 0.999, shorter paths from 0.9",
    }


def write_parquet(path: Path, titles: pa.Array | None) -> None:
    columns = {"image_id": [f"{number}" for number in range(6)], "bytes": [encode_png(image) for image in images(6)]}
    table = pa.table(columns | {"product_id": ["a", "a", "b", "b", "c", "c"]})
    pq.write_table(table if titles is None else table.append_column("title", titles), path)


def test_batch_prediction_reads_the_title_column(
    here: Path, folder: Path, without: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(here / "titled.parquet", pa.array(TITLES))
    write_parquet(here / "bare.parquet", None)
    predictor = Predictor.load(folder, "cpu")

    def written(given: str, model: Path, *more: str) -> list[dict[str, Any]]:
        arguments = ["--input", given, "--output", "out.parquet", "--model", str(model), "--batch-size", "4", *more]
        assert main(["predict", *arguments]) == 0
        return pq.read_table("out.parquet").to_pylist()

    rows = written("titled.parquet", folder, "--products", "products.parquet")
    assert "titles: 3 of 6 images have one, in the column title" in capsys.readouterr().err
    for row, (answer,) in zip(rows, predictor.predict(images(6), titles=TITLES), strict=True):
        assert row["path"] == list(answer.path)
        assert row["probability"] == pytest.approx(answer.probability, rel=1e-3)
    products = pq.read_table("products.parquet").to_pylist()
    pool = predictor.pool()
    pool.add(predictor.distribution(np.stack([predictor.prepare(image) for image in images(2)]), TITLES[:2]))
    assert products[0]["probability"] == pytest.approx(
        predictor.predict_product(pool).predictions[0].probability, rel=1e-3
    )
    bare = written("bare.parquet", folder)
    assert [row["probability"] for row in bare] != [row["probability"] for row in rows]
    assert written("titled.parquet", without) == written("bare.parquet", without), "an image-only model ignores titles"
    assert {row["band"] for row in written("titled.parquet", folder, "--accuracy", "0.9")} <= {
        "accept",
        "review",
        "no_answer",
    }


def test_title_model_refuses_non_string_title_column(
    here: Path, folder: Path, without: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(here / "numbers.parquet", pa.array(range(6)))
    arguments = ["predict", "--input", "numbers.parquet", "--output", "out.parquet", "--model"]
    assert main([*arguments, str(folder)]) == 2
    assert "expected strings in the column title, got int64" in capsys.readouterr().err
    assert main([*arguments, str(without)]) == 0


def test_refuses_accuracy_for_products_with_partial_titles(
    here: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(here / "titled.parquet", pa.array(TITLES))
    arguments = ["--input", "titled.parquet", "--output", "out.parquet", "--products", "products.parquet"]
    assert main(["predict", *arguments, "--accuracy", "0.9", "--model", str(folder)]) == 2
    assert "expected titles for all images or for none, got 3 for 6" in capsys.readouterr().err


def test_evaluates_all_input_variants(folder: Path) -> None:
    model, _ = load_categorizer(folder, CPU)
    generator = np.random.default_rng(2)
    pixels = generator.integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)
    ids = [str(row) for row in range(20)]
    titles = [("Blue top", "", "women's jeans", "leather bag")[row % 4] for row in range(20)]
    actual = generator.integers(len(TAXONOMY), size=20)
    split = Split("test", pixels, actual, ids, ids, STORED, titles)
    ways: tuple[InputVariant, ...] = ("image", "title", "image_and_title", "stripped_title", "image_and_stripped_title")
    how: dict[str, Any] = {"beam": 5, "length_normalization": 0.0, "resamples": 5, "seed": 1, "device": CPU}
    found = evaluate(model, split, np.arange(20), exact_nodes=120, batch_size=3, input_variants=ways, **how)
    assert tuple(found) == ways
    words = LabelWords(TAXONOMY.names)
    stripped = [words.remove_from(title) for title in titles]
    assert stripped[:4] == ["blue", "", "", "leather"]
    predictor = Predictor(model, STORED, CPU)
    for way, said in (("image", [None] * 20), ("image_and_title", titles), ("image_and_stripped_title", stripped)):
        answers = [answer for (answer,) in predictor.predict_prepared(pixels, titles=said)]
        assert [TAXONOMY.paths[path] for path in found[way].predicted] == [answer.path for answer in answers]
        probabilities = np.array([answer.probability for answer in answers], float)
        np.testing.assert_allclose(np.exp(found[way].log_probability), probabilities, rtol=1e-3)
        _, log_p = predictor.predict_with_distribution(pixels, titles=said)
        pooled = found[way].pooled
        for product, of_product in zip(pooled.product_ids, pooled.log_p, strict=True):
            np.testing.assert_allclose(of_product, log_p[int(product)], atol=1e-4)
        assert found[way].figures["exact_n"] == len(pooled.product_ids) < 20, "a sample"
    for way, said in (("title", titles), ("stripped_title", stripped)):
        with torch.no_grad():
            best = model.search_cells(model.evidence(None, said), beam=5)
        assert found[way].predicted.tolist() == best.path[:, 0].tolist()
    alone = evaluate(model, split, np.arange(20), exact_nodes=120, batch_size=3, **how)["image"]
    np.testing.assert_array_equal(alone.log_probability, found["image"].log_probability)


def test_promotion_compares_models_with_titles() -> None:
    actual = ["Bags"] * 100
    right, wrong = ["Bags"] * 100, ["Bags"] * 50 + ["Tops"] * 50
    rule: dict[str, Any] = {"margin": 0.02, "category_margin": 0.1, "large_category": 500, "resamples": 50, "seed": 1}
    rule |= {"products": [str(number // 2) for number in range(100)], "known": {"Bags", "Tops"}}
    gained = compare_models(actual, right, right, **rule, with_titles=(wrong, right))
    assert [c.figure for c in gained.comparisons] == ["micro F", COMPARED_WITH_TITLES]
    assert gained.accepted
    assert "micro F with titles 1.0000, +0.5000" in gained.reason
    lost = compare_models(actual, right, right, **rule, with_titles=(right, wrong))
    assert not lost.accepted
    assert "micro F with titles 0.5000, -0.5000" in lost.reason
    assert "micro F 1.0000" not in lost.reason
    neither = compare_models(actual, right, right, **rule)
    assert [c.figure for c in neither.comparisons] == ["micro F"]
    assert OF_PRODUCTS not in neither.reason


Make = Callable[..., Params]


@pytest.fixture
def params(here: Path) -> Make:
    given = load_params(ROOT / "params.yaml")
    small = {"attention_size": 8, "embedding_size": 8, "hidden_size": 8, "batch_size": 16, "min_steps": 0}
    titles = {"title": "ngrams", "title_buckets": 256, "title_size": 8}

    def make(**train: Any) -> Params:
        sections = {
            "train": given.train.model_dump() | small | titles | {"epochs": 3} | train,
            "evaluate": given.evaluate.model_dump() | {"train_sample": 10, "overlays": 2, "resamples": 20},
        }
        return Params.model_validate(given.model_dump() | sections)

    return make


def write_splits(say: Callable[[int], str]) -> None:
    paths.SPLITS.mkdir(parents=True, exist_ok=True)
    taxonomy = Taxonomy([("Bright", "Left"), ("Bright", "Right"), ("Dark", "Left")])
    for name, count in (("train", 48), ("val", 18), ("test", 18)):
        with SplitWriter(paths.SPLITS, name, count, STORED) as writer:
            for number in range(count):
                path = taxonomy.paths[number % 3]
                pixels = np.random.default_rng(number).integers(0, 40, (16, 16))
                pixels[:, :8] += 80 * (path[1] == "Left")
                image_id = f"{name}{number}"
                row: dict[str, object] = {
                    "image": {"bytes": encode_png(Image.fromarray(pixels.astype(np.uint8))), "path": image_id}
                }
                row |= {"image_id": image_id, "product_id": f"{name}{number // 2}", "title": say(number % 3)}
                writer.append(row | {"taxonomy": list(path), "label": " > ".join(path), "split": name})
    taxonomy.save(paths.TAXONOMY)


@pytest.mark.slow
def test_stages_train_and_evaluate_a_title_model(params: Make, capsys: pytest.CaptureFixture[str]) -> None:
    write_splits(["bright lamp", "shiny lamp", ""].__getitem__)
    train_stage.run(params())
    assert "16 of 48 images of train have no title" in capsys.readouterr().err
    description = json.loads((paths.CATEGORIZER / "model.json").read_text())
    assert description["architecture"]["title"] == "ngrams"
    assert set(description["title_weights"]) == {"named", "other"}
    assert set(description["guarantees"][WITH_TITLES]) == {"title", "image_and_title"}
    trained = read_metrics("train")
    assert 0 <= trained["categorizer"]["val_accuracy_of_title"] <= 1
    assert "val_accuracy_of_title" not in trained["baseline"]
    evaluate_stage.run(params())
    metrics = read_metrics("evaluate")
    modes = metrics["modes"]
    assert set(modes) == {"image", "title", "image_and_title", "stripped_title", "image_and_stripped_title"}
    assert modes["image"]["micro_f1"] == metrics["test"]["micro_f1"]
    for way in set(modes) - {"image"}:
        gain = modes[way]["micro_f1"] - modes["image"]["micro_f1"]
        assert modes[way]["difference"]["micro_f1"]["value"] == pytest.approx(gain)
        assert modes[way]["n"] == 18
    assert set(modes["image_and_title"]["guarantees"]) == {"images", "products"}
    headline = json.loads((paths.METRICS / "evaluate.json").read_text())
    assert headline["modes"]["image_and_title"] == {"micro_f1": float(f"{modes['image_and_title']['micro_f1']:.4g}")}
    table = pq.read_table(paths.EVALUATION / "predictions_image_and_title.parquet").to_pylist()
    assert len(table) == 36
    right = [
        row for row in table if row["split_value"] == "test" and row["actual_category"] == row["predicted_category"]
    ]
    assert len(right) / 18 == pytest.approx(modes["image_and_title"]["micro_f1"])


def test_training_with_titles_needs_titles(params: Make) -> None:
    write_splits(lambda number: "-")
    with pytest.raises(InputError, match="expected products with titles, got none among the 48 images of train"):
        train_stage.run(params())
