"""Images that several products show, the same or a near-duplicate, as issues: above all with different labels.

Two images of one product may look alike, so they are no issue.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from atlas_model.split.grouping import near_pairs
from atlas_model.taxonomy.tree import CategoryPath

HASH_BITS = 64
SAME_LABEL = 0.5  # factor of the score of images with the same label


@dataclass(frozen=True)
class ShownImage:
    """An image and the products that show it."""

    image_id: str
    phash: int
    products: Mapping[str, CategoryPath]  # product_id -> category; at least one


@dataclass(frozen=True)
class _Other:
    """The image that another one duplicates."""

    image_id: str
    bits: int  # of the perceptual hash that differ
    other_label: bool

    @property
    def score(self) -> float:
        return (1.0 if self.other_label else SAME_LABEL) * (1 - self.bits / HASH_BITS)

    @property
    def rank(self) -> tuple[float, str]:
        return -self.score, self.image_id


def find_duplicates(
    images: Sequence[ShownImage], distance: int
) -> tuple[list[str], Float[np.ndarray, "m"], list[str | None]]:
    """Find the images that another product shows, too.

    The score is the share of equal bits of the two hashes, times `SAME_LABEL` if the products have the same category.
    An image that several products share duplicates itself.

    Args:
        images: with distinct image_ids.
        distance: maximum number of different bits of near-duplicates.

    Returns:
        The image_id of each duplicate; its score; and the image_id of the other image, the one with the highest score.
    """
    by_hash: defaultdict[int, list[ShownImage]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.image_id):
        by_hash[image.phash].append(image)
    best: dict[str, _Other] = {}
    for bits, hash_, other_hash in _near(sorted(by_hash), distance):
        candidates = _representatives(by_hash[other_hash])
        for image in by_hash[hash_]:
            found = [other for candidate in candidates if (other := _compare(image, candidate, bits))]
            if image.image_id in best:
                found.append(best[image.image_id])
            if found:
                best[image.image_id] = min(found, key=lambda other: other.rank)
    image_ids = sorted(best)
    scores = np.array([best[image_id].score for image_id in image_ids], dtype=np.float64)
    return image_ids, scores, [best[image_id].image_id for image_id in image_ids]


def _near(hashes: Sequence[int], distance: int) -> Iterator[tuple[int, int, int]]:
    """Each ordered pair of near hashes, those of a hash with itself included: different bits, hash, other hash."""
    yield from ((0, each, each) for each in hashes)
    for left, right in near_pairs(np.array(hashes, dtype=np.uint64), distance):
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            bits = (hashes[one] ^ hashes[other]).bit_count()
            yield bits, hashes[one], hashes[other]
            yield bits, hashes[other], hashes[one]


def _representatives(images: Sequence[ShownImage]) -> list[ShownImage]:
    """At most four of ``images``, among which every image finds one of another product, and one of another label.

    So a placeholder of a thousand products is not compared a million times.
    """
    chosen: list[ShownImage] = []
    for keys_of_images in (
        [set[object](image.products) for image in images],
        [set[object](image.products.values()) for image in images],
    ):
        found: set[object] = set()
        for image, keys in zip(images, keys_of_images, strict=True):
            if not keys <= found:
                found |= keys
                chosen.append(image)
            if len(found) > 1:  # one of two differs from any given one
                break
    return chosen


def _compare(image: ShownImage, other: ShownImage, bits: int) -> _Other | None:
    """``other`` as a duplicate of ``image``; None if the same product shows both."""
    if len({*image.products, *other.products}) == 1:
        return None
    labels = {*image.products.values(), *other.products.values()}
    return _Other(other.image_id, bits, other_label=len(labels) > 1)
