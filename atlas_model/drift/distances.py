"""How far two crawls are apart: distances from 0 (alike) to 1 between their profiles.

Small samples differ by chance. Beside each distance stands the one that two samples of these sizes, drawn from the
same population, exceed once in a hundred times: what is below says nothing, and is not called drift. Two crawls of
one shop are no independent samples, so that they are closer than chance as long as the shop is the same.

Knows nothing of where profiles come from or what becomes of the figures.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from atlas_model.drift.profile import NO_PRICE, CrawlProfile, Distribution

CHANCE = 0.99  # of all pairs of samples from one population are closer than that
KOLMOGOROV = 1.6276  # quantile `CHANCE` of Kolmogorov's distribution
IMAGES_GONE = "not comparable: the images of one crawl are not known any more"
UNSEEN = "not comparable: no model has seen the images of one crawl"
DRAWS = 500  # pairs of samples behind what is to be expected by chance, where no formula says it


@dataclass(frozen=True)
class Figure:
    """One comparison."""

    name: str
    distance: float | None  # range [0, 1]; None: nothing to compare, as ``note`` says
    chance: float | None  # the distance that chance alone exceeds once in a hundred times
    threshold: float
    n: tuple[int, int]  # what was counted in the earlier crawl, and in the later one
    note: str = ""

    @property
    def drifted(self) -> bool:
        """Whether the distance is beyond its threshold, and beyond chance."""
        return (
            self.distance is not None and self.chance is not None and self.distance > max(self.threshold, self.chance)
        )


def compare(
    old: CrawlProfile,
    new: CrawlProfile,
    *,
    categories: float,
    prices: float,
    title_lengths: float,
    image_sizes: float,
    embeddings: float,
    seed: int,
) -> list[Figure]:
    """All figures that the two profiles allow; each keyword is a threshold, ``seed`` that of the draws."""
    figures = [_shares("categories", old.categories, new.categories, categories, seed)]
    if {*old.currencies, *new.currencies} != {NO_PRICE}:
        figures.append(_shares("currencies", old.currencies, new.currencies, prices, seed))
    figures += [
        _numbers(f"prices in {currency}", old.prices[currency], new.prices[currency], prices)
        for currency in sorted(old.prices.keys() & new.prices.keys())
    ]
    figures.append(_numbers("title lengths", old.title_lengths, new.title_lengths, title_lengths))
    figures.append(_image_sizes(old, new, image_sizes))
    figures.append(_embeddings(old, new, embeddings, seed))
    return figures


def total_variation(old: Int[np.ndarray, "... k"], new: Int[np.ndarray, "... k"]) -> Float[np.ndarray, "..."]:
    """Half the summed differences between the shares of ``k`` kinds: the share that would have to change its kind."""
    shares = [counts / counts.sum(axis=-1, keepdims=True) for counts in (old, new)]
    return np.asarray(np.abs(shares[0] - shares[1]).sum(axis=-1) / 2)


def kolmogorov_smirnov(old: Float[np.ndarray, "n"], new: Float[np.ndarray, "m"]) -> float:
    """The largest difference between the shares of both (sorted) that are at most x, over all x."""
    at = np.concatenate([old, new])
    shares = [np.searchsorted(values, at, side="right") / len(values) for values in (old, new)]
    return float(np.abs(shares[0] - shares[1]).max())


def kolmogorov_smirnov_by_chance(n: int, m: int) -> float:
    """What two samples of these sizes stay below with probability `CHANCE`, or a little more often where values repeat.

    Stephens (1970), "Use of the Kolmogorov-Smirnov, Cramer-von Mises and Related Statistics Without Extensive Tables".
    """
    root = np.sqrt(n * m / (n + m))
    return min(1.0, float(KOLMOGOROV / (root + 0.12 + 0.11 / root)))


def energy_distance(old: Float[np.ndarray, "n d"], new: Float[np.ndarray, "m d"], seed: int) -> tuple[float, float]:
    """How different two clouds of points are, and what chance makes of them if they are one.

    The root of Székely and Rizzo's coefficient of inhomogeneity (2013, "Energy statistics: A class of statistics based
    on distances"): with D(A, B) the mean distance between a point of A and one of B, the coefficient is
    (2 D(X, Y) - D(X, X) - D(Y, Y)) / 2 D(X, Y). It is 0 for the same distribution and never more than 1, whatever the
    scale of the encoder's numbers, needs no covariance, and so is sound for few images, unlike Fréchet's distance.

    Measured on the demo shop (1,000 images each; the model of Fashion-MNIST / one that was trained on it): two random
    halves .03 to .04 (chance .04 / .05); of ten images one inverted .04 / .05, two .06 / .09, three .09 / .13, all
    .32 / .46; all turned by 90 degrees .34 / .28; noise .61.

    Returns:
        The distance, and the quantile `CHANCE` of those between two parts, of the same sizes, of all points mixed.
    """
    from scipy.spatial.distance import cdist

    points = np.concatenate([old, new]).astype(np.float64)
    between = cdist(points, points)  # (n + m, n + m)
    generator = np.random.default_rng(seed)
    belongs = np.zeros((1 + DRAWS, len(points)))  # to the first part: 1
    belongs[0, : len(old)] = 1
    for row in belongs[1:]:
        row[generator.permutation(len(points))[: len(old)]] = 1
    rest = 1 - belongs
    to_first, to_rest = belongs @ between, rest @ between  # (1 + draws, n + m)
    n, m = len(old), len(new)
    across = (to_first * rest).sum(axis=1) / (n * m)  # (1 + draws,)
    within = (to_first * belongs).sum(axis=1) / n**2 + (to_rest * rest).sum(axis=1) / m**2
    coefficient = np.where(across > 0, 1 - within / np.maximum(2 * across, np.finfo(float).tiny), 0)
    distances = np.sqrt(coefficient.clip(0, 1))
    return float(distances[0]), float(np.quantile(distances[1:], CHANCE))


def _shares(name: str, old: Mapping[str, int], new: Mapping[str, int], threshold: float, seed: int) -> Figure:
    kinds = sorted({*old, *new})
    counts = np.array([[profile.get(kind, 0) for kind in kinds] for profile in (old, new)], dtype=np.int64)
    n = (sum(old.values()), sum(new.values()))
    if not all(n):
        return Figure(name, None, None, threshold, n, "no products")
    generator = np.random.default_rng(seed)
    pooled = counts.sum(axis=0) / counts.sum()
    drawn = [generator.multinomial(size, pooled, size=DRAWS) for size in n]
    chance = float(np.quantile(total_variation(*drawn), CHANCE))
    return Figure(name, float(total_variation(*counts)), chance, threshold, n)


def _numbers(name: str, old: Distribution, new: Distribution, threshold: float) -> Figure:
    n = (old.n, new.n)
    if not all(n):
        return Figure(name, None, None, threshold, n, "nothing to compare")
    distance = kolmogorov_smirnov(old.values, new.values)
    return Figure(name, distance, kolmogorov_smirnov_by_chance(*n), threshold, n)


def _image_sizes(old: CrawlProfile, new: CrawlProfile, threshold: float) -> Figure:
    if old.image_sizes is None or new.image_sizes is None:
        return Figure("image sizes", None, None, threshold, (0, 0), IMAGES_GONE)
    return _numbers("image sizes", old.image_sizes, new.image_sizes, threshold)


def _embeddings(old: CrawlProfile, new: CrawlProfile, threshold: float, seed: int) -> Figure:
    n = (len(old.embeddings), len(new.embeddings))
    if old.encoder is None or new.encoder is None:
        are_gone = old.image_sizes is None or new.image_sizes is None
        return Figure("embeddings", None, None, threshold, n, IMAGES_GONE if are_gone else UNSEEN)
    if old.encoder != new.encoder:
        return Figure("embeddings", None, None, threshold, n, "not comparable: different models saw the two crawls")
    if not all(n):
        return Figure("embeddings", None, None, threshold, n, "no images")
    return Figure("embeddings", *energy_distance(old.embeddings, new.embeddings, seed), threshold, n)
