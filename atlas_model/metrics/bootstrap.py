"""How far the headline figures can be trusted: bootstrap intervals (Efron 1979), of differences too.

Products are drawn with replacement, each with all its images, because the images of one product are no
independent witnesses; an interval runs from the 2.5th to the 97.5th percentile of what the figures come to. Two
models on the same images are compared on the same draws, so that what is hard for both cancels out. The calibration
error is a sum of absolute values, so chance only adds to it: its draws lie higher than the figure itself, and the upper
end of its interval is the one to go by.

Knows nothing of models: answers in, plain numbers out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_model.confidence.calibration import expected_calibration_error
from atlas_model.metrics.scores import common_levels
from atlas_model.taxonomy.tree import Taxonomy

HEADLINES = ("micro_f1", "macro_f1", "hierarchical_f1", "ece")
PERCENTILES = (2.5, 97.5)  # of 95 % intervals

Interval = tuple[float, float]


@dataclass(frozen=True)
class ScoredPredictions:
    """What a model answered, reduced to what the headline figures need."""

    actual: Int[np.ndarray, "n"]  # categories, numbered without gaps
    predicted: Int[np.ndarray, "n"]  # likewise
    confidence: Float[np.ndarray, "n"]
    shared: Int[np.ndarray, "n"]  # levels that are right
    levels: Int[np.ndarray, "n"]  # of the predicted path and the right one together

    @classmethod
    def of(
        cls,
        actual: Int[np.ndarray, "n"],
        predicted: Int[np.ndarray, "n"],
        confidence: Float[np.ndarray, "n"],
        taxonomy: Taxonomy,
    ) -> "ScoredPredictions":
        """Of paths, and the probability of each predicted one."""
        shared, of_predicted, of_actual = common_levels(actual, predicted, taxonomy)
        _, index = np.unique(np.concatenate([actual, predicted]), return_inverse=True)
        return cls(index[: len(actual)], index[len(actual) :], confidence, shared, of_predicted + of_actual)

    @property
    def right(self) -> Bool[np.ndarray, "n"]:
        """Which are the exact path."""
        exact: np.ndarray = self.actual == self.predicted
        return exact

    def headlines(self, weight: Int[np.ndarray, "n"]) -> Float[np.ndarray, "figures"]:
        """The `HEADLINES` if each answer counted ``weight`` times; defined as in `metrics` and `calibration`."""
        total = weight.sum()
        hits = np.bincount(self.actual, weights=weight * self.right)
        of_actual = np.bincount(self.actual, weights=weight)
        of_predicted = np.bincount(self.predicted, weights=weight, minlength=len(of_actual))[: len(of_actual)]
        f1 = 2 * hits / np.maximum(of_actual + of_predicted, 1)
        return np.array(
            [
                hits.sum() / total,
                f1[of_actual > 0].mean(),
                2 * (weight @ self.shared) / (weight @ self.levels),
                expected_calibration_error(self.confidence, self.right, weight),
            ]
        )


def intervals(answers: ScoredPredictions, groups: Sequence[str], *, resamples: int, seed: int) -> dict[str, Interval]:
    """A 95 % interval for each of the `HEADLINES`.

    Args:
        answers: at least one.
        groups: of each answer; those of the same group are drawn together.
        resamples: number of draws.
        seed: of the draws.
    """
    return _percentiles(np.array([answers.headlines(weight) for weight in draws(groups, resamples, seed)]))


def differences(
    one: ScoredPredictions, other: ScoredPredictions, groups: Sequence[str], *, resamples: int, seed: int
) -> dict[str, dict[str, float | Interval]]:
    """How much more ``one`` has than ``other`` on the same images: of each headline ``value`` and ``interval``."""
    drawn = [one.headlines(weight) - other.headlines(weight) for weight in draws(groups, resamples, seed)]
    once = np.ones(len(groups), dtype=np.int64)
    values = one.headlines(once) - other.headlines(once)
    return {
        name: {"value": float(value), "interval": interval}
        for value, (name, interval) in zip(values, _percentiles(np.array(drawn)).items(), strict=True)
    }


def draws(groups: Sequence[str], resamples: int, seed: int) -> Iterator[Int[np.ndarray, "n"]]:
    """How often each answer counts, draw after draw."""
    names, group = np.unique(np.array(groups), return_inverse=True)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = generator.integers(len(names), size=len(names))
        yield np.bincount(drawn, minlength=len(names))[group]


def _percentiles(draws: Float[np.ndarray, "resamples figures"]) -> dict[str, Interval]:
    low, high = np.percentile(draws, PERCENTILES, axis=0).tolist()
    return dict(zip(HEADLINES, zip(low, high, strict=True), strict=True))
