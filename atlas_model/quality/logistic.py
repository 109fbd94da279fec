"""Multinomial logistic regression on embeddings, in a fixed number of steps.

A classifier of Gaussians (`gaussians`) is fitted in one pass, but it finds fewer label errors: docs/data-quality.md has
the figures.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

STEPS = 20  # of L-BFGS; more change little
PENALTY = 0.015  # weight of the squared coefficients, half of it; keeps the classifier from fitting wrong labels
MIN_DEVIATION = 1e-6  # of a dimension of the embeddings


@dataclass(frozen=True)
class LogisticRegression:
    """A fitted classifier."""

    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, "k"]

    def probabilities(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The probability of each category."""
        return functional.linear(points, self.weight, self.bias).softmax(dim=1)


def standardized(points: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """``points`` with mean 0 and variance 1 in each dimension, in single precision."""
    deviation, mean = torch.std_mean(points.double(), dim=0, correction=0)
    return ((points - mean) / deviation.clamp_min(MIN_DEVIATION)).float()


def fit_logistic(points: Float[Tensor, "n d"], labels: Int[Tensor, "n"], categories: int) -> LogisticRegression:
    """Fit the regression to `standardized` ``points``."""
    weight = torch.zeros(categories, points.shape[1], requires_grad=True)
    bias = torch.zeros(categories, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        value = functional.cross_entropy(functional.linear(points, weight, bias), labels)
        value = value + PENALTY / 2 * (weight**2).sum()
        value.backward()  # type: ignore[no-untyped-call]  # torch has no type there
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch has no type there
    return LogisticRegression(weight.detach(), bias.detach())
