"""An exponential moving average of a model's weights, which is often better than the weights themselves.

Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging". The decay increases with the steps,
so that the random initial weights are soon forgotten. Only trained weights are averaged.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """The average of the trained weights of ``model``.

    Args:
        model: on its device, with its frozen blocks frozen.
        decay: share of the average that a step keeps, after many steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.average = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after ``step`` steps (from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.average.values()), [weight.detach() for weight in self._weights.values()], 1 - decay
        )

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Resume from a saved ``average``."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block."""
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
