"""Training the close-up classifier: splits, counts of discarded images, reproducibility."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import f1_score

from atlas_model.core.errors import InputError
from atlas_model.zoom.model import ZoomModel
from atlas_model.zoom.training import (
    SPLITS,
    LabelledImages,
    ZoomEpoch,
    choose_threshold,
    draw_splits,
    fingerprint,
    read_labelled,
    train_zoom,
)
from tests.support.zoom_images import RECIPE, SMALL, assert_same_weights, image, row, table_of


def test_training_separates_zoomed_from_normal_images(trained: tuple[ZoomModel, list[ZoomEpoch]]) -> None:
    model, history = trained
    assert model.metrics["test"]["f1_zoomed"] == model.metrics["test"]["f1_normal"] == 1.0
    assert model.metrics["test"]["n"] > 5
    assert 0 < model.threshold < 1
    assert [record.epoch for record in history] == list(range(1, len(history) + 1))
    assert history[-1].train_loss < history[0].train_loss
    images = [Image.fromarray(np.full((40, 30), 200, dtype=np.uint8)), Image.new("L", (40, 30))]
    p_zoomed = model.probabilities(np.stack([model.pixels(image) for image in images]))
    assert p_zoomed[0] >= model.threshold > p_zoomed[1]


def test_keeps_best_epoch_and_stops_after_patience(labelled: LabelledImages) -> None:
    model, history = train_zoom(labelled, SMALL, **{**RECIPE, "epochs": 30, "patience": 2, "lr": 0.02})
    best = min(history, key=lambda record: record.val_loss)
    assert len(history) == best.epoch + 2 < 30
    _, until_best = train_zoom(labelled, SMALL, **{**RECIPE, "epochs": best.epoch, "patience": 30, "lr": 0.02})
    again, _ = train_zoom(labelled, SMALL, **{**RECIPE, "epochs": best.epoch, "patience": 30, "lr": 0.02})
    assert until_best == history[: best.epoch]
    assert_same_weights(model, again)


def test_same_seed_gives_identical_files(
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


def test_splits_share_no_source_and_are_stable() -> None:
    sources = [f"source-{number % 700}" for number in range(2000)]
    part = draw_splits(sources, val_share=0.2, test_share=0.1, seed=3)
    found = {name: {sources[place] for place in np.flatnonzero(part == index)} for index, name in enumerate(SPLITS)}
    assert sum(len(ids) for ids in found.values()) == 700
    assert [len(found[name]) / 700 for name in SPLITS] == pytest.approx([0.7, 0.2, 0.1], abs=0.04)
    fewer = draw_splits(sources[500:900], val_share=0.2, test_share=0.1, seed=3)
    assert np.array_equal(fewer, part[500:900])
    assert not np.array_equal(draw_splits(sources, val_share=0.2, test_share=0.1, seed=4), part)


def test_counts_discarded_images_by_reason() -> None:
    both = image("normal", 1)
    rows = [
        row("normal", 0),
        row("zoomed", 0),
        {**row("zoomed", 0), "source_id": "elsewhere"},  # a duplicate image
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


def test_refuses_unknown_labels_and_too_small_splits(labelled: LabelledImages) -> None:
    with pytest.raises(InputError, match="normal and zoomed, got blurred"):
        read_labelled(table_of([{**row("normal", 0), "label": "blurred"}]), SMALL)
    with pytest.raises(InputError, match="both labels in the val split"):
        train_zoom(labelled, SMALL, **{**RECIPE, "val_share": 0.001})
    with pytest.raises(InputError, match="both labels in the train split, got 0 normal, 0 zoomed"):
        train_zoom(read_labelled(table_of([]), SMALL), SMALL, **RECIPE)


pairs = st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.integers(0, 1)), min_size=1, max_size=12)


@given(pairs.filter(lambda drawn: any(zoomed for _, zoomed in drawn)))
def test_threshold_has_the_best_f1(drawn: list[tuple[float, int]]) -> None:
    p_zoomed, zoomed = np.array([p for p, _ in drawn], dtype=np.float32), np.array([z for _, z in drawn])
    threshold = choose_threshold(p_zoomed, zoomed)
    best = max(f1_score(zoomed, p_zoomed >= bound, zero_division=0) for bound in (0.0, 0.2, 0.4, 0.6, 0.8))
    assert f1_score(zoomed, p_zoomed >= threshold) == pytest.approx(best)


def test_fingerprint_ignores_the_order_of_images() -> None:
    rows = [row("normal", 0), row("zoomed", 1)]
    assert fingerprint(table_of(rows)) == fingerprint(table_of(rows[::-1]))
    assert fingerprint(table_of(rows)) != fingerprint(table_of([{**rows[0], "label": "zoomed"}, rows[1]]))
    assert fingerprint(table_of(rows)) != fingerprint(table_of(rows[:1]))
