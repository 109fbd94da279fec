"""Groups products that share images or have near-duplicate images, and so must be in the same split.

Images are compared by 64-bit hashes (`images.perceptual_hash`); two are near-duplicates if at most `distance` bits
differ. Works on indices of products and images.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int, UInt64


def near_pairs(
    hashes: UInt64[np.ndarray, "n"], distance: int
) -> Iterator[tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]]:
    """Yield the indices of all pairs of ``hashes`` (which are distinct) with at most ``distance`` different bits.

    By the pigeonhole principle, such a pair is equal in at least one of ``distance + 1`` blocks of bits. So only hashes
    that are equal in a block are compared; sorted by the block, they are adjacent. A block consists of every
    (distance + 1)-th bit, because adjacent frequencies of an image are correlated.

    Yields:
        Two arrays of indices, one pair per position. Each pair is yielded once. Memory is linear in n.
    """
    blocks = [sum(1 << bit for bit in range(block, 64, distance + 1)) for block in range(distance + 1)]
    masks = np.array(blocks, dtype=np.uint64)
    for number, mask in enumerate(masks):
        order = np.argsort(hashes & mask, kind="stable")
        ordered = hashes[order]
        block = ordered & mask
        left = np.arange(len(hashes))
        step = 0
        while True:  # compare each with the one `step` positions later, while some are equal in the block
            step += 1
            left = left[left < len(hashes) - step]
            left = left[block[left] == block[left + step]]
            if not len(left):
                break
            different = ordered[left] ^ ordered[left + step]
            near = np.bitwise_count(different) <= distance
            for earlier in masks[:number]:  # the pair was yielded for that block
                near &= (different & earlier) != 0
            if near.any():
                yield order[left[near]], order[left[near] + step]


def near_any(hashes: UInt64[np.ndarray, "n"], marked: Bool[np.ndarray, "n"], distance: int) -> Bool[np.ndarray, "n"]:
    """Whether each of ``hashes`` (duplicates allowed) is within ``distance`` of a marked one, itself included."""
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
    """Group products by their images.

    First, products that share an image, directly or through other products, form a group. The smallest product of a
    group is its key, and the first image of that product is its key image. Then, in the order of their keys, a group
    is merged into the first earlier one whose key image is a near-duplicate of one of its images. This step is not
    transitive: no group is merged into one that was merged itself, so that a chain of small differences does not
    connect everything.

    Args:
        product: of each ref; ascending.
        image: of each ref, as an index of ``hashes``; a product's first image comes first.
        hashes: one per image.
        distance: maximum number of different bits of near-duplicates.

    Returns:
        For each product the key of its group.
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
    leader_with = np.full(len(distinct), no_leader)  # by hash: the unmerged group whose key image has it
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
    """For each product the smallest one that it shares images with, directly or indirectly (union-find)."""
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
    """Near-duplicates of each hash, itself included, in compressed sparse rows: the rows' starts, and the columns."""
    itself = np.arange(len(distinct))
    pairs = list(near_pairs(distinct, distance))
    left = np.concatenate([itself, *(half for pair in pairs for half in pair)])
    right = np.concatenate([itself, *(half for one, other in pairs for half in (other, one))])
    order = np.argsort(left, kind="stable")
    first = np.searchsorted(left[order], np.arange(len(distinct) + 1))
    return first, right[order]
