"""Finds probability thresholds that guarantee a requested accuracy, by hypothesis tests on held-out items.

The method is Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052) for selective prediction (Geifman and
El-Yaniv 2017, "Selective Classification for Deep Neural Networks", arXiv 1705.08500). For an accuracy and a sequence of
thresholds, fixed in advance from strict to lax, the null hypothesis of each threshold is "the accuracy is lower". It is
tested with the exact binomial tail on the held-out predictions. The last threshold before the first that does not pass
is chosen (fixed sequence testing). So the accuracy on new items is at least the requested one, with a known probability
over the draw of the held-out items.

A prediction is the whole path if its probability reaches a threshold (it is accepted), else the path down to the
deepest node that reaches another threshold (it is for review), else nothing. Two sequences are tested:

1. Whole paths from t, shorter predictions from max(t, accuracy). A threshold passes only if the accuracy is reached by
   both the accepted predictions and all predictions. (The larger of the two p-values is a p-value for "at least one is
   not reached", so this needs no correction.)
2. Only if the first sequence guarantees nothing: no whole paths, shorter predictions from t.

`RISK` is the probability that a guarantee does not hold. A quarter of it is spent on each sequence, so for infinitely
many new items the probability is at most `RISK` / 2. The other half allows for chance in the finite number of items on
which the guarantee is checked. If these and the held-out items are two halves of one pool, and so negatively
correlated, a sequence tested at .025 misses the accuracy in at most .083 of the draws (normal approximation).

A sequence starts at the first threshold with enough predictions to pass. That depends on the number of predictions, not
on how many are right, so the guarantee remains exact even if accuracy does not increase with the threshold. Tests
measure, also for other kinds of scores, how often the guarantee holds.

Assumptions: new items are exchangeable with the held-out ones (same shops, same distribution of categories, same number
of images per product), and held-out items are independent. Images of a product are not, so each product counts once,
with an image drawn at random, or with all its images pooled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_model.confidence.calibration import Descent
from atlas_model.confidence.products import rows_of_products
from atlas_model.taxonomy.tree import Taxonomy

Subject = Literal["images", "products"]  # what a guarantee is for

RISK = 0.1  # probability that a guarantee does not hold, on as many new items as were held out
ACCURACIES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)  # that have thresholds
GRID = np.round(1 - np.logspace(-6, 0, 121), 8)  # thresholds, from strict (.999999) to lax (0)
START_FACTOR = 3  # a sequence starts at this multiple of the minimum, to tolerate wrong predictions
SEED = 1  # for drawing one image per product


@dataclass(frozen=True)
class Thresholds:
    """Minimum probabilities of predictions."""

    whole: float | None  # of a whole path; None: no whole paths are predicted
    shorter: float  # of a node above the end of its path

    @property
    def of_levels(self) -> tuple[float, float]:
        """As arguments of `calibration.Descent.levels`."""
        return math.inf if self.whole is None else self.whole, self.shorter


@dataclass(frozen=True)
class HeldOutItems:
    """The greedy descents (`calibration.Descent`) of independent items, and how many of their levels are right."""

    probability: Float[np.ndarray, "n levels"]
    depth: Int[np.ndarray, "n"]  # of each descent
    right: Int[np.ndarray, "n"]  # number of its levels that are on the right path

    @classmethod
    def of(cls, taxonomy: Taxonomy, descent: Descent, actual: Int[np.ndarray, "n"]) -> "HeldOutItems":
        """Compare descents with the right paths."""
        same = descent.node == taxonomy.trie.routes[actual, 1 : descent.node.shape[1] + 1]
        right = np.logical_and.accumulate(same & (descent.node >= 0), axis=1).sum(axis=1)
        return cls(descent.probability, descent.depth, right)

    def __len__(self) -> int:
        return len(self.depth)

    def at(self, rows: Int[np.ndarray, "m"]) -> "HeldOutItems":
        """Select ``rows``."""
        return HeldOutItems(self.probability[rows], self.depth[rows], self.right[rows])

    @classmethod
    def concatenated(cls, parts: "Sequence[HeldOutItems]") -> "HeldOutItems":
        """Concatenate ``parts``, at least one."""
        columns = ([getattr(part, name) for part in parts] for name in ("probability", "depth", "right"))
        return cls(*map(np.concatenate, columns))


@dataclass(frozen=True)
class ThresholdOutcome:
    """Predictions of items with some thresholds."""

    accepted: float  # share of the items with a whole path predicted
    accepted_right: float | None  # share of those that are right; None if there are none
    answered: float  # share of the items with any prediction
    answered_right: float | None  # likewise

    def holds(self, accuracy: float) -> bool:
        """Whether both accepted and all predictions reach ``accuracy``; True if there are none."""
        return all(share is None or share >= accuracy for share in (self.accepted_right, self.answered_right))


def sample_one_per_product(product_ids: Sequence[str], seed: int = SEED) -> Int[np.ndarray, "p"]:
    """Draw one row of each product at random."""
    generator = np.random.default_rng(seed)
    return np.array([generator.choice(rows) for rows in rows_of_products(product_ids)[2]], dtype=np.int64)


def find_thresholds(held_out: HeldOutItems, accuracy: float, risk: float = RISK) -> Thresholds | None:
    """The laxest thresholds that guarantee ``accuracy``; None if the held-out items guarantee it with none.

    Args:
        held_out: independent items.
        accuracy: share of the predictions that must be right, range (0, 1).
        risk: accepted probability that the guarantee does not hold.
    """
    every = np.ones((1, len(held_out)))
    for sequence in _ThresholdSequence.both(held_out, accuracy):
        (place,) = sequence.test(sequence.counts(every), len(held_out), risk)
        if place is not None:
            return sequence.thresholds(place)
    return None


def apply_thresholds(held_out: HeldOutItems, thresholds: Thresholds) -> ThresholdOutcome:
    """Predict items with ``thresholds`` and compare with the right paths."""
    whole = _end_probability(held_out) >= thresholds.of_levels[0]
    above_end = np.arange(1, held_out.probability.shape[1] + 1) < held_out.depth[:, None]
    shorter = ((held_out.probability >= thresholds.shorter) & above_end).sum(axis=1)
    level = np.where(whole, held_out.depth, shorter)
    right, answered = held_out.right >= level, level > 0
    return ThresholdOutcome(
        float(whole.mean()) if len(whole) else 0.0,
        float(right[whole].mean()) if whole.any() else None,
        float(answered.mean()) if len(answered) else 0.0,
        float(right[answered].mean()) if answered.any() else None,
    )


def simulate_resplits(
    held_out: HeldOutItems, calibration: int, accuracy: float, *, times: int, seed: int, risk: float = RISK
) -> dict[str, float | None]:
    """Estimate how often the guarantee holds, by repeatedly drawing other held-out items.

    In each draw, ``calibration`` items give the thresholds, which are applied to the other items. As these are few,
    too, their accuracy may be lower by chance although the guarantee holds.

    Args:
        held_out: independent items, of all splits that may be held out.
        calibration: number of items that give the thresholds.
        accuracy: share of the predictions that must be right.
        times: number of draws.
        seed: of the draws.
        risk: as in `find_thresholds`.

    Returns:
        ``promised``: share of the draws with a guarantee. ``held``: share in which the other items reach ``accuracy``
        with their accepted and with all predictions, or in which there is no guarantee. Over the draws with a
        guarantee, the means of ``accepted`` and ``answered`` (share of the other items with a whole path; with any
        prediction) and ``right`` (share of these predictions). All but ``promised`` are None if no draw has one.
    """
    generator, n = np.random.default_rng(seed), len(held_out)
    weight = np.zeros((times, n))
    for draw in weight:
        draw[generator.permutation(n)[:calibration]] = 1
    outcomes: list[ThresholdOutcome | None] = [None] * times
    for sequence in _ThresholdSequence.both(held_out, accuracy):
        others = sequence.counts(1 - weight)
        for index, place in enumerate(sequence.test(sequence.counts(weight), calibration, risk)):
            if outcomes[index] is None and place is not None:
                outcomes[index] = others.outcome(index, place, n - calibration)
    found = [each for each in outcomes if each is not None]
    if not found:
        return {"promised": 0.0, **dict.fromkeys(("held", "accepted", "answered", "right"))}
    right = [each.answered_right for each in found if each.answered_right is not None]
    return {
        "promised": len(found) / times,
        "held": (times - sum(not each.holds(accuracy) for each in found)) / times,
        "accepted": float(np.mean([each.accepted for each in found])),
        "answered": float(np.mean([each.answered for each in found])),
        "right": float(np.mean(right)) if right else None,
    }


def min_held_out(accuracy: float, risk: float = RISK) -> int:
    """Minimum number of held-out items to guarantee ``accuracy``, if all predictions are right."""
    return math.ceil(math.log(risk / 4) / math.log(accuracy))


@dataclass(frozen=True)
class _Counts:
    """Numbers of predictions, and of right ones, for each of ``m`` subsets of the items and each threshold."""

    whole: Float[np.ndarray, "m j"]
    whole_right: Float[np.ndarray, "m j"]
    answered: Float[np.ndarray, "m j"]
    right: Float[np.ndarray, "m j"]

    def outcome(self, part: int, place: int, items: int) -> ThresholdOutcome:
        """The outcome of one subset with the threshold ``place``."""
        counts = (self.whole, self.whole_right, self.answered, self.right)
        whole, whole_right, answered, right = (float(each[part, place]) for each in counts)
        return ThresholdOutcome(
            whole / items if items else 0.0,
            whole_right / whole if whole else None,
            answered / items if items else 0.0,
            right / answered if answered else None,
        )


@dataclass(frozen=True)
class _ThresholdSequence:
    """A sequence of thresholds; for each item, the index of the first threshold with some event, or its length."""

    accepting: bool  # whether whole paths are predicted
    accuracy: float
    shorter: Int[np.ndarray, "n"]  # a shorter prediction is made
    wrong: Int[np.ndarray, "n"]  # the shorter prediction is wrong, and remains so
    whole: Int[np.ndarray, "n"]  # the whole path is predicted
    whole_right: Bool[np.ndarray, "n"]  # whether the whole path is right

    @classmethod
    def both(cls, items: HeldOutItems, accuracy: float) -> "tuple[_ThresholdSequence, _ThresholdSequence]":
        """The sequence with whole paths, and the one without."""
        n, every = len(items), np.arange(len(items))
        whole_right = items.right >= items.depth
        first, end = items.probability[:, 0], _end_probability(items)
        beyond = np.minimum(items.right, items.depth - 1)  # index of the first wrong level; else of the last one
        after = items.probability[every, beyond]
        never = np.full(n, len(GRID))
        shorter = np.where(items.depth > 1, _threshold_index(first), never)
        wrong = np.where(items.right + 1 < items.depth, _threshold_index(after), never)
        capped = (np.where(first >= accuracy, shorter, never), np.where(after >= accuracy, wrong, never))
        return (
            cls(True, accuracy, *capped, _threshold_index(end), whole_right),
            cls(False, accuracy, shorter, wrong, never, whole_right),
        )

    def thresholds(self, place: int) -> Thresholds:
        """The thresholds at ``place``."""
        t = float(GRID[place])
        return Thresholds(t, max(t, self.accuracy)) if self.accepting else Thresholds(None, t)

    def counts(self, weight: Float[np.ndarray, "m n"]) -> _Counts:
        """Count predictions in weighted subsets of the items."""
        stopped = np.minimum(self.wrong, self.whole)

        def reached(place: Int[np.ndarray, "n"]) -> Float[np.ndarray, "m j"]:
            at = np.array([np.bincount(place, of_part, len(GRID) + 1)[:-1] for of_part in weight])
            total: np.ndarray = at.cumsum(axis=1, dtype=np.float64)  # bincount of an empty array has integers
            return total

        whole, whole_right = reached(self.whole), reached(np.where(self.whole_right, self.whole, len(GRID)))
        shorter = reached(self.shorter)
        answered = whole + shorter - reached(np.maximum(self.shorter, self.whole))
        right = whole_right + shorter - reached(np.maximum(self.shorter, stopped))
        return _Counts(whole, whole_right, answered, right)

    def test(self, counts: _Counts, items: int, risk: float) -> list[int | None]:
        """For each subset, of ``items`` items, the last threshold before the first that does not pass."""
        given = counts.whole if self.accepting else counts.answered
        enough = given >= _min_predictions(self.accuracy, risk, items)
        p_value = _p_value(counts.right, counts.answered, self.accuracy)
        if self.accepting:
            p_value = np.maximum(p_value, _p_value(counts.whole_right, counts.whole, self.accuracy))
        passed = np.logical_and.accumulate(~enough | (p_value <= risk / 4), axis=1) & enough
        return [int(np.flatnonzero(of_part)[-1]) if of_part.any() else None for of_part in passed]


def _min_predictions(accuracy: float, risk: float, items: int) -> int:
    """Number of predictions at which a sequence starts."""
    least = min_held_out(accuracy, risk)
    return min(START_FACTOR * least, max(least, -(-items // 2)))


def _p_value(
    right: Float[np.ndarray, "m j"], given: Float[np.ndarray, "m j"], accuracy: float
) -> Float[np.ndarray, "m j"]:
    """P(at least ``right`` of ``given`` are right) if each is with probability ``accuracy``: a binomial tail."""
    from scipy.special import betainc  # slow to import, and prediction does not need it

    some = np.maximum(right, 1).astype(np.float64)
    tail: np.ndarray = np.where(right > 0, betainc(some, np.maximum(given - some + 1, 1), accuracy), 1.0)
    return tail


def _threshold_index(probability: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Index of the first threshold of the grid that each probability reaches."""
    place: np.ndarray = len(GRID) - np.searchsorted(GRID[::-1], probability, side="right")
    return place


def _end_probability(items: HeldOutItems) -> Float[np.ndarray, "n"]:
    """Probability of each whole path."""
    end: np.ndarray = items.probability[np.arange(len(items)), items.depth - 1]
    return end
