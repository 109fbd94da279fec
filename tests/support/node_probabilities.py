"""Probabilities of paths and of the nodes above them, drawn at random."""

import numpy as np

from atlas_model.taxonomy.tree import Taxonomy


def nodes_of(taxonomy: Taxonomy, paths: np.ndarray) -> np.ndarray:
    """Log p of every node of the trie from the probabilities of the paths, one row per image."""
    found = np.zeros((len(paths), len(taxonomy.trie.path)))
    for path, route in enumerate(taxonomy.trie.routes):
        found[:, route[route >= 0]] += paths[:, path, None]
    with np.errstate(divide="ignore"):
        return np.log(found).astype(np.float32)


def images(taxonomy: Taxonomy, count: int, seed: int) -> np.ndarray:
    """Random probabilities of the paths, one row per image."""
    return np.random.default_rng(seed).dirichlet(np.full(len(taxonomy), 0.5), size=count)
