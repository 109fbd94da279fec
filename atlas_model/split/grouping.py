"""Which products must not be separated: they share an image, or show nearly the same one.

Images are compared by 64-bit hashes (`images.perceptual_hash`); two are near-duplicates where at most `distance`
bits differ. Works on indices; knows nothing of splits, labels or files.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int, UInt64


def near_pairs(
    hashes: UInt64[np.ndarray, "n"], distance: int
) -> Iterator[tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]]:
    """Yield the indices of all pairs of ``hashes`` (which are distinct) with at most ``distance`` different bits.

    The pigeonhole principle: of ``distance + 1`` blocks of bits, such a pair has one in which it agrees. So only
    hashes that agree in a block are compared: sorted by the block, they are neighbours. The blocks take every
    (distance + 1)-th bit, because neighbouring frequencies of an image say much the same.

    Yields:
        Two arrays, one pair per place, each pair once in all; memory stays linear in n.
    """
    blocks = [sum(1 << bit for bit in range(block, 64, distance + 1)) for block in range(distance + 1)]
    masks = np.array(blocks, dtype=np.uint64)
    for number, mask in enumerate(masks):
        order = np.argsort(hashes & mask, kind="stable")
        ordered = hashes[order]
        block = ordered & mask
        left = np.arange(len(hashes))
        step = 0
        while True:  # compare each with the one `step` places on, as long as some still agree in the block
            step += 1
            left = left[left < len(hashes) - step]
            left = left[block[left] == block[left + step]]
            if not len(left):
                break
            different = ordered[left] ^ ordered[left + step]
            near = np.bitwise_count(different) <= distance
            for earlier in masks[:number]:  # the pair came up there
                near &= (different & earlier) != 0
            if near.any():
                yield order[left[near]], order[left[near] + step]


def near_any(hashes: UInt64[np.ndarray, "n"], marked: Bool[np.ndarray, "n"], distance: int) -> Bool[np.ndarray, "n"]:
    """Which of ``hashes`` (repeats allowed) lie within ``distance`` of a marked one; marked ones do."""
    distinct, index = np.unique(hashes, return_inverse=True)
    is_marked = np.zeros(len(distinct), dtype=bool)
    is_marked[index[marked]] = True
    near = is_marked.copy()
    for left, right in near_pairs(distinct, distance):
        near[left] |= is_marked[right]
        near[right] |= is_marked[left]
    return np.asarray(near[index])


def group_products(
    product: Int[np.ndarray, "refs"],
    image: Int[np.ndarray, "refs"],
    hashes: UInt64[np.ndarray, "images"],
    distance: int,
) -> dict[int, int]:
    """Group products by the images that they show.

    Products that share an image are one group, and so are those that share one with these, and so on. Then, in
    the order of the groups' smallest products, a group joins the first earlier one that has a near-duplicate of
    one of its images as its key image: the first image of its smallest product. That is not transitive:
    a group that has joined attracts no other, so that no chain of small differences connects everything.

    Args:
        product: the refs' products; ascending.
        image: the refs' images, as indices of ``hashes``; the product's first image comes first.
        hashes: one per image.
        distance: at most so many different bits make a near-duplicate.

    Returns:
        For each product the smallest product of its group, its key.
    """
    key_of = _smallest_connected(product, image)
    distinct, hash_of = np.unique(hashes, return_inverse=True)
    first_neighbour, neighbours = _neighbours(distinct, distance)

    key_hash: dict[int, int] = {}
    hashes_of: dict[int, set[int]] = {}  # by group
    for one_product, one_image in zip(product.tolist(), image.tolist(), strict=True):
        key = key_of[one_product]
        its_hash = int(hash_of[one_image])
        key_hash.setdefault(key, its_hash)  # the key is the group's smallest product, so it comes first
        hashes_of.setdefault(key, set()).add(its_hash)

    no_leader = np.iinfo(np.int64).max
    leader_with = np.full(len(distinct), no_leader)  # by hash: the group that has it as key image and joined none
    leader_of: dict[int, int] = {}
    for key in sorted(hashes_of):
        near = [neighbours[first_neighbour[h] : first_neighbour[h + 1]] for h in hashes_of[key]]
        leader = int(leader_with[np.concatenate(near)].min())
        if leader == no_leader:
            leader = key
            leader_with[key_hash[key]] = key
        leader_of[key] = leader
    return {one_product: leader_of[key] for one_product, key in key_of.items()}


def _smallest_connected(product: Int[np.ndarray, "refs"], image: Int[np.ndarray, "refs"]) -> dict[int, int]:
    """For each product the smallest one that it shares images with, directly or through others (union-find)."""
    parent = {one_product: one_product for one_product in product.tolist()}

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    shown_by: dict[int, int] = {}
    for one_product, one_image in zip(product.tolist(), image.tolist(), strict=True):
        one, other = root(one_product), root(shown_by.setdefault(one_image, one_product))
        parent[max(one, other)] = min(one, other)
    return {one_product: root(one_product) for one_product in parent}


def _neighbours(
    distinct: UInt64[np.ndarray, "n"], distance: int
) -> tuple[Int[np.ndarray, "n+1"], Int[np.ndarray, "edges"]]:
    """Near-duplicates of each hash, itself included, as compressed sparse rows: where a row starts, and the rows."""
    itself = np.arange(len(distinct))
    pairs = list(near_pairs(distinct, distance))
    left = np.concatenate([itself, *(half for pair in pairs for half in pair)])
    right = np.concatenate([itself, *(half for one, other in pairs for half in (other, one))])
    order = np.argsort(left, kind="stable")
    first = np.searchsorted(left[order], np.arange(len(distinct) + 1))
    return first, right[order]
