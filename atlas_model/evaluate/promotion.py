"""Decides whether a new model, the challenger, may replace the champion: a non-inferiority test (95 % interval).

Both models predict the same images. A figure passes if the lower end of the 95 % interval of its difference (paired
bootstrap over products, `metrics.bootstrap`) is not below minus the margin. So a small sample does not help a worse
model to pass, and an equal model does not have to be better. All figures must pass: micro F1 of images; micro F1 of
products, each predicted from all its images; and the F1 of each category with enough images. F1 and not recall: a model
that predicts "Shirt" too often increases its recall for shirts, but not its F1.

Both images and products are compared, because a catalogue shows predictions for products and `atlas predict` those for
images. Neither implies the other: if good images outweigh a bad one, a model may be worse on images and equal on
products. Categories are compared on images, because there are more. If each product has one image, both are the same.

These comparisons use images without titles, which all models can predict. If at least one of the two models can use
titles, micro F1 with titles is compared as well; a model that cannot use them predicts from the image alone.

If the two models have different categories, only images whose right category is in both are compared.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_model.metrics.bootstrap import PERCENTILES, Interval, draws
from atlas_model.metrics.scores import weighted_f1

HEADLINE = "micro F"
OF_PRODUCTS = "micro F of products"
WITH_TITLES = "micro F with titles"


@dataclass(frozen=True)
class Comparison:
    """One figure of both models on the same images."""

    figure: str  # `HEADLINE`, `OF_PRODUCTS`, `WITH_TITLES`, or "F of <category>"
    count: int  # number of images; for `OF_PRODUCTS`, of products
    champion: float
    challenger: float
    interval: Interval  # 95 % interval of challenger - champion
    margin: float

    @property
    def passed(self) -> bool:
        """Whether the challenger is non-inferior within the margin."""
        return self.interval[0] >= -self.margin


@dataclass(frozen=True)
class ProductPredictions:
    """Predictions of two models for the same products, each from all its images."""

    actual: Sequence[str]  # the right category of each product
    champion: Sequence[str]
    challenger: Sequence[str]


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the challenger may replace the champion, and why."""

    comparisons: tuple[Comparison, ...]  # headline, products, titles, categories; empty: no image to compare on
    images: int  # number of compared images
    skipped: int  # number of images whose category is not in both models

    @property
    def accepted(self) -> bool:
        """Whether all figures passed."""
        return bool(self.comparisons) and all(comparison.passed for comparison in self.comparisons)

    @property
    def reason(self) -> str:
        """The decision in one line."""
        if not self.comparisons:
            return f"nothing to compare on: of {self.skipped} validation images none has a category of both models"
        shown = [c for c in self.comparisons if c.passed == self.accepted]
        of_all = [c for c in self.comparisons if c.figure in (HEADLINE, OF_PRODUCTS, WITH_TITLES)]
        figures = "; ".join(_describe(c) for c in (of_all if self.accepted else shown))
        large = len(self.comparisons) - len(of_all)
        categories = f"; also the F of {large} large categories" * (self.accepted and large > 0)
        skipped = f"; {self.skipped} images skipped, of categories that are not in both models" * bool(self.skipped)
        decision = "non-inferior within the margin" if self.accepted else "may be inferior by more than the margin"
        return f"{decision} on {self.images} validation images: {figures}{categories}{skipped}"


def compare_models(
    actual: Sequence[str],
    champion: Sequence[str],
    challenger: Sequence[str],
    products: Sequence[str],
    *,
    of_products: ProductPredictions | None = None,
    with_titles: tuple[Sequence[str], Sequence[str]] | None = None,
    known: Container[str],
    margin: float,
    category_margin: float,
    large_category: int,
    resamples: int,
    seed: int,
) -> PromotionDecision:
    """Compare the predictions of two models.

    Args:
        actual: the right category of each image.
        champion: predictions of the current model.
        challenger: predictions of the new model.
        products: product of each image; images of a product are drawn together.
        of_products: predictions for products; None: not compared.
        with_titles: predictions of champion and challenger with titles; those without for a model that cannot use
            titles. None: neither can.
        known: the categories of both models.
        margin: non-inferiority margin of micro F1, for images and for products.
        category_margin: likewise of the F1 of a large category.
        large_category: minimum number of compared images of a large category.
        resamples: of the bootstrap.
        seed: likewise.
    """
    kept = [index for index, category in enumerate(actual) if category in known]
    skipped = len(actual) - len(kept)
    if not kept:
        return PromotionDecision((), 0, skipped)
    names = sorted({answers[index] for answers in (actual, champion, challenger) for index in kept})
    number = {name: place for place, name in enumerate(names)}
    right, old, new = (
        np.array([number[answers[index]] for index in kept]) for answers in (actual, champion, challenger)
    )
    counts = np.bincount(right, minlength=len(names))
    large = np.flatnonzero(counts >= large_category)
    differences = np.array(
        [
            _figures(weight, right, new, large) - _figures(weight, right, old, large)
            for weight in draws([products[index] for index in kept], resamples, seed)
        ]
    )
    low, high = np.percentile(differences, PERCENTILES, axis=0).tolist()
    once = np.ones(len(kept), dtype=np.int64)
    columns = zip(
        [HEADLINE, *(f"F of {names[place]}" for place in large)],
        [len(kept), *counts[large].tolist()],
        _figures(once, right, old, large).tolist(),
        _figures(once, right, new, large).tolist(),
        zip(low, high, strict=True),
        [margin] + [category_margin] * len(large),
        strict=True,
    )
    headline, *categories = (Comparison(*column) for column in columns)
    more = _compare_products(of_products, known, margin, resamples, seed) if of_products else []
    if with_titles is not None:
        hits = np.array([[answers[index] == actual[index] for answers in with_titles] for index in kept])
        groups = [products[index] for index in kept]
        more.append(_compare_hits(WITH_TITLES, hits, groups, margin, resamples, seed))
    return PromotionDecision((headline, *more, *categories), len(kept), skipped)


def _compare_products(
    given: ProductPredictions, known: Container[str], margin: float, resamples: int, seed: int
) -> list[Comparison]:
    """One comparison; none if no product has a category of both models."""
    columns = zip(given.actual, given.champion, given.challenger, strict=True)
    hits = np.array([(old == right, new == right) for right, old, new in columns if right in known], dtype=np.bool_)
    if not len(hits):
        return []
    return [_compare_hits(OF_PRODUCTS, hits, [str(n) for n in range(len(hits))], margin, resamples, seed)]


def _compare_hits(  # noqa: PLR0917 - of two callers
    figure: str, hits: Bool[np.ndarray, "n 2"], groups: Sequence[str], margin: float, resamples: int, seed: int
) -> Comparison:
    """Compare whether champion and challenger were right; the images of a group are drawn together."""
    gain = np.subtract(hits[:, 1], hits[:, 0], dtype=np.float64)
    drawn = [weight @ gain / weight.sum() for weight in draws(groups, resamples, seed)]
    low, high = np.percentile(drawn, PERCENTILES).tolist()
    champion, challenger = hits.mean(axis=0).tolist()
    return Comparison(figure, len(hits), champion, challenger, (low, high), margin)


def _figures(
    weight: Int[np.ndarray, "n"],
    actual: Int[np.ndarray, "n"],
    answered: Int[np.ndarray, "n"],
    large: Int[np.ndarray, "k"],
) -> Float[np.ndarray, "k+1"]:
    """Micro F1, then the F1 of each large category, with a ``weight`` for each prediction."""
    micro = weight @ (actual == answered) / weight.sum()
    return np.concatenate([[micro], weighted_f1(actual, answered, weight)[0][large]])


def _describe(comparison: Comparison) -> str:
    c = comparison
    return (
        f"{c.figure} {c.challenger:.4f}, {c.challenger - c.champion:+.4f} "
        f"(95 % interval {c.interval[0]:+.4f} to {c.interval[1]:+.4f}, margin {c.margin:g})"
    )
