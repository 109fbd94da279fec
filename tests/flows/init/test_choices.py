"""What is chosen for which data."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atlas_model.core.errors import InputError
from atlas_model.core.params import Params, load_params
from atlas_model.data.image_survey import ImageStatistics, survey
from atlas_model.data.images import ImageInfo
from flows.init.choices import Choice, choose_min_products, choose_split, choose_title, choose_training
from tests.support.paths import ROOT


def statistics(**changes: Any) -> ImageStatistics:
    fields: dict[str, Any] = {"count": 300, "median_side": 800, "small": 0, "aspects": (1.0, 1.0, 1.0), "grey": False}
    return ImageStatistics(**fields | changes)


def values(choices: list[Choice]) -> dict[str, object]:
    return {choice.key: choice.value for choice in choices}


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def test_image_sizes_respect_exif_orientation() -> None:
    infos = [ImageInfo(40, 20, "JPEG", "RGB", 6, 1), ImageInfo(30, 60, "JPEG", "RGB", 1, 1)]
    found = survey([*infos, ImageInfo(50, 100, "PNG", "L", 1, 1)], [])
    assert (found.count, found.median_side, found.small) == (3, 60, 0)
    assert found.aspects == pytest.approx((0.5, 0.5, 0.5))


def test_detects_grey_images_in_any_mode() -> None:
    info = [ImageInfo(20, 20, "JPEG", "RGB", 1, 1)]
    grey = np.random.default_rng(1).integers(0, 256, (40, 40), dtype=np.uint8)
    as_rgb = encoded(np.stack([grey] * 3, axis=2))
    coloured = encoded(np.full((40, 40, 3), (200, 20, 20), np.uint8))
    assert survey(info, [encoded(grey), as_rgb]).grey
    assert not survey(info, [encoded(grey), as_rgb, coloured]).grey


@pytest.mark.parametrize(
    ("aspects", "resize"),
    [((0.95, 1.0, 1.05), "squash"), ((0.74, 0.75, 0.76), "squash"), ((0.66, 0.75, 1.5), "pad")],
)
def test_resize_follows_aspect_ratios(aspects: tuple[float, float, float], resize: str) -> None:
    chosen = choose_split(statistics(aspects=aspects), pretrained=True, hints=[])
    assert values(chosen)["split.resize"] == resize


@pytest.mark.parametrize(
    ("side", "pretrained", "size"),
    [
        (800, True, 224),
        (100, True, 224),
        (28, True, 64),
        (50, True, 128),
        (800, False, 64),
        (28, False, 28),
        (30, False, 28),
    ],
)
def test_image_size_follows_images_and_encoder(side: int, pretrained: bool, size: int) -> None:
    chosen = choose_split(statistics(median_side=side), pretrained=pretrained, hints=[])
    assert values(chosen)["split.image_size"] == size


def test_split_column_is_used_only_if_complete() -> None:
    assert values(choose_split(statistics(), pretrained=True, hints=["test", "train", "val"]))["split.respect_hint"]
    (choice,) = [c for c in choose_split(statistics(), pretrained=True, hints=["train", "test"]) if "hint" in c.key]
    assert choice.value is False
    assert "to test and train only" in choice.why


def test_grey_images_stay_grey() -> None:
    assert values(choose_split(statistics(grey=True), pretrained=True, hints=[]))["split.image_mode"] == "L"


def test_requires_two_categories() -> None:
    tried: list[dict[tuple[str, ...], int]] = [{("A",): 300}, {("A",): 300, ("B",): 2}, {}]
    for counts in tried:
        with pytest.raises(InputError, match="at least two categories with 3 products"):
            choose_min_products(counts)


@pytest.mark.parametrize(
    ("counts", "least", "told"),
    [
        ([100, 50, 10], 10, "every category has at least as many"),
        ([100, 50, 9, 1], 10, "2 of 4 categories have fewer, 10 of 160 products"),
        ([6] * 20, 6, "every category has at least as many"),
        ([12, 12, *[5] * 20, 1], 5, "1 of 23 categories have fewer, 1 of 125 products"),
        ([40, 4], 4, "every category has at least as many"),
    ],
)
def test_min_products_per_category_falls_when_most_would_be_dropped(counts: list[int], least: int, told: str) -> None:
    choice = choose_min_products({(str(number),): count for number, count in enumerate(counts)})
    assert choice.value == least
    assert told in choice.why


@pytest.mark.parametrize(("titled", "title"), [(None, "none"), (0.5, "none"), (0.95, "ngrams"), (1.0, "ngrams")])
def test_titles_are_used_when_most_products_have_one(titled: float | None, title: str) -> None:
    assert choose_title(titled).value == title


@pytest.mark.parametrize("encoder", [None, "efficientnet_lite0"])
@pytest.mark.parametrize("images", [50, 300, 10_000, 100_000])
def test_training_choices_are_valid_for_any_previous_params(encoder: str | None, images: int) -> None:
    content = load_params(ROOT / "params.yaml").model_dump(mode="json")
    content["train"] |= {"normalize": "vocabulary", "views": 5, "color": 0.5, "head_epochs": 7, "label_smoothing": 0.1}
    chosen = {key.removeprefix("train."): value for key, value in values(choose_training(encoder, images)).items()}
    assert set(chosen) <= set(content["train"])
    train = Params.model_validate(content | {"train": content["train"] | chosen}).train
    assert train.encoder == (encoder or "small")
    assert (train.fine_tune_from == "none") == (encoder is not None and images < 2_000)
