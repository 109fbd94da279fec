"""Pools the predictions for the images of a product into one distribution over the taxonomy, and one category path.

The pooled probability of a node is the mean over the images (the linear opinion pool of Stone 1961, the sum rule of
Kittler et al. 1998, "On Combining Classifiers", IEEE TPAMI 20(3)). Two alternatives were measured (docs/confidence.md):
the normalised geometric mean, and the normalised product, which is right for images that are independent given the
category. Images of a product are not independent, and one of them may show only fabric: with one such image and two
good ones, .60 of the products are right with either alternative, and .82 with the mean. The mean is underconfident when
images agree (Ranjan and Gneiting 2010, "Combining probability forecasts", JRSS B 72(1)), which is the safe side.

The mean is computed node by node. In the result, the probability of a node is still the sum over its children. A
product with one image has the distribution of that image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_model.taxonomy.tree import Taxonomy


class ProductPool:
    """Accumulates the images of one product.

    Args:
        taxonomy: of the distributions.
        length_normalization: for comparing paths of different depth, as in `beam_search.beam_search`.
    """

    def __init__(self, taxonomy: Taxonomy, length_normalization: float = 0.0) -> None:
        self._taxonomy, self._length_normalization = taxonomy, length_normalization
        self._sum = np.zeros(len(taxonomy.trie.path))
        self._paths: set[int] = set()  # best path of each image
        self.images = 0

    @property
    def nodes(self) -> int:
        """Number of nodes of the taxonomy's trie."""
        return len(self._sum)

    def add(self, log_p: Float[np.ndarray, "n nodes"]) -> None:
        """Add images, given log p of every node of the taxonomy's trie, from `Categorizer.exact`."""
        self._sum += np.exp(log_p, dtype=np.float64).sum(axis=0)
        self._paths.update(best_paths(self._taxonomy, log_p, self._length_normalization).tolist())
        self.images += len(log_p)

    @property
    def log_p(self) -> Float[np.ndarray, "nodes"]:
        """Log of the mean probability of every node. At least one image must have been added."""
        assert self.images, "a product without an image has no distribution"
        with np.errstate(divide="ignore"):  # nodes with probability 0
            mean: np.ndarray = np.log(self._sum / self.images).astype(np.float32)
        return mean

    @property
    def path(self) -> int:
        """The most probable path."""
        return int(best_paths(self._taxonomy, self.log_p[None], self._length_normalization)[0])

    @property
    def disagree(self) -> bool:
        """Whether the most probable path of some image is not the product's."""
        return self._paths != {self.path}


@dataclass(frozen=True)
class PooledProducts:
    """Products, in the order of their first images."""

    product_ids: list[str]
    first: Int[np.ndarray, "p"]  # row of the product's first image
    images: Int[np.ndarray, "p"]  # number of images
    log_p: Float[np.ndarray, "p nodes"]
    path: Int[np.ndarray, "p"]  # the most probable one
    log_probability: Float[np.ndarray, "p"]  # of that path
    disagree: Bool[np.ndarray, "p"]  # as in `ProductPool.disagree`


def pool_products(
    taxonomy: Taxonomy,
    log_p: Float[np.ndarray, "n nodes"],
    product_ids: Sequence[str],
    length_normalization: float = 0.0,
) -> PooledProducts:
    """Pool the images of each product.

    Args:
        taxonomy: of the distributions.
        log_p: of every node of its trie, for each image; at least one.
        product_ids: of each image.
        length_normalization: as in `ProductPool`.
    """
    names, first, rows = rows_of_products(product_ids)
    pools = []
    for of_product in rows:
        pools.append(ProductPool(taxonomy, length_normalization))
        pools[-1].add(log_p[of_product])
    path = np.array([each.path for each in pools])
    pooled = np.stack([each.log_p for each in pools])
    return PooledProducts(
        product_ids=names,
        first=first,
        images=np.array([each.images for each in pools]),
        log_p=pooled,
        path=path,
        log_probability=pooled[np.arange(len(pools)), _ends(taxonomy)[path]],
        disagree=np.array([each.disagree for each in pools]),
    )


def rows_of_products(
    product_ids: Sequence[str],
) -> tuple[list[str], Int[np.ndarray, "p"], list[Int[np.ndarray, "_"]]]:
    """The products in the order of their first rows, their first rows, and all rows of each, in order."""
    names, first, product = np.unique(np.array(product_ids), return_index=True, return_inverse=True)
    rows = np.split(np.argsort(product, kind="stable"), np.cumsum(np.bincount(product))[:-1])
    order = np.argsort(first)
    return names[order].tolist(), first[order], [rows[index] for index in order]


def whole_products(product_ids: Sequence[str], at_most: int, seed: np.random.Generator | int) -> Bool[np.ndarray, "n"]:
    """Sample products at random, each with all its rows, until the next one would exceed ``at_most`` rows.

    At least one product is chosen if there is any. If every row is a product of its own, the sample is the first
    ``at_most`` rows of a permutation.
    """
    order = np.random.default_rng(seed).permutation(len(product_ids))
    _, _, rows = rows_of_products([product_ids[row] for row in order])
    chosen = np.zeros(len(product_ids), dtype=np.bool_)
    total = 0
    for of_product in rows:  # in the order of the permutation
        total += len(of_product)
        if total > at_most and chosen.any():
            break
        chosen[order[of_product]] = True
    return chosen


def best_paths(
    taxonomy: Taxonomy, log_p: Float[np.ndarray, "n nodes"], length_normalization: float = 0.0
) -> Int[np.ndarray, "n"]:
    """The most probable path of each row; ties as in `exact_search`: the shallower, then the first by name."""
    ends, levels = _ends_in_order(taxonomy)
    ranks = log_p[:, ends] / levels**length_normalization
    paths: np.ndarray = taxonomy.trie.path[ends[ranks.argmax(axis=1)]]
    return paths


def ranked_paths(taxonomy: Taxonomy, log_p: Float[np.ndarray, "nodes"], top: int) -> Int[np.ndarray, "_"]:
    """The ``top`` most probable paths (or all, if there are fewer), best first; ties as in `best_paths`."""
    ends, _ = _ends_in_order(taxonomy)
    paths: np.ndarray = taxonomy.trie.path[ends[np.argsort(-log_p[ends], kind="stable")[:top]]]
    return paths


def _ends(taxonomy: Taxonomy) -> Int[np.ndarray, "paths"]:
    """The node that ends each path."""
    ends: np.ndarray = taxonomy.trie.routes.max(axis=1)
    return ends


def _ends_in_order(taxonomy: Taxonomy) -> tuple[Int[np.ndarray, "paths"], Int[np.ndarray, "paths"]]:
    """The nodes that end paths, in the order of nodes, and the number of tokens from the root to each."""
    ends = np.flatnonzero(taxonomy.trie.is_end)
    return ends, np.searchsorted(np.array(taxonomy.trie.levels), ends, side="right") - 1
