"""An exponential moving average of a model's weights: smoother than the weights themselves, and often better.

Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging". The decay grows with the steps
taken, so that the first average is not one of random weights. Only trained weights are averaged.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """The average of the trained weights of ``model``.

    Args:
        model: on its device, frozen as it will be trained.
        decay: share of the average that a step leaves, once many have been taken.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.average = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps (from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.average.values()), [weight.detach() for weight in self._weights.values()], 1 - decay
        )

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Resume from an ``average`` that was kept."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average's weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights.items():
            kept = weight.detach().clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(kept)
