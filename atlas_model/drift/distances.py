"""Distances between the profiles of two crawls, range [0, 1], to detect drift.

Small samples differ by chance. So each distance is compared with the one that two samples of these sizes from the same
population exceed in 1 % of the cases; smaller distances are not drift. Two crawls of a shop are not independent
samples, so they are closer than chance as long as the shop does not change.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from atlas_model.drift.profile import NO_PRICE, CrawlProfile, Distribution

CHANCE = 0.99  # share of the pairs of samples from one population that are closer than the chance distance
KOLMOGOROV = 1.6276  # quantile `CHANCE` of Kolmogorov's distribution
IMAGES_GONE = "not comparable: the images of one crawl are not known any more"
UNSEEN = "not comparable: no model has seen the images of one crawl"
DRAWS = 500  # pairs of samples to estimate the chance distance, if there is no formula


@dataclass(frozen=True)
class Figure:
    """One comparison."""

    name: str
    distance: float | None  # range [0, 1]; None: not comparable, see ``note``
    chance: float | None  # exceeded in 1 % of the cases without drift
    threshold: float
    n: tuple[int, int]  # sample sizes of the earlier and the later crawl
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
    """Compute all figures that the two profiles allow; the keywords are thresholds, and ``seed`` is for the draws."""
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
    """Total variation distance: half the sum of the absolute differences between the shares of ``k`` kinds."""
    shares = [counts / counts.sum(axis=-1, keepdims=True) for counts in (old, new)]
    return np.asarray(np.abs(shares[0] - shares[1]).sum(axis=-1) / 2)


def kolmogorov_smirnov(old: Float[np.ndarray, "n"], new: Float[np.ndarray, "m"]) -> float:
    """The largest difference between the shares of both that are at most x, over all x."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(old, new).statistic)


def kolmogorov_smirnov_by_chance(n: int, m: int) -> float:
    """The chance distance: samples of these sizes are below it with probability `CHANCE` (more if values repeat).

    Stephens (1970), "Use of the Kolmogorov-Smirnov, Cramer-von Mises and Related Statistics Without Extensive Tables".
    """
    root = np.sqrt(n * m / (n + m))
    return min(1.0, float(KOLMOGOROV / (root + 0.12 + 0.11 / root)))


def energy_distance(old: Float[np.ndarray, "n d"], new: Float[np.ndarray, "m d"], seed: int) -> tuple[float, float]:
    """Energy distance of two samples of points, and its quantile `CHANCE` for samples of one distribution.

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
