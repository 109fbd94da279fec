"""A classifier of embeddings that is fitted in one pass: one Gaussian per category, with one covariance for all.

Linear discriminant analysis. It costs as much as one step of training a linear classifier, and wrong labels harm it
less than a classifier that is trained until it fits them: Lee et al. (2019), "Robust Inference via Generative
Classifiers for Handling Noisy Labels", section 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

SHRINKAGE = 0.01  # share of the covariance that is replaced by a multiple of the identity, so that it is invertible
MIN_VARIANCE = 1e-12  # for embeddings that are all equal
CELLS_AT_ONCE = 4_000_000  # images x categories in memory, 32 MB


@dataclass(frozen=True)
class Moments:
    """Sums over embeddings, from which Gaussians are fitted. Those of some images can be subtracted again."""

    count: Float[Tensor, "k"]  # images of each category
    total: Float[Tensor, "k d"]  # sum of each category
    second: Float[Tensor, "d d"]  # sum of the outer products

    @classmethod
    def of(cls, points: Float[Tensor, "n d"], category: Int[Tensor, "n"], categories: int) -> Self:
        """Sum up ``points`` (double precision) by their category."""
        return cls(
            torch.bincount(category, minlength=categories).to(points.dtype),
            points.new_zeros(categories, points.shape[1]).index_add_(0, category, points),
            points.T @ points,
        )

    def without(self, others: "Moments") -> "Moments":
        """The sums without those of some of the images."""
        return Moments(self.count - others.count, self.total - others.total, self.second - others.second)


class CategoryGaussians:
    """The fitted Gaussians.

    Args:
        moments: of the embeddings; a category without any has probability zero.
    """

    def __init__(self, moments: Moments) -> None:
        count = moments.count.clamp_min(1)
        means = moments.total / count[:, None]  # (k, d)
        covariance = (moments.second - moments.total.T @ means) / moments.count.sum()
        variance = covariance.diagonal().mean().clamp_min(MIN_VARIANCE)
        identity = torch.eye(len(covariance), dtype=covariance.dtype)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * variance * identity
        self._whiten = torch.linalg.solve_triangular(torch.linalg.cholesky(shrunk), identity, upper=False).T
        self._means = means @ self._whiten
        self._log_prior = (moments.count / moments.count.sum()).log()  # -inf for a category without images

    def squared_distances(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Squared Mahalanobis distance of each point from the centre of each category; inf without images."""
        white = points @ self._whiten
        squared: Tensor = (white**2).sum(1, keepdim=True) - 2 * white @ self._means.T + (self._means**2).sum(1)
        return squared.clamp_min(0).masked_fill(self._log_prior == -torch.inf, torch.inf)

    def log_odds(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Logarithm of the probability of each category, up to a constant per point."""
        return self._log_prior - self.squared_distances(points) / 2


def centered(points: Float[np.ndarray, "n d"]) -> Float[Tensor, "n d"]:
    """``points`` without their mean, in double precision: sums of squares cancel less."""
    found = torch.from_numpy(np.asarray(points, dtype=np.float64))
    return found - found.mean(dim=0)


def parts(count: int, categories: int) -> Iterator[slice]:
    """Slices of ``count`` images whose distances to all categories fit into memory."""
    step = max(1, CELLS_AT_ONCE // categories)
    yield from (slice(start, start + step) for start in range(0, count, step))
