"""One Gaussian per category, with one covariance for all, fitted to embeddings in one pass."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

SHRINKAGE = 0.01  # share of the covariance that is replaced by a multiple of the identity, so that it is invertible
MIN_VARIANCE = 1e-12  # for embeddings that are all equal
CELLS_AT_ONCE = 4_000_000  # images x categories in memory, 32 MB


class CategoryGaussians:
    """The fitted Gaussians.

    Args:
        points: embeddings, `centered`.
        labels: their categories; each has at least one.
        categories: their number.
    """

    def __init__(self, points: Float[Tensor, "n d"], labels: Int[Tensor, "n"], categories: int) -> None:
        count = torch.bincount(labels, minlength=categories).to(points.dtype)
        means = points.new_zeros(categories, points.shape[1]).index_add_(0, labels, points) / count[:, None]
        covariance = (points.T @ points - (means * count[:, None]).T @ means) / len(points)
        variance = covariance.diagonal().mean().clamp_min(MIN_VARIANCE)
        identity = torch.eye(len(covariance), dtype=covariance.dtype)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * variance * identity
        self._whiten = torch.linalg.solve_triangular(torch.linalg.cholesky(shrunk), identity, upper=False).T
        self._means = means @ self._whiten

    def squared_distances(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Squared Mahalanobis distance of each point from the centre of each category."""
        white = points @ self._whiten
        squared: Tensor = (white**2).sum(1, keepdim=True) - 2 * white @ self._means.T + (self._means**2).sum(1)
        return squared.clamp_min(0)


def centered(points: Float[np.ndarray, "n d"]) -> Float[Tensor, "n d"]:
    """``points`` without their mean, in double precision: sums of squares cancel less."""
    found = torch.from_numpy(np.asarray(points, dtype=np.float64))
    return found - found.mean(dim=0)


def parts(count: int, categories: int) -> Iterator[slice]:
    """Slices of ``count`` images whose distances to all categories fit into memory."""
    step = max(1, CELLS_AT_ONCE // categories)
    yield from (slice(start, start + step) for start in range(0, count, step))
