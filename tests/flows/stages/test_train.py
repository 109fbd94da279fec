"""Stages train and evaluate on a small split, in this process: what they write, and what they refuse."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from atlas_model.core.errors import AtlasError, CheckpointError, MissingError
from atlas_model.core.params import Params, load_params
from atlas_model.data.dataset import Split, load_split
from atlas_model.data.images import Preprocessing
from atlas_model.data.schemas import PREDICTIONS, PRODUCT_PREDICTIONS
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.model.saved_models import save
from atlas_model.taxonomy.tree import Taxonomy
from flows import paths
from flows.stages import entry, evaluate, train
from flows.stages.entry import read_metrics
from tests.support.full_disk import limited_file_size
from tests.support.paths import ROOT
from tests.support.training_split import TAXONOMY, write_split

MODEL_FILES = ("model.safetensors", "model.json")
SMALL: dict[str, dict[str, Any]] = {
    "train": {
        "epochs": 2,
        "attention_size": 8,
        "embedding_size": 8,
        "hidden_size": 8,
        "batch_size": 16,
        "min_steps": 0,
    },
    "evaluate": {"train_sample": 10, "overlays": 2, "resamples": 20},
}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
    given = load_params(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)

    def make(**changes: dict[str, Any]) -> Params:
        sections = {
            name: getattr(given, name).model_dump() | SMALL[name] | changes.get(name, {})
            for name in ("train", "evaluate")
        }
        return Params.model_validate(given.model_dump() | sections)

    return make


@pytest.fixture
def splits(params: Callable[..., Params]) -> None:
    for name, count in (("train", 48), ("val", 12), ("test", 12)):
        write_split(name, count)
    TAXONOMY.save(paths.TAXONOMY)


@pytest.mark.usefixtures("splits")
def test_train_and_evaluate_outputs(params: Callable[..., Params]) -> None:
    train.run(params())
    description = json.loads((paths.CATEGORIZER / "model.json").read_text())
    assert description["params"]["epochs"] == 2
    assert description["preprocessing"] == {
        "size": 16,
        "mode": "L",
        "resize": "squash",
        "interpolation": "bicubic",
    }
    assert set(description["metrics"]) == {"epoch", "val_accuracy"}, "timings would change the model's hash"
    assert not (paths.WORK / "train").exists(), "a finished run leaves no state that a later one could resume"
    figures = read_metrics("train")
    headline = json.loads((paths.METRICS / "train.json").read_text())
    assert headline == {"val_accuracy": pytest.approx(figures["categorizer"]["val_accuracy"], abs=1e-4)}
    assert "seconds" not in figures["categorizer"], "timings would change a hash"
    timings = json.loads((paths.TIMINGS / "train.json").read_text())
    assert timings["baseline"].keys() == {"seconds", "images_per_s", "data_share"}
    assert figures["categorizer"]["epochs"] == figures["baseline"]["epochs"], "the same number of images seen"
    for folder, name in ((paths.CATEGORIZER, "categorizer"), (paths.BASELINE, "baseline")):
        saved = json.loads((folder / "model.json").read_text())["temperature"]
        assert saved == figures[name]["temperature"] != 1.0, "fitted"
    evaluate.run(params())
    metrics = read_metrics("evaluate")
    assert json.loads((paths.METRICS / "evaluate.json").read_text()) == {
        "val": {key: float(f"{metrics['val'][key]:.4g}") for key in ("micro_f1", "macro_f1")},
        "test": {key: float(f"{metrics['test'][key]:.4g}") for key in ("micro_f1", "macro_f1", "ece")}
        | {"products_f1": float(f"{metrics['test']['products']['micro_f1']:.4g}")},
        "classifier_f1": float(f"{metrics['baseline']['test']['micro_f1']:.4g}"),
    }
    assert [metrics[name]["n"] for name in ("train", "val", "test")] == [10, 12, 12]
    assert all(metrics[name]["invalid_paths"] == 0 for name in ("train", "val", "test"))
    assert metrics["baseline"]["test"]["n"] == 12
    predictions = pq.read_table(paths.EVALUATION / "predictions.parquet")
    assert predictions.schema.equals(PREDICTIONS)
    assert description["guarantees"]["images"]["held_out"] == 12
    assert metrics["guarantees"]["products"]["0.9"]["resplits"]["promised"] == 0, "12 products promise nothing"
    products = pq.read_table(paths.EVALUATION / "products.parquet")
    assert products.schema.equals(PRODUCT_PREDICTIONS)
    of_splits = [row["split_value"] for row in products.to_pylist()]
    assert [of_splits.count(name) for name in ("train", "val", "test")] == [10, 12, 12]
    assert metrics["test"]["products"]["micro_f1"] == metrics["test"]["micro_f1"], "each has one image"
    right = sum(row["actual_category"] == row["predicted_category"] for row in predictions.to_pylist()[-12:])
    assert metrics["test"]["micro_f1"] == right / 12
    for name in ("confusion", "confusion_level_1"):
        with (paths.PLOTS / f"evaluate/{name}.csv").open() as handle:
            pairs = [tuple(row.values()) for row in csv.DictReader(handle)]
        right_share = sum(actual == predicted for actual, predicted in pairs) / 12
        assert right_share == metrics["test"]["level_accuracy"][1 if name == "confusion" else 0]
    with (paths.PLOTS / "evaluate/reliability_baseline.csv").open() as handle:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(handle)]
    gaps = sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    assert metrics["baseline"]["test"]["ece"] == pytest.approx(gaps / 12, abs=1e-6)
    difference = metrics["baseline"]["difference"]["micro_f1"]
    assert difference["value"] == pytest.approx(metrics["test"]["micro_f1"] - metrics["baseline"]["test"]["micro_f1"])
    assert difference["interval"][0] <= difference["value"] <= difference["interval"][1]
    assert {path.name for path in paths.EVALUATION.glob("*.png")} == {
        "abstention.png",
        "confusion.png",
        "confusion_level_1.png",
        "reliability.png",
    }
    assert len(list((paths.EVALUATION / "attention").glob("*.png"))) == 2


@pytest.mark.usefixtures("splits")
def test_evaluate_draws_no_overlays_when_zero(params: Callable[..., Params]) -> None:
    train.run(params())
    evaluate.run(params(evaluate={"overlays": 0}))
    assert list((paths.EVALUATION / "attention").iterdir()) == []


@pytest.mark.parametrize(
    ("others", "difference"),
    [
        (
            [*TAXONOMY.paths, ("Dark", "Right"), ("Dim",)],
            "got one of 3: only the data have 'Dark > Right' and 1 more",
        ),
        (
            [*TAXONOMY.paths[:2], ("Dark", "Right")],
            "3 paths; got one of 3: only the model has 'Dark > Left'; only the data have 'Dark > Right'. Train again",
        ),
        ([*TAXONOMY.paths[::-1]], "3 paths; got one of 3: the same paths in another order"),
    ],
)
@pytest.mark.parametrize("which", [paths.CATEGORIZER, paths.BASELINE])
def test_evaluate_refuses_model_of_another_taxonomy(
    which: Path, others: list[tuple[str, ...]], difference: str, params: Callable[..., Params]
) -> None:
    for name in ("train", "val", "test"):
        write_split(name, 2)  # whose paths are in all these taxonomies
    Taxonomy(others).save(paths.TAXONOMY)
    for model_class, folder in ((Categorizer, paths.CATEGORIZER), (Classifier, paths.BASELINE)):
        taxonomy = TAXONOMY if folder == which else Taxonomy(others)
        model = model_class(Architecture("small", 1, "native", 8, 8, 8, 0.0), taxonomy)
        save(model, folder, Preprocessing(16, "L", "squash"), params={}, metrics={})
    with pytest.raises(CheckpointError, match=f"^{which}: expected a model of the taxonomy in .*{difference}"):
        evaluate.run(params())


@pytest.mark.usefixtures("params")
def test_pixel_cache_is_reused_and_stale_entries_are_removed() -> None:
    cache = paths.WORK / "pixels"

    def load(name: str) -> Split:
        return load_split(paths.SPLITS, name, TAXONOMY, cache)

    write_split("train", 48)
    write_split("val", 12)
    whole, _ = load("train"), load("val")
    (kept,) = cache.glob("train-*.npy")
    written_at = kept.stat().st_mtime_ns
    assert np.array_equal(load("train").pixels, whole.pixels)
    assert kept.stat().st_mtime_ns == written_at
    (cache / ".train-1.npy.99.tmp").touch()  # of a run that was killed
    write_split("train", 24)
    assert len(load("train").pixels) == 24
    assert len(whole.pixels) == 48, "who has the old ones open keeps them"
    assert sorted(path.name.partition("-")[0] for path in cache.glob("[!.]*.npy")) == ["train", "val"]
    assert not list(cache.glob(".*"))


@pytest.mark.usefixtures("params")
def test_full_disk_while_caching_pixels_is_an_error() -> None:
    write_split("train", 48)
    with (
        limited_file_size(),
        pytest.raises(AtlasError, match=r"pixels of 48 images could not be written.*Free disk space"),
    ):
        load_split(paths.SPLITS, "train", TAXONOMY, paths.WORK)
    assert not list(paths.WORK.iterdir())


@pytest.mark.usefixtures("splits")
def test_checkpoint_key_depends_on_given_weights(params: Callable[..., Params]) -> None:
    weights = Path("resnet18.safetensors")
    given = params(train={"encoder": "resnet18", "weights": str(weights), "erase": 0.0}).train
    missing = train._key(given, TAXONOMY)
    weights.write_bytes(b"one")
    one = train._key(given, TAXONOMY)
    weights.write_bytes(b"two")
    assert len({missing, one, train._key(given, TAXONOMY)}) == 3


def test_missing_splits_name_the_stage_to_run(params: Callable[..., Params]) -> None:
    with pytest.raises(MissingError, match="dvc repro split"):
        train.run(params())


@pytest.mark.slow
@pytest.mark.usefixtures("splits")
def test_renamed_categories_keep_the_weights(params: Callable[..., Params], capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [folder / file for folder in (paths.CATEGORIZER, paths.BASELINE) for file in MODEL_FILES]
    small = params(train={"epochs": 1})
    train.run(small)
    before = [path.read_bytes() for path in outputs]
    renamed = [("Light", "L"), ("Light", "Right"), ("Dark", "Left")]  # one of the two nodes named Left
    for name in ("train", "val", "test"):
        _rename(name, dict(zip(TAXONOMY.paths, renamed, strict=True)))
    Taxonomy(renamed, keys=TAXONOMY.paths, ids={("Light", "L"): "7"}).save(paths.TAXONOMY)
    for folder in (paths.CATEGORIZER, paths.BASELINE, paths.PLOTS / "train"):
        shutil.rmtree(folder)  # as DVC does before it runs a stage
    capsys.readouterr()
    train.run(small)
    assert "the models keep their weights" in capsys.readouterr().err
    restored = [path.read_bytes() for path in outputs]
    assert restored[::2] == before[::2], "weights"
    assert json.loads(restored[1])["taxonomy"]["paths"] == [list(path) for path in renamed]
    train.run(small)  # with the same names: someone wants to train again
    assert "the models keep their weights" not in capsys.readouterr().err
    assert [path.read_bytes() for path in outputs] == restored, "what was kept is what training gives"


def _rename(name: str, new: dict[tuple[str, ...], tuple[str, ...]]) -> None:
    (path,) = paths.SPLITS.glob(f"{name}-*.parquet")
    table = pq.read_table(path)
    names = [list(new[tuple(old)]) for old in table["taxonomy"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("taxonomy"), table.schema.field("taxonomy"), [names])
    pq.write_table(table, path)


@pytest.mark.slow
@pytest.mark.usefixtures("splits")
def test_training_that_dvc_did_not_record_is_not_repeated(
    params: Callable[..., Params], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC was killed after the stage, while it read the outputs: then it runs the stage again."""
    small = params(train={"epochs": 1})
    Path("dvc.lock").touch()
    monkeypatch.setenv("DVC_STAGE", "train")
    train.run(small)
    entry._note_end()
    outputs = [folder / file for folder in (paths.CATEGORIZER, paths.BASELINE) for file in MODEL_FILES]
    before = [path.read_bytes() for path in outputs]
    for folder in (paths.CATEGORIZER, paths.BASELINE, paths.PLOTS / "train"):
        shutil.rmtree(folder)  # as DVC does before it runs a stage
    capsys.readouterr()
    train.run(small)
    assert "train: the last training is complete" in capsys.readouterr().err
    assert [path.read_bytes() for path in outputs] == before
    Path("dvc.lock").touch()  # DVC has recorded it
    train.run(small)
    assert "complete" not in capsys.readouterr().err, "someone wants to train again"


@pytest.mark.usefixtures("splits")
def test_training_that_was_killed_at_its_end_is_not_lost(
    params: Callable[..., Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "write_metrics", kill)
    with pytest.raises(KeyboardInterrupt):
        train.run(params(train={"epochs": 1}))
    assert len(list((paths.WORK / "train").rglob("*.safetensors"))) == 2, "the states of both models"
