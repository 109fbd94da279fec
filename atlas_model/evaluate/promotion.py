"""Whether a new model may take the champion's place: whether it is surely not worse by more than a margin.

Both answer the same images. A figure passes where the lower end of the 95 % interval of its difference (paired
bootstrap over products, `intervals`) is not below minus the margin: a test of non-inferiority, so few images are no
excuse for a worse model, and an equally good one need not prove that it is better. The figures are the headline, micro
F; the micro F of products, each answered from all its images; and the F of every category with enough images to
tell. F rather than recall: a model that calls too much "Shirt" gains recall there, and its precision, which F has in
it, is what tells.

Both levels decide. A catalogue shows the answers of products, `atlas predict` those of images, and neither stands for
the other: where good images outvote a bad one, a model may answer images worse and products as well as before.
Categories are judged by images, of which there are more. Where each product has one image, the levels are the same.

All that is about images alone, which any model answers. Where one of the two reads titles, both must also hold with
titles, as a catalogue that has them would use each: a model that reads none answers from the image there too.

Where the two know different categories, only images count whose right answer both could have given.

Knows nothing of models or files: answers in, a verdict with its reason out.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_model.metrics.bootstrap import PERCENTILES, Interval, draws

HEADLINE = "micro F"
OF_PRODUCTS = "micro F of products"
WITH_TITLES = "micro F with titles"


@dataclass(frozen=True)
class Comparison:
    """One figure of both models on the same images."""

    figure: str  # `HEADLINE`, `OF_PRODUCTS`, `WITH_TITLES`, or "F of <category>"
    count: int  # of images that show it; of `OF_PRODUCTS`, of products
    champion: float
    challenger: float
    interval: Interval  # 95 % of what the challenger has more
    margin: float

    @property
    def passed(self) -> bool:
        """Whether the challenger is surely not worse by more than the margin."""
        return self.interval[0] >= -self.margin


@dataclass(frozen=True)
class ProductPredictions:
    """What two models answered for the same products, each from all its images."""

    actual: Sequence[str]  # the right category of each product
    champion: Sequence[str]
    challenger: Sequence[str]


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the challenger may take the place, and why."""

    comparisons: tuple[Comparison, ...]  # headline, products, titles, categories; none: there was nothing to compare
    images: int  # that were compared
    skipped: int  # whose right answer one of the two does not know

    @property
    def accepted(self) -> bool:
        """Whether all figures passed."""
        return bool(self.comparisons) and all(comparison.passed for comparison in self.comparisons)

    @property
    def reason(self) -> str:
        """The verdict in one line."""
        if not self.comparisons:
            return f"nothing to compare on: of {self.skipped} validation images none has a category that both know"
        shown = [c for c in self.comparisons if c.passed == self.accepted]
        of_all = [c for c in self.comparisons if c.figure in (HEADLINE, OF_PRODUCTS, WITH_TITLES)]
        figures = "; ".join(_describe(c) for c in (of_all if self.accepted else shown))
        large = len(self.comparisons) - len(of_all)
        categories = f"; nor is the F of any of {large} large categories" * (self.accepted and large > 0)
        skipped = f"; {self.skipped} images left out, of categories that one does not know" * bool(self.skipped)
        verdict = "not worse by more than the margin" if self.accepted else "may be worse by more than the margin"
        return f"{verdict} on {self.images} validation images: {figures}{categories}{skipped}"


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
    """Compare what two models answered.

    Args:
        actual: the right category of each image.
        champion: the answers of the model in place.
        challenger: those of the model that might take it.
        products: of each image; the images of one are drawn together.
        of_products: the answers of products; they are not compared where there are none.
        with_titles: the champion's answers and the challenger's where the images' titles are given as well; a model
            that reads none answers from the image. None: neither reads titles.
        known: the categories that both models can answer.
        margin: micro F that the challenger may be worse by, of images and of products.
        category_margin: likewise of the F of a large category.
        large_category: compared images that make a category large.
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
    """One comparison, or none where no product has a category that both know."""
    columns = zip(given.actual, given.champion, given.challenger, strict=True)
    hits = np.array([(old == right, new == right) for right, old, new in columns if right in known], dtype=np.bool_)
    if not len(hits):
        return []
    return [_compare_hits(OF_PRODUCTS, hits, [str(n) for n in range(len(hits))], margin, resamples, seed)]


def _compare_hits(  # noqa: PLR0917 - of two callers
    figure: str, hits: Bool[np.ndarray, "n 2"], groups: Sequence[str], margin: float, resamples: int, seed: int
) -> Comparison:
    """Whether the champion and the challenger were right; those of a group are drawn together."""
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
    """Micro F, then the F of each large category, if each answer counted ``weight`` times."""
    size = int(max(actual.max(), answered.max())) + 1
    hits = np.bincount(actual, weights=weight * (actual == answered), minlength=size)
    both = sum(np.bincount(each, weights=weight, minlength=size) for each in (actual, answered))
    return np.concatenate([[hits.sum() / weight.sum()], (2 * hits / np.maximum(both, 1))[large]])


def _describe(comparison: Comparison) -> str:
    c = comparison
    return (
        f"{c.figure} {c.challenger:.4f}, {c.challenger - c.champion:+.4f} "
        f"(95 % interval {c.interval[0]:+.4f} to {c.interval[1]:+.4f}, margin {c.margin:g})"
    )
