"""Simulated held-out items whose true probability of being right is known."""

import numpy as np

from atlas_model.confidence.risk_control import HeldOutItems


def items(count: int, seed: int, boast: float = 1.0, skill: float = 10.0, deepest: int = 3) -> HeldOutItems:
    """Items whose levels are right with the true probabilities; the reported ones are sharper by ``boast``."""
    generator = np.random.default_rng(seed)
    told, sure, right, still = (
        np.zeros((count, deepest)),
        np.ones(count),
        np.zeros(count, np.int64),
        np.ones(count, bool),
    )
    depth = generator.integers(1, deepest + 1, count) if deepest > 1 else np.ones(count, np.int64)
    for level in range(deepest):
        logits = generator.normal(0, 1, (count, 4)) * skill * 2 * generator.random((count, 1))
        logits -= logits.max(axis=1, keepdims=True)
        true, seen = (1 / np.exp(each).sum(axis=1) for each in (logits, boast * logits))
        there = level < depth
        sure = np.where(there, sure * seen, sure)
        told[:, level] = np.where(there, sure, 0.0)
        still &= generator.random(count) < true
        right += still & there
    return HeldOutItems(told, depth, right)
