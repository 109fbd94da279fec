"""The close-up classifier: the paper's shape, fair parts, honest counts, and a model that comes back from disk."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import f1_score, precision_recall_fscore_support

from atlas_model.errors import CheckpointError, InputError, MissingError
from atlas_model.images import Preprocessing, encode_png, perceptual_hash
from atlas_model.records import IMAGES, LABELLED, REFS, SCORES, ShardWriter, read_table, write_table
from atlas_model.zoom import ZoomModel, ZoomNet, scores
from atlas_model.zoom_scoring import measure, score_pictures
from atlas_model.zoom_training import (
    PARTS,
    Labelled,
    ZoomEpoch,
    choose_threshold,
    draw_parts,
    read_labelled,
    train_zoom,
)
from flows.stages import zoom as zoom_stage
from flows.stages import zoom_train as zoom_train_stage
from flows.stages.entry import read_metrics

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


def picture(label: str, number: int) -> bytes:
    """Normal: something bright on black. Zoomed: bright to all edges."""
    random = np.random.default_rng([number, label == "zoomed"])
    pixels = random.integers(120, 255, (24, 24, 3), dtype=np.uint8)
    if label == "normal":
        pixels[:6] = pixels[-6:] = pixels[:, :6] = pixels[:, -6:] = 0
    return encode_png(Image.fromarray(pixels))


def row(label: str, number: int, source: str | None = None, content: bytes | None = None) -> dict[str, Any]:
    return {
        "image_id": f"{label}-{number:03}",
        "bytes": picture(label, number) if content is None else content,
        "label": label,
        "source_id": source or f"source-{number}",
        "title": "",
    }


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=LABELLED)


ROWS = [row(label, number) for number in range(60) for label in ("normal", "zoomed") if label == "normal" or number % 2]


@pytest.fixture(scope="module")
def labelled() -> Labelled:
    return read_labelled(table_of(ROWS), SMALL)


@pytest.fixture(scope="module")
def trained(labelled: Labelled) -> tuple[ZoomModel, list[ZoomEpoch]]:
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
    p_zoomed = model.probabilities(images)
    assert p_zoomed[0] >= model.threshold > p_zoomed[1]


def test_the_best_epoch_is_kept_and_patience_ends_training(labelled: Labelled) -> None:
    model, history = train_zoom(labelled, SMALL, **{**RECIPE, "epochs": 30, "patience": 2, "lr": 0.02})
    best = min(history, key=lambda record: record.val_loss)
    assert len(history) == best.epoch + 2 < 30
    _, until_best = train_zoom(labelled, SMALL, **{**RECIPE, "epochs": best.epoch, "patience": 30, "lr": 0.02})
    again, _ = train_zoom(labelled, SMALL, **{**RECIPE, "epochs": best.epoch, "patience": 30, "lr": 0.02})
    assert until_best == history[: best.epoch]
    assert_same_weights(model, again)


def test_the_same_seed_gives_the_same_bytes(
    labelled: Labelled, trained: tuple[ZoomModel, list[ZoomEpoch]], tmp_path: Path
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
    part = draw_parts(sources, val_share=0.2, test_share=0.1, seed=3)
    found = {name: {sources[place] for place in np.flatnonzero(part == index)} for index, name in enumerate(PARTS)}
    assert sum(len(ids) for ids in found.values()) == 700
    assert [len(found[name]) / 700 for name in PARTS] == pytest.approx([0.7, 0.2, 0.1], abs=0.04)
    fewer = draw_parts(sources[500:900], val_share=0.2, test_share=0.1, seed=3)
    assert np.array_equal(fewer, part[500:900])
    assert not np.array_equal(draw_parts(sources, val_share=0.2, test_share=0.1, seed=4), part)


def test_what_cannot_be_learnt_from_is_counted() -> None:
    both = picture("normal", 1)
    rows = [
        row("normal", 0),
        row("zoomed", 0),
        {**row("zoomed", 0), "source_id": "elsewhere"},  # the same picture again
        {**row("normal", 1, content=both), "image_id": "both"},
        {**row("zoomed", 1, content=both), "image_id": "both"},
        row("normal", 2, content=b""),
        row("normal", 3, content=b"no picture"),
        row("normal", 4, content=picture("normal", 4)[:-40]),
    ]
    found = read_labelled(table_of(rows), SMALL)
    assert found.zoomed.tolist() == [0, 1]
    assert found.pixels.shape == (2, 3, 16, 16)
    assert found.dropped == {"duplicate": 1, "empty": 1, "label_conflict": 2, "not_an_image": 1, "truncated": 1}


def test_unknown_labels_and_poor_parts_are_refused(labelled: Labelled) -> None:
    with pytest.raises(InputError, match="normal and zoomed, got blurred"):
        read_labelled(table_of([{**row("normal", 0), "label": "blurred"}]), SMALL)
    with pytest.raises(InputError, match="both labels in the val part"):
        train_zoom(labelled, SMALL, **{**RECIPE, "val_share": 0.001})
    with pytest.raises(InputError, match="both labels in the train part, got 0 normal, 0 zoomed"):
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
    found = scores(predicted, actual)
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


PICTURES = [
    image_row("d", picture("zoomed", 1001)),
    image_row("b", b"no picture"),
    image_row("c", picture("normal", 1002)),
    image_row("a", picture("zoomed", 1003)),
]


def test_every_picture_gets_a_row_and_a_reason(trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    batches = pa.Table.from_pylist(PICTURES, schema=IMAGES).to_batches(max_chunksize=3)
    table = score_pictures(batches, trained[0], trained[0].threshold)
    assert table.schema == SCORES
    rows = table.to_pylist()
    assert [found["image_id"] for found in rows] == ["a", "b", "c", "d"]
    assert [found["reason"] for found in rows] == ["zoomed", "unreadable", "normal", "zoomed"]
    assert [found["keep"] for found in rows] == [False, False, True, False]
    assert rows[1]["p_zoomed"] is None and rows[1]["phash"] is None
    with Image.open(io.BytesIO(PICTURES[3]["bytes"])) as image:
        assert rows[0]["phash"] == perceptual_hash(image)
    found = measure(table, zoomed_ids={"a", "c", "b"})
    assert (found["precision_zoomed"], found["recall_zoomed"], found["n"]) == (0.5, 0.5, 3)
    strict = score_pictures(batches, trained[0], threshold=0.0)
    assert strict["reason"].to_pylist() == ["zoomed", "unreadable", "zoomed", "zoomed"]


def test_no_pictures_give_an_empty_table(trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    table = score_pictures([], trained[0], 0.5)
    assert (table.num_rows, table.schema) == (0, SCORES)
    assert measure(table, {"a"})["f1_zoomed"] is None


def test_the_two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {**RECIPE, "device": "cpu", "labelled": Path("labelled"), "image_size": 16}
    params: Any = SimpleNamespace(
        zoom_train=SimpleNamespace(**options),
        zoom=SimpleNamespace(threshold=None, batch_size=2, device="cpu"),
        crawl=SimpleNamespace(source="demo"),
        pipeline=SimpleNamespace(runner="threads", workers=2),
    )
    with pytest.raises(MissingError, match=r"labelled.*import-manifest"):
        zoom_train_stage.run(params)
    write_table(Path("labelled/part-00000.parquet"), table_of(ROWS), LABELLED)
    zoom_train_stage.run(params)
    assert json.loads(Path("metrics/zoom_train.json").read_text()) == {"f1_zoomed": 1.0}
    found = read_metrics("zoom_train")
    assert found["test"]["f1_zoomed"] == 1.0 and found["test"]["n"] > 5
    history = Path("plots/zoom_train/history.csv").read_text().splitlines()
    assert history[0] == "epoch,train_loss,val_loss,val_f1_zoomed"
    assert len(history) == found["epochs"] + 1

    with ShardWriter(Path("data/images/shards"), IMAGES, rows_per_shard=3) as writer:
        for picture_row in PICTURES:
            writer.append(picture_row)
    urls = {"a": next(iter(zoom_stage.zoomed_urls())), "c": "http://shop-a.demo.test/media/1.jpg"}
    refs = [
        {"product_id": "p", "image_url": url, "position": 0, "image_id": image_id, "status": "ok"}
        for image_id, url in urls.items()
    ]
    write_table(Path("data/images/refs.parquet"), pa.Table.from_pylist(refs, schema=REFS), REFS)
    zoom_stage.run(params)
    found = read_metrics("zoom")
    assert found["pictures"] == {"normal": 1, "zoomed": 2, "unreadable": 1}
    headline = json.loads(Path("metrics/zoom.json").read_text())
    assert headline == {"images": 1, "dropped": 3, "f1_zoomed": float(f"{found['shop']['f1_zoomed']:.4g}")}
    assert (found["shop"]["precision_zoomed"], found["shop"]["recall_zoomed"]) == (0.5, 1.0)
    written = read_table(Path("data/zoom/scores.parquet"), SCORES, made_by="zoom")
    assert written["image_id"].to_pylist() == ["a", "b", "c", "d"]

    params.crawl.source = "shops"
    params.zoom.threshold = 0.0
    zoom_stage.run(params)
    found = read_metrics("zoom")
    assert found["shop"] is None and found["threshold"] == 0.0 and found["pictures"]["zoomed"] == 3
    assert set(json.loads(Path("metrics/zoom.json").read_text())) == {"images", "dropped"}, "nobody knows the truth"


def assert_same_weights(one: ZoomModel, other: ZoomModel) -> None:
    weights, others = one.net.state_dict(), other.net.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
