"""The confidence interval of a share. It knows neither models nor splits."""

import math
from statistics import NormalDist

CONFIDENCE = 0.95


def score_interval(right: int, known: int) -> tuple[float, float]:
    """The 95 % score interval of ``right`` of ``known`` (Wilson 1927, JASA 22(158)).

    It has a width also where all are right, or none.

    Args:
        right: from 0 to ``known``.
        known: at least 1.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = right / known
    centre = (share + z**2 / (2 * known)) / (1 + z**2 / known)
    half = z * math.sqrt(share * (1 - share) / known + (z / (2 * known)) ** 2) / (1 + z**2 / known)
    return max(0.0, centre - half), min(1.0, centre + half)
