"""Issues of images, on images of the sample that are made worse."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from atlas_model.quality.duplicates import ShownImage, find_duplicates
from atlas_model.quality.issues import IMAGE_ISSUES, count_issues, join_issues, list_issue, score_images
from atlas_model.quality.measures import ImageMeasures, measure_image
from tests.support.paths import ROOT

SHIRT, BOOT = ("Clothing", "Shirt"), ("Footwear", "Boot")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Sixty images of the sample, at their size of 28 px."""
    rows = pq.read_table(ROOT / "data/sample.parquet", columns=["pixels"]).slice(0, 60)["pixels"].to_pylist()
    return [Image.frombytes("L", (28, 28), pixels) for pixels in rows]


def scores(images: list[Image.Image], input_side: int = 28) -> dict[str, np.ndarray]:
    measured = [measure_image(image) for image in images]
    names = ImageMeasures.__annotations__
    rows: list[dict[str, Any]] = [dict(row) for row in measured]
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}
    width, height = np.array([image.size for image in images]).T
    return score_images(columns, width, height, input_side=input_side)


def darkened(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.2)


def whitened(image: Image.Image) -> Image.Image:
    return Image.blend(image, Image.new(image.mode, image.size, "white"), 0.97)


def blurred(image: Image.Image, radius: float = 1.5) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def blank(image: Image.Image) -> Image.Image:
    return Image.new(image.mode, image.size, 128)


def narrow(image: Image.Image) -> Image.Image:
    return image.resize((28, 7))


def tiny(image: Image.Image) -> Image.Image:
    return image.resize((8, 8))


@pytest.mark.parametrize(
    ("issue", "worse", "threshold"),
    [
        ("dark", darkened, 0.68),
        ("light", whitened, 0.95),
        ("blurred", blurred, 0.7),
        ("blank", blank, 0.85),
        ("odd_aspect", narrow, 0.65),
        ("tiny", tiny, 0.5),
    ],
)
def test_tells_worse_images_from_the_sample(
    images: list[Image.Image], issue: str, worse: Callable[[Image.Image], Image.Image], threshold: float
) -> None:
    """With the thresholds of params.yaml."""
    before, after = scores(images)[issue], scores([worse(image) for image in images])[issue]
    assert (before >= threshold).mean() <= 0.05
    assert (after >= threshold).mean() >= 0.7
    assert ((before >= 0) & (before <= 1)).all()
    assert ((after >= 0) & (after <= 1)).all()


def test_blur_does_not_depend_on_a_plain_background_nor_on_the_resolution(images: list[Image.Image]) -> None:
    framed = []
    for image in images[:20]:
        canvas = Image.new("RGB", (200, 200), "white")
        canvas.paste(image.convert("RGB").resize((100, 100), Image.Resampling.NEAREST), (50, 50))
        framed.append(canvas)
    sharp, soft = scores(framed, 224)["blurred"], scores(list(map(partial(blurred, radius=5), framed)), 224)["blurred"]
    assert sharp.max() < soft.min()
    enlarged = [image.resize((1600, 1600), Image.Resampling.NEAREST) for image in framed]
    assert np.abs(scores(enlarged, 224)["blurred"] - sharp).max() < 0.1


def test_blur_of_a_very_small_or_plain_image_is_unknown(images: list[Image.Image]) -> None:
    found = scores([images[0].resize((19, 64)), Image.new("L", (64, 64)), images[0]])["blurred"]
    assert np.isnan(found).tolist() == [True, True, False]
    assert list_issue("blurred", ["a", "b", "c"], found, 0.0)["image_id"].to_pylist() == ["c"]


def test_lists_and_counts_the_most_suspicious_first() -> None:
    found = np.array([0.2, 0.9, 0.5, 0.9])
    dark = list_issue("dark", ["a", "d", "c", "b"], found, 0.5)
    table = join_issues([dark, list_issue("blank", ["a"], np.array([1.0]), None)])
    assert table["image_id"].to_pylist() == ["b", "d", "c"]
    assert count_issues(table, {"d"}) == {"dark": {"kept": 1, "discarded": 2}}
    assert set(IMAGE_ISSUES) == set(scores([Image.new("L", (28, 28))]))


def test_duplicates_are_of_other_products_and_worse_with_another_label() -> None:
    images = [
        ShownImage("a", 0b0000, {"p1": SHIRT}),
        ShownImage("b", 0b0000, {"p1": SHIRT}),  # the same product as a
        ShownImage("c", 0b0001, {"p2": SHIRT}),
        ShownImage("d", 0b1111 << 20, {"p3": SHIRT}),
        ShownImage("e", 0b1111 << 20, {"p4": BOOT}),
        ShownImage("f", 0b1111 << 40, {"p5": BOOT, "p6": BOOT}),  # one image of two products
        ShownImage("g", 0b1111 << 50, {"p7": BOOT, "p8": SHIRT}),
        ShownImage("h", 2**64 - 1, {"p9": BOOT}),
    ]
    image_ids, found, others = find_duplicates(images, distance=2)
    same, one_bit = 0.5, 0.5 * 63 / 64
    assert dict(zip(image_ids, zip(found.tolist(), others, strict=True), strict=True)) == {
        "a": (one_bit, "c"),
        "b": (one_bit, "c"),
        "c": (one_bit, "a"),
        "d": (1.0, "e"),
        "e": (1.0, "d"),
        "f": (same, "f"),
        "g": (1.0, "g"),
    }
    assert find_duplicates([], distance=2)[0] == []


def test_duplicates_equal_a_comparison_of_all_pairs() -> None:
    generator = np.random.default_rng(3)
    images = [
        ShownImage(f"{row:03d}", int(hash_), {f"p{product}": BOOT if product % 3 else SHIRT})
        for row, (hash_, product) in enumerate(
            zip(generator.integers(0, 64, 150) * 4097, generator.integers(0, 40, 150), strict=True)
        )
    ]
    expected = {}
    for one in images:
        for other in images:
            bits = (one.phash ^ other.phash).bit_count()
            if bits <= 2 and one.products.keys() != other.products.keys():
                factor = 1.0 if {*one.products.values()} != {*other.products.values()} else 0.5
                expected[one.image_id] = max(expected.get(one.image_id, 0.0), factor * (1 - bits / 64))
    image_ids, found, _ = find_duplicates(images, distance=2)
    assert dict(zip(image_ids, found.tolist(), strict=True)) == expected
    placeholder = [ShownImage(f"{row}", 5, {f"p{row}": SHIRT}) for row in range(3_000)]
    assert len(find_duplicates(placeholder, distance=2)[0]) == 3_000  # takes minutes if all pairs are compared
