"""Bootstrap intervals (Efron 1979) of the headline figures, and of differences between two models.

Products are drawn with replacement, each with all its images, because the images of a product are not independent. An
interval is from the 2.5th to the 97.5th percentile of the resampled figures. Two models are compared on the same draws
(paired bootstrap), so that what is hard for both cancels out. The calibration error is a sum of absolute values, so
chance can only increase it: its resamples are higher than the figure itself, and the upper end of its interval is the
relevant one.

If all predictions are right, or none, all draws are equal, and percentiles would claim certainty. Then the F figures
get the interval of a share (`proportions`), with the number of products as the sample size. Micro F is a share.
Hierarchical F is never lower than micro F. For macro F it assumes that errors are spread over the categories like the
images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_model.confidence.calibration import expected_calibration_error
from atlas_model.metrics.proportions import score_interval
from atlas_model.metrics.scores import common_levels, weighted_f1
from atlas_model.taxonomy.tree import Taxonomy

F_FIGURES = ("micro_f1", "macro_f1", "hierarchical_f1")
HEADLINES = (*F_FIGURES, "ece")
PERCENTILES = (2.5, 97.5)  # of 95 % intervals

Interval = tuple[float, float]


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions of a model, with what the headline figures are computed from."""

    actual: Int[np.ndarray, "n"]  # categories, numbered without gaps
    predicted: Int[np.ndarray, "n"]  # likewise
    confidence: Float[np.ndarray, "n"]
    shared: Int[np.ndarray, "n"]  # number of right levels
    levels: Int[np.ndarray, "n"]  # number of levels of the predicted and the right path together

    @classmethod
    def of(
        cls,
        actual: Int[np.ndarray, "n"],
        predicted: Int[np.ndarray, "n"],
        confidence: Float[np.ndarray, "n"],
        taxonomy: Taxonomy,
    ) -> "ScoredPredictions":
        """Make it from paths and the probability of each predicted one."""
        shared, of_predicted, of_actual = common_levels(actual, predicted, taxonomy)
        _, index = np.unique(np.concatenate([actual, predicted]), return_inverse=True)
        return cls(index[: len(actual)], index[len(actual) :], confidence, shared, of_predicted + of_actual)

    @property
    def right(self) -> Bool[np.ndarray, "n"]:
        """Whether each prediction is the exact path."""
        exact: np.ndarray = self.actual == self.predicted
        return exact

    def headlines(self, weight: Int[np.ndarray, "n"]) -> Float[np.ndarray, "figures"]:
        """The `HEADLINES` with a ``weight`` for each prediction; defined as in `scores` and `calibration`."""
        total = weight.sum()
        f1, of_actual = weighted_f1(self.actual, self.predicted, weight)
        return np.array(
            [
                weight @ self.right / total,
                f1[of_actual > 0].mean(),
                2 * (weight @ self.shared) / (weight @ self.levels),
                expected_calibration_error(self.confidence, self.right, weight),
            ]
        )


def intervals(answers: ScoredPredictions, groups: Sequence[str], *, resamples: int, seed: int) -> dict[str, Interval]:
    """A 95 % interval for each of the `HEADLINES`.

    Args:
        answers: at least one.
        groups: of each prediction; those of a group are drawn together.
        resamples: number of draws.
        seed: of the draws.
    """
    found = _percentiles(np.array([answers.headlines(weight) for weight in draws(groups, resamples, seed)]))
    products = len(set(groups))
    for share in (0, 1):
        if (answers.right == share).all():
            of_share = score_interval(share * products, products)
            found |= {name: of_share for name in F_FIGURES if found[name] == (share, share)}
    return found


def differences(
    one: ScoredPredictions, other: ScoredPredictions, groups: Sequence[str], *, resamples: int, seed: int
) -> dict[str, dict[str, float | Interval]]:
    """Differences ``one`` - ``other`` on the same images: ``value`` and ``interval`` of each headline."""
    drawn = [one.headlines(weight) - other.headlines(weight) for weight in draws(groups, resamples, seed)]
    once = np.ones(len(groups), dtype=np.int64)
    values = one.headlines(once) - other.headlines(once)
    return {
        name: {"value": float(value), "interval": interval}
        for value, (name, interval) in zip(values, _percentiles(np.array(drawn)).items(), strict=True)
    }


def draws(groups: Sequence[str], resamples: int, seed: int) -> Iterator[Int[np.ndarray, "n"]]:
    """Yield the number of times that each prediction is drawn, for each resample."""
    names, group = np.unique(np.array(groups), return_inverse=True)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = generator.integers(len(names), size=len(names))
        yield np.bincount(drawn, minlength=len(names))[group]


def _percentiles(draws: Float[np.ndarray, "resamples figures"]) -> dict[str, Interval]:
    low, high = np.percentile(draws, PERCENTILES, axis=0).tolist()
    return dict(zip(HEADLINES, zip(low, high, strict=True), strict=True))
