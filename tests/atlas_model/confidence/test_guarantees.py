"""Accuracy guarantees of a model: found on held-out images, saved with the model, applied in prediction."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from atlas_model.confidence.calibration import descend
from atlas_model.confidence.guarantees import (
    MEASURED_ACCURACIES,
    Guarantee,
    Guarantees,
    find_guarantees,
    guarantee_figures,
    load_guarantees,
    rows_for_guarantees,
)
from atlas_model.confidence.products import pool_products
from atlas_model.confidence.risk_control import (
    HeldOutItems,
    Thresholds,
    apply_thresholds,
    min_held_out,
    sample_one_per_product,
    simulate_resplits,
)
from atlas_model.core.errors import CheckpointError, InputError
from atlas_model.data.images import Preprocessing
from atlas_model.data.schemas import PREDICTED, PREDICTED_PRODUCTS, PREDICTED_WITH_BAND
from atlas_model.inference.predictor import Predictor
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import save
from atlas_model.taxonomy.tree import Taxonomy
from flows.cli.main import main
from tests.support.held_out import items
from tests.support.lookup import Lookup, categorizer, numbered

CPU = torch.device("cpu")
TAXONOMY = Taxonomy(
    [("Bags",), ("Shoes", "Boots"), ("Shoes", "Clogs"), ("Shoes",), ("Hats", "Caps"), ("Hats", "Hoods")]
)
COUNT, PRODUCTS = 1200, 700
ONE = Guarantee(700, {0.5: Thresholds(0.0, 0.5), 0.8: Thresholds(0.5, 0.8), 0.9: Thresholds(None, 0.93)})


@pytest.fixture(scope="module")
def model() -> Categorizer:
    found = categorizer(TAXONOMY, "children", seed=9)
    found.encoder = Lookup(2 * torch.randn(COUNT, 4, 6, generator=torch.Generator().manual_seed(0)))  # type: ignore[assignment]  # a stand-in
    with torch.no_grad():
        found.decoder.output.weight.mul_(3)
    return found


def test_guarantees_use_one_image_per_product_and_pooled_products(model: Categorizer) -> None:
    products = [f"p{row % PRODUCTS}" for row in range(COUNT)]
    cells = model.encoder(numbered(COUNT))
    _, log_p = model.exact(numbered(COUNT))
    ends = log_p[:, TAXONOMY.trie.routes.max(axis=1)].exp()
    paths = torch.multinomial(ends, 1, generator=torch.Generator().manual_seed(1)).squeeze(1).numpy()
    rows = rows_for_guarantees(products, TAXONOMY)
    assert sorted(rows.tolist()) == list(range(COUNT))
    owners = [products[row] for row in rows]
    assert all(owners[at] == owners[at - 1] or owners[at] not in owners[:at] for at in range(1, COUNT)), (
        "the images of a product are adjacent"
    )
    found = find_guarantees(model, map(model.evidence, cells[rows].split(77)), paths[rows], owners)

    chosen = rows[sample_one_per_product(owners)]
    images = HeldOutItems.of(TAXONOMY, descend(TAXONOMY.trie, log_p[chosen]), paths[chosen])
    pooled = pool_products(TAXONOMY, log_p[rows].numpy(), owners)
    of_products = descend(TAXONOMY.trie, torch.from_numpy(pooled.log_p))
    expected = Guarantee.of(HeldOutItems.of(TAXONOMY, of_products, paths[rows][pooled.first]))
    assert found == Guarantees(Guarantee.of(images), expected)
    assert found.images.held_out == PRODUCTS and len(found.images.thresholds) > 5
    assert found.images != found.products


def test_large_taxonomy_uses_a_sample_of_whole_products(monkeypatch: pytest.MonkeyPatch) -> None:
    products = [f"p{row % 10}" for row in range(40)]
    monkeypatch.setattr("atlas_model.confidence.guarantees.NODES", 14 * len(TAXONOMY.trie.path))
    rows = rows_for_guarantees(products, TAXONOMY)
    assert len(rows) == 12
    assert len({products[row] for row in rows}) == 3


@pytest.mark.parametrize(
    ("asked", "promised"), [(0.3, 0.5), (0.5, 0.5), (0.51, 0.8), (0.8, 0.8), (0.85, 0.9), (0.9, 0.9)]
)
def test_accuracy_is_rounded_up_to_the_next_guarantee(asked: float, promised: float) -> None:
    assert ONE.at(asked, "images") == (promised, ONE.thresholds[promised])


def test_error_names_the_highest_guaranteed_accuracy() -> None:
    with pytest.raises(InputError, match=r"--accuracy 0.95: .* for products, which is at most 0.9: .* 700 held-out"):
        ONE.at(0.95, "products")
    with pytest.raises(InputError, match=f"and 0.999 needs at least {min_held_out(0.999)}"):
        ONE.at(0.999, "images")
    with pytest.raises(InputError, match="which is no accuracy at all"):
        Guarantee(20, {}).at(0.5, "images")


def saved(model: Categorizer, folder: Path, guarantees: dict[str, Any] | None) -> Path:
    torch.manual_seed(4)
    plain = categorizer(model.taxonomy, "children", seed=9)
    plain.decoder = type(plain.decoder)(
        len(TAXONOMY.tokens), cell_features=plain.encoder.channels, attention_size=5, embedding_size=4, hidden_size=7,
        dropout=0.5, deep_output=False,
    )  # fmt: skip
    with torch.no_grad():
        plain.decoder.output.weight.mul_(20)
    save(plain, folder, Preprocessing(28, "L", "squash"), params={}, metrics={}, guarantees=guarantees)
    return folder


def test_guarantees_are_saved_with_the_model(model: Categorizer, tmp_path: Path) -> None:
    both = Guarantees(ONE, Guarantee(20, {}))
    folder = saved(model, tmp_path / "model", both.to_json())
    assert load_guarantees(folder) == both
    assert json.loads((folder / "model.json").read_text())["guarantees"]["risk"] == 0.1


def test_reports_model_without_guarantees(model: Categorizer, tmp_path: Path) -> None:
    folder = saved(model, tmp_path / "model", None)
    assert "guarantees" not in json.loads((folder / "model.json").read_text())
    with pytest.raises(CheckpointError, match=r"Train it again, or use --min-confidence"):
        load_guarantees(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("images"),
        lambda value: value["images"].pop("whole"),
        lambda value: value["images"]["whole"].pop(),
        lambda value: value["images"].update(accuracy=[0.9, 0.8, 0.5]),
        lambda value: value["images"].update(accuracy=[0.5, 0.8, 1.5]),
        lambda value: value["images"].update(shorter=[0.5, float("nan"), 0.8]),
        lambda value: value["images"].update(shorter=[0.5, None, 0.8]),
        lambda value: value["images"].update(whole=[True, 0.5, 0.8]),
        lambda value: value["images"].update(held_out="many"),
        lambda value: value.update(images=[1, 2]),
    ],
)
def test_refuses_damaged_guarantees(
    damage: Callable[[dict[str, Any]], object], model: Categorizer, tmp_path: Path
) -> None:
    folder = saved(model, tmp_path / "model", Guarantees(ONE, ONE).to_json())
    description = json.loads((folder / "model.json").read_text())
    damage(description["guarantees"])
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="expected thresholds for accuracies"):
        load_guarantees(folder)


def test_figures_measure_guarantees_on_test_and_resplits() -> None:
    val, test = items(900, 1), items(800, 2)
    own = Guarantees(Guarantee.of(val), Guarantee(20, {}))
    figures = guarantee_figures(own, {"images": val, "products": val}, {"images": test, "products": test}, seed=3)
    assert set(figures) == {"images", "products"} and set(figures["images"]) == {
        f"{each:g}" for each in MEASURED_ACCURACIES
    }
    assert figures["images"]["0.9"]["test"] == asdict(apply_thresholds(test, own.images.thresholds[0.9]))
    assert figures["images"]["0.9"]["test"]["answered_right"] >= 0.9
    assert figures["products"]["0.9"]["test"] is None
    expected = simulate_resplits(HeldOutItems.concatenated([val, test]), 900, 0.9, times=100, seed=3)
    assert figures["images"]["0.9"]["resplits"] == expected
    assert figures["images"]["0.99"]["test"] is None or own.images.thresholds[0.99]
    nothing = guarantee_figures(None, {"images": val}, {"images": test}, seed=3)
    assert nothing["images"]["0.9"]["test"] is None and nothing["images"]["0.9"]["resplits"] == expected


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(2)
    for number in range(60):
        folder = tmp_path / f"in/{number // 3:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        shade, amount = generator.integers(256), 16 ** generator.random()
        pixels = np.clip(shade + amount * generator.normal(0, 4, (28, 28)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return tmp_path


def promising(model: Categorizer, here: Path) -> Path:
    """A model whose thresholds lie within the range of its confidences, with other thresholds for products."""
    predictor = Predictor.load(saved(model, here / "plain", None), "cpu")
    files = sorted((here / "in").rglob("*.png"))
    log_p = predictor.distribution(np.stack([predictor.prepare(Image.open(file)) for file in files]))
    descent = descend(TAXONOMY.trie, torch.from_numpy(log_p))
    first, whole = np.quantile(descent.probability[:, 0], 0.3), np.quantile(descent.end_probability, 0.6)
    images = Guarantee(99, {0.9: Thresholds(float(whole), float(first))})
    products = Guarantee(99, {0.9: Thresholds(None, float(first))})
    return saved(model, here / "promising", Guarantees(images, products).to_json())


def band_of(probability: np.ndarray, depth: int, thresholds: Thresholds) -> str:
    if thresholds.whole is not None and probability[depth - 1] >= thresholds.whole:
        return "accept"
    return "review" if depth > 1 and probability[0] >= thresholds.shorter else "no_answer"


def test_predictions_have_bands(model: Categorizer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = promising(model, here)
    thresholds = load_guarantees(folder).images.thresholds[0.9]
    predictor = Predictor.load(folder, "cpu")
    files = sorted((here / "in").rglob("*.png"))
    log_p = predictor.distribution(np.stack([predictor.prepare(Image.open(file)) for file in files]))
    descent = descend(TAXONOMY.trie, torch.from_numpy(log_p))
    expected = [band_of(*each, thresholds) for each in zip(descent.probability, descent.depth, strict=True)]
    assert set(expected) == {"accept", "review", "no_answer"}, "otherwise the test covers too little"

    assert main(["predict", "in", "--model", str(folder), "--accuracy", "0.85", "--engine", "torch"]) == 0
    captured = capsys.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert [line[3].replace(" ", "_") for line in lines] == expected
    assert all((line[1] == "-") == (line[3] == "no answer") for line in lines)
    assert "accuracy 0.9 of images: whole paths from " in captured.err

    assert main(["predict", "in", "--model", str(folder), "--accuracy", "0.9", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["predictions"][0]["band"] for answer in answers] == expected
    for answer, band in zip(answers, expected, strict=True):
        names = tuple(answer["predictions"][0]["path"])
        assert band != "accept" or names in TAXONOMY
        assert (answer["status"] == "not_sure") == (band == "no_answer") == (not names)


def test_output_file_has_a_band_column(model: Categorizer, here: Path) -> None:
    folder = promising(model, here)
    options = ["predict", "--input", "in", "--model", str(folder), "--output", "out.parquet", "--engine", "torch"]
    assert main([*options, "--min-confidence", "0.5"]) == 0
    assert pq.read_schema("out.parquet").equals(PREDICTED)
    assert main([*options, "--accuracy", "0.9", "--products", "products.parquet"]) == 0
    table = pq.read_table("out.parquet")
    assert table.schema.equals(PREDICTED_WITH_BAND)
    assert table.schema.names == [*PREDICTED.names, "band"]
    rows = table.to_pylist()
    assert {row["band"] for row in rows} == {"accept", "review", "no_answer"}
    assert all((row["status"] == "ok") == (row["band"] != "no_answer") for row in rows)
    products = pq.read_table("products.parquet")
    assert products.schema.equals(PREDICTED_PRODUCTS)
    bands = {row["band"] for row in products.to_pylist()}
    assert bands == {"review", "no_answer"}, "there is no guarantee for whole paths of products"

    (here / "in/00/00.png").write_bytes(b"")
    assert main([*options, "--accuracy", "0.9"]) == 2
    assert [row["band"] for row in pq.read_table("out.parquet").to_pylist() if row["status"] == "empty"] == [None]


def test_products_have_their_own_guarantee(model: Categorizer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = promising(model, here)
    for product in sorted(path.name for path in (here / "in").iterdir())[:6]:
        options = ["predict", f"in/{product}", "--product", "--model", str(folder)]
        assert main([*options, "--accuracy", "0.9"]) == 0
        captured = capsys.readouterr()
        assert "accuracy 0.9 of products: no whole paths, shorter paths from " in captured.err
        assert captured.out.split("\t")[3].strip() in ("review", "no answer")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--accuracy", "0.9", "--min-confidence", "0.9"], "expected one of them"),
        (["--accuracy", "0.9", "--top", "2"], "--accuracy gives one prediction per image"),
        (["--accuracy", "0.99"], "for images, which is at most 0.9"),
        (["--accuracy", "0.99", "--product"], "for products, which is at most 0.9"),
        (["--input", "in", "--output", "o.parquet", "--accuracy", "0.99"], "which is at most 0.9"),
    ],
)
def test_refuses_conflicting_or_unreachable_accuracy(
    arguments: list[str], words: str, model: Categorizer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [] if "--input" in arguments else ["in"]
    assert main(["predict", *images, "--model", str(promising(model, here)), *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err.splitlines()[-1] and not captured.out


@pytest.mark.parametrize("accuracy", ["1", "0", "x", "-0.5"])
def test_accuracy_is_between_zero_and_one(accuracy: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["predict", "a.png", f"--accuracy={accuracy}"])
    assert error.value.code == 2
    assert "expected a number between 0 and 1, such as 0.95" in capsys.readouterr().err
