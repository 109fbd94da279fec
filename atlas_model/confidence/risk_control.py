"""Answers that are right as often as asked for: thresholds on probabilities, tested on a held-out part.

The method is Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052) for selective prediction (Geifman and
El-Yaniv 2017, "Selective Classification for Deep Neural Networks", arXiv 1705.08500). For an accuracy and a row of
thresholds, fixed beforehand from strict to lax, each threshold is a hypothesis: "fewer answers than that are right". It
is tested with the exact binomial tail of the held-out answers, and the last threshold is taken before the first that
does not pass (fixed sequence testing). So the accuracy of the answers to new items is at least the one asked for, with
a known probability over held-out parts.

An answer is a whole path where that is probable enough (it is accepted), else the deepest node above its end that is
(it is for review), else nothing. Two rows of thresholds are walked:

1. Whole paths from t on, shorter answers from max(t, accuracy) on. A threshold passes only if both hold: so many of the
   accepted answers are right, and so many of all answers. (The larger of the two p-values is one for "one of them does
   not hold", so this costs no correction.)
2. Only where the first row promises nothing: no whole paths, shorter answers from t on.

The risk, `RISK`, that a promise does not hold is spent so: a quarter on each row, which bounds by `RISK` / 2 the
probability that it does not hold of new items without end; the other half is for chance in the finite number of items
that somebody checks it with. If these and the held-out ones are halves of one pool, so that what one has the other
lacks, a row that is tested at .025 is below the accuracy in at most .083 of the draws (normal approximation).

A row begins where enough items are answered that it may pass, which is decided by how many are answered, not by how
many are right. That leaves the guarantee exact where accuracy does not rise as the threshold is lowered; tests count,
on scores of other kinds too, how often the promise holds.

What is assumed: new items are exchangeable with the held-out ones (same shops, same mixture of categories, same number
of images a product), and held-out items are independent. Images of one product are not, so each product counts once,
with an image drawn at random, or with all its images pooled.

Knows nothing of files or models.
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

Subject = Literal["images", "products"]  # what is promised something of

RISK = 0.1  # probability that a promise does not hold, of as many items as were held out
ACCURACIES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)  # that are looked for
GRID = np.round(1 - np.logspace(-6, 0, 121), 8)  # thresholds, from strict (.999999) to lax (0)
START_FACTOR = (
    3  # times as many answers as pass if all are right: so many that one or two wrong ones do not end the row
)
SEED = 1  # of the image that stands for its product


@dataclass(frozen=True)
class Thresholds:
    """The least probabilities of answers."""

    whole: float | None  # of a whole path; None: no whole path is given
    shorter: float  # of a node above the end of its path

    @property
    def of_levels(self) -> tuple[float, float]:
        """As `calibration.Descent.levels` takes them."""
        return math.inf if self.whole is None else self.whole, self.shorter


@dataclass(frozen=True)
class HeldOutItems:
    """The ways down the taxonomy (`calibration.Descent`) of items that are independent, and how far they are right."""

    probability: Float[np.ndarray, "n levels"]
    depth: Int[np.ndarray, "n"]  # of each way
    right: Int[np.ndarray, "n"]  # levels of it that are those of the right path

    @classmethod
    def of(cls, taxonomy: Taxonomy, descent: Descent, actual: Int[np.ndarray, "n"]) -> "HeldOutItems":
        """Of ways, and the right paths."""
        same = descent.node == taxonomy.trie.routes[actual, 1 : descent.node.shape[1] + 1]
        right = np.logical_and.accumulate(same & (descent.node >= 0), axis=1).sum(axis=1)
        return cls(descent.probability, descent.depth, right)

    def __len__(self) -> int:
        return len(self.depth)

    def at(self, rows: Int[np.ndarray, "m"]) -> "HeldOutItems":
        """Those of ``rows``."""
        return HeldOutItems(self.probability[rows], self.depth[rows], self.right[rows])

    @classmethod
    def concatenated(cls, parts: "Sequence[HeldOutItems]") -> "HeldOutItems":
        """One after the other; at least one."""
        columns = ([getattr(part, name) for part in parts] for name in ("probability", "depth", "right"))
        return cls(*map(np.concatenate, columns))


@dataclass(frozen=True)
class ThresholdOutcome:
    """What became of items that were answered with some thresholds; shares of all, None where of none."""

    accepted: float  # share that got a whole path
    accepted_right: float | None  # share of those
    answered: float  # share that got any answer
    answered_right: float | None

    def holds(self, accuracy: float) -> bool:
        """Whether as many answers are right, of the accepted ones and of all; where there is none, they are."""
        return all(share is None or share >= accuracy for share in (self.accepted_right, self.answered_right))


def sample_one_per_product(product_ids: Sequence[str], seed: int = SEED) -> Int[np.ndarray, "p"]:
    """For each product one of its rows, drawn at random."""
    generator = np.random.default_rng(seed)
    return np.array([generator.choice(rows) for rows in rows_of_products(product_ids)[2]], dtype=np.int64)


def find_thresholds(held_out: HeldOutItems, accuracy: float, risk: float = RISK) -> Thresholds | None:
    """The laxest thresholds with which ``accuracy`` is promised; None where the held-out part can promise it with none.

    Args:
        held_out: independent items.
        accuracy: share of the answers that shall be right, range (0, 1).
        risk: probability that the promise may fail with.
    """
    every = np.ones((1, len(held_out)))
    for row in _ThresholdSequence.both(held_out, accuracy):
        (place,) = row.walk(row.counts(every), len(held_out), risk)
        if place is not None:
            return row.thresholds(place)
    return None


def apply_thresholds(held_out: HeldOutItems, thresholds: Thresholds) -> ThresholdOutcome:
    """What becomes of items that are answered with ``thresholds``."""
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
    """How often the promise holds if other items had been held out.

    ``calibration`` of the items, drawn at random, give the thresholds, the others are answered with them. The others
    are few as well: where the promise is just kept, chance alone brings their accuracy below it now and then.

    Args:
        held_out: independent items, of parts that may all be held out.
        calibration: how many of them give the thresholds.
        accuracy: share of the answers that shall be right.
        times: how often.
        seed: of the draws.
        risk: as of `find_thresholds`.

    Returns:
        ``promised``: share of the draws with which anything is promised; ``held``: share in which at least ``accuracy``
        of the others' accepted answers, and of all their answers, are right, or nothing was promised; and of those with
        a promise the means of ``accepted`` and ``answered`` (the others' share that got a whole path; an answer) and
        ``right`` (of the answers). These are None where nothing is ever promised.
    """
    generator, n = np.random.default_rng(seed), len(held_out)
    weight = np.zeros((times, n))
    for draw in weight:
        draw[generator.permutation(n)[:calibration]] = 1
    outcomes: list[ThresholdOutcome | None] = [None] * times
    for row in _ThresholdSequence.both(held_out, accuracy):
        others = row.counts(1 - weight)
        for index, place in enumerate(row.walk(row.counts(weight), calibration, risk)):
            if outcomes[index] is None and place is not None:
                outcomes[index] = others.outcome(index, place, n - calibration)
    found = [each for each in outcomes if each is not None]
    if not found:
        return {"promised": 0.0, "held": 1.0, **dict.fromkeys(("accepted", "answered", "right"))}
    right = [each.answered_right for each in found if each.answered_right is not None]
    return {
        "promised": len(found) / times,
        "held": (times - sum(not each.holds(accuracy) for each in found)) / times,
        "accepted": float(np.mean([each.accepted for each in found])),
        "answered": float(np.mean([each.answered for each in found])),
        "right": float(np.mean(right)) if right else None,
    }


def min_held_out(accuracy: float, risk: float = RISK) -> int:
    """With fewer held-out items ``accuracy`` cannot be promised, even if all answers are right."""
    return math.ceil(math.log(risk / 4) / math.log(accuracy))


@dataclass(frozen=True)
class _Counts:
    """For each of ``m`` parts of the items and each threshold: answers, and right ones."""

    whole: Float[np.ndarray, "m j"]
    whole_right: Float[np.ndarray, "m j"]
    answered: Float[np.ndarray, "m j"]
    right: Float[np.ndarray, "m j"]

    def outcome(self, part: int, place: int, items: int) -> ThresholdOutcome:
        """With one threshold."""
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
    """A row of thresholds, and from which of them on each item gets what; the row's length stands for never."""

    accepting: bool  # whether whole paths are given
    accuracy: float
    shorter: Int[np.ndarray, "n"]  # a shorter answer
    wrong: Int[np.ndarray, "n"]  # one that is wrong: it only grows longer
    whole: Int[np.ndarray, "n"]  # a whole path
    whole_right: Bool[np.ndarray, "n"]  # and whether that is right

    @classmethod
    def both(cls, items: HeldOutItems, accuracy: float) -> "tuple[_ThresholdSequence, _ThresholdSequence]":
        """The row with whole paths, and the one without."""
        n, every = len(items), np.arange(len(items))
        whole_right = items.right >= items.depth
        first, end = items.probability[:, 0], _end_probability(items)
        beyond = np.minimum(items.right, items.depth - 1)  # the level after the last that is right; else the last one
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
        """Those at ``place``."""
        t = float(GRID[place])
        return Thresholds(t, max(t, self.accuracy)) if self.accepting else Thresholds(None, t)

    def counts(self, weight: Float[np.ndarray, "m n"]) -> _Counts:
        """Of parts of the items; each counts ``weight`` times."""
        stopped = np.minimum(self.wrong, self.whole)

        def reached(place: Int[np.ndarray, "n"]) -> Float[np.ndarray, "m j"]:
            at = np.array([np.bincount(place, of_part, len(GRID) + 1)[:-1] for of_part in weight])
            total: np.ndarray = at.cumsum(axis=1, dtype=np.float64)  # bincount of nothing is of integers
            return total

        whole, whole_right = reached(self.whole), reached(np.where(self.whole_right, self.whole, len(GRID)))
        shorter = reached(self.shorter)
        answered = whole + shorter - reached(np.maximum(self.shorter, self.whole))
        right = whole_right + shorter - reached(np.maximum(self.shorter, stopped))
        return _Counts(whole, whole_right, answered, right)

    def walk(self, counts: _Counts, items: int, risk: float) -> list[int | None]:
        """For each part, of ``items`` each, the last threshold before the first that does not pass."""
        given = counts.whole if self.accepting else counts.answered
        enough = given >= _min_answers(self.accuracy, risk, items)
        p_value = _p_value(counts.right, counts.answered, self.accuracy)
        if self.accepting:
            p_value = np.maximum(p_value, _p_value(counts.whole_right, counts.whole, self.accuracy))
        passed = np.logical_and.accumulate(~enough | (p_value <= risk / 4), axis=1) & enough
        return [int(np.flatnonzero(of_part)[-1]) if of_part.any() else None for of_part in passed]


def _min_answers(accuracy: float, risk: float, items: int) -> int:
    """Answers with which a row begins."""
    least = min_held_out(accuracy, risk)
    return min(START_FACTOR * least, max(least, -(-items // 2)))


def _p_value(
    right: Float[np.ndarray, "m j"], given: Float[np.ndarray, "m j"], accuracy: float
) -> Float[np.ndarray, "m j"]:
    """P(at least so many of ``given`` are right), if each is with probability ``accuracy``: a binomial tail."""
    from scipy.special import betainc  # slow to import, and prediction does without

    some = np.maximum(right, 1).astype(np.float64)
    tail: np.ndarray = np.where(right > 0, betainc(some, np.maximum(given - some + 1, 1), accuracy), 1.0)
    return tail


def _threshold_index(probability: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The first threshold of the grid that each probability reaches."""
    place: np.ndarray = len(GRID) - np.searchsorted(GRID[::-1], probability, side="right")
    return place


def _end_probability(items: HeldOutItems) -> Float[np.ndarray, "n"]:
    """Probability of each whole way."""
    end: np.ndarray = items.probability[np.arange(len(items)), items.depth - 1]
    return end
