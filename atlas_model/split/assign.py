"""Assigns each image of each product to train, val or test, or discards it with a reason.

An image is discarded, by the first rule that applies, if
 1. it was not fetched (reason: the fetch's status), or the stage zoom does not keep it (reason: that of the stage);
 2. the taxonomy has changed, and its product's category was split or removed: ``category_split``,
    ``category_removed``; or the category is not in the taxonomy: ``not_in_taxonomy``;
 3. products of different categories show it: ``label_conflict``, for all of them;
 4. too many products show it, or a near-duplicate of it: ``shared_image``. Size charts and placeholders carry no
    information about a product, and would connect a whole category;
 5. an earlier product or position has it: ``duplicate``; each image is stored once;
 6. its category has too few products, and rare categories are dropped: ``rare_category``.
All products of a group (`grouping`) go to one split. That is train if one of their categories is rare and rare
categories are for train. Else, if hints are respected and there are any, it is the most protected split among them
(test, then val, then train). Else a seeded hash of the group's key decides. So a product keeps its split when the
catalogue grows, unless a new product becomes the key of its group. Finally, an image is discarded if
 7. it has a near-duplicate in a more protected split: ``near_duplicate_of_test`` (or ``_val``).

Works on ids and perceptual hashes. `leaks` checks the result independently.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from atlas_model.core.errors import InputError
from atlas_model.split.grouping import group_products, near_any
from atlas_model.split.names import SPLIT_NAMES, SPLITS, parse_split
from atlas_model.taxonomy.tree import CategoryPath

MAX_PRODUCTS = 10  # default of max_products_per_image
MAX_LISTED = 5  # names in a message


@dataclass(frozen=True)
class SplitProduct:
    """The properties of a product that determine its split."""

    product_id: str
    category: CategoryPath
    split_hint: str | None = None
    fault: str = ""  # why no image of the product can be used


@dataclass(frozen=True)
class ImageRef:
    """An image of a product; sort by (product_id, position)."""

    product_id: str
    image_id: str | None  # None unless status is ok
    status: str


@dataclass(frozen=True)
class ImageScore:
    """The result of the stage zoom for an image."""

    keep: bool
    reason: str
    phash: int | None


def split_refs(
    refs: Sequence[ImageRef],
    products: Mapping[str, SplitProduct],
    scores: Mapping[str, ImageScore],
    *,
    allowed: Container[CategoryPath],
    val_share: float,
    test_share: float,
    min_products: int,
    rare: Literal["drop", "train"],
    near_duplicate_distance: int,
    respect_hint: bool,
    seed: int,
    max_products_per_image: int = MAX_PRODUCTS,
) -> list[str]:
    """Assign every ref to a split or discard it.

    Args:
        refs: sorted by (product_id, position).
        products: by product_id; contains the products of all refs.
        scores: by image_id; contains all images that were fetched.
        allowed: the taxonomy's paths.
        val_share: expected share of the groups.
        test_share: likewise.
        min_products: a category with fewer products that still have an image is rare.
        rare: what to do with rare categories.
        near_duplicate_distance: in bits of the perceptual hash.
        respect_hint: whether the products' split hints are used.
        seed: of the hash that assigns groups.
        max_products_per_image: images of more products are discarded.

    Returns:
        For each ref one of SPLITS, or the reason why it is discarded.

    Raises:
        InputError: hints are respected, and one is not the name of a split.
    """
    hint_of = _hints(products.values()) if respect_hint else {}
    outcomes: list[str | None] = [_unusable_reason(ref, products, scores, allowed) for ref in refs]
    _discard_conflicts(refs, products, outcomes)
    _discard_shared(refs, scores, outcomes, max_products_per_image, near_duplicate_distance)
    _discard_repeats(refs, outcomes)
    rare_categories = _rare_categories(refs, products, outcomes, min_products)
    if rare == "drop":
        for index, ref in enumerate(refs):
            if outcomes[index] in (None, "duplicate") and products[ref.product_id].category in rare_categories:
                outcomes[index] = "rare_category"

    key_of = _group(refs, scores, outcomes, near_duplicate_distance)
    members: defaultdict[str, list[SplitProduct]] = defaultdict(list)
    for product_id, key in key_of.items():
        members[key].append(products[product_id])
    split_of = {}
    for key, group in members.items():
        hints = {hint_of[product.product_id] for product in group if product.product_id in hint_of}
        if any(product.category in rare_categories for product in group):
            split_of[key] = "train"
        elif hints:
            split_of[key] = max(hints, key=SPLITS.index)
        else:
            split_of[key] = assign_split(key, val_share=val_share, test_share=test_share, seed=seed)
    for index in _remaining(outcomes):
        outcomes[index] = split_of[key_of[refs[index].product_id]]
    _discard_near_duplicates(refs, scores, outcomes, near_duplicate_distance)
    return [str(outcome) for outcome in outcomes]


def _hints(products: Iterable[SplitProduct]) -> dict[str, str]:
    """The split of each product that has a hint, by product_id; an empty string is no hint."""
    hinted = [(product.product_id, product.split_hint or "") for product in products]
    named = {product_id: parse_split(hint) for product_id, hint in hinted if hint.strip()}
    unknown = Counter(hint for product_id, hint in hinted if product_id in named and named[product_id] is None)
    if unknown:
        listed = ", ".join(f"{hint!r} ({count} products)" for hint, count in unknown.most_common(MAX_LISTED))
        more = ", ..." * (len(unknown) > MAX_LISTED)
        usual = "; ".join(f"{split}: {', '.join(names)}" for split, names in SPLIT_NAMES.items())
        raise InputError(
            f"split.respect_hint: expected names of splits ({usual}), got {listed}{more}. "
            "Rename them, leave them empty for products without a hint, or set split.respect_hint: false"
        )
    return {product_id: split for product_id, split in named.items() if split is not None}


def assign_split(key: str, *, val_share: float, test_share: float, seed: int) -> str:
    """Choose the split of the group named ``key`` by a hash of it and of ``seed``, as a number in [0, 1)."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=seed.to_bytes(8, "big")).digest()
    drawn = int.from_bytes(digest, "big") / 2**64
    if drawn < test_share:
        return "test"
    return "val" if drawn < test_share + val_share else "train"


def _unusable_reason(
    ref: ImageRef,
    products: Mapping[str, SplitProduct],
    scores: Mapping[str, ImageScore],
    allowed: Container[CategoryPath],
) -> str | None:
    if ref.image_id is None:
        return ref.status
    if not scores[ref.image_id].keep:
        return scores[ref.image_id].reason
    product = products[ref.product_id]
    return product.fault or (None if product.category in allowed else "not_in_taxonomy")


def _remaining(outcomes: Sequence[str | None]) -> list[int]:
    return [index for index, outcome in enumerate(outcomes) if outcome is None]


def _discard_conflicts(
    refs: Sequence[ImageRef], products: Mapping[str, SplitProduct], outcomes: list[str | None]
) -> None:
    categories: defaultdict[str | None, set[CategoryPath]] = defaultdict(set)
    for index in _remaining(outcomes):
        categories[refs[index].image_id].add(products[refs[index].product_id].category)
    for index in _remaining(outcomes):
        if len(categories[refs[index].image_id]) > 1:
            outcomes[index] = "label_conflict"


def _discard_shared(
    refs: Sequence[ImageRef], scores: Mapping[str, ImageScore], outcomes: list[str | None], most: int, distance: int
) -> None:
    shown_by: defaultdict[str, set[str]] = defaultdict(set)
    for ref in refs:
        if ref.image_id is not None and scores[ref.image_id].keep:
            shown_by[ref.image_id].add(ref.product_id)
    shared = {image_id for image_id, its_products in shown_by.items() if len(its_products) > most}
    if not shared:
        return
    image_ids = sorted(shown_by)
    marked = np.array([image_id in shared for image_id in image_ids], dtype=bool)
    near = near_any(_hashes(image_ids, scores), marked, distance)
    discarded = {image_id for image_id, is_near in zip(image_ids, near.tolist(), strict=True) if is_near}
    for index in _remaining(outcomes):
        if refs[index].image_id in discarded:
            outcomes[index] = "shared_image"


def _discard_repeats(refs: Sequence[ImageRef], outcomes: list[str | None]) -> None:
    met: set[str | None] = set()
    for index in _remaining(outcomes):
        if refs[index].image_id in met:
            outcomes[index] = "duplicate"
        met.add(refs[index].image_id)


def _rare_categories(
    refs: Sequence[ImageRef], products: Mapping[str, SplitProduct], outcomes: Sequence[str | None], min_products: int
) -> set[CategoryPath]:
    with_image = {refs[index].product_id for index in _remaining(outcomes)}
    counts = Counter(products[product_id].category for product_id in with_image)
    return {category for category, count in counts.items() if count < min_products}


def _group(
    refs: Sequence[ImageRef], scores: Mapping[str, ImageScore], outcomes: Sequence[str | None], distance: int
) -> dict[str, str]:
    """For each product with an image that is not discarded, or is a duplicate: the product_id of its group's key."""
    showing = [ref for ref, outcome in zip(refs, outcomes, strict=True) if outcome in (None, "duplicate")]
    product_ids = sorted({ref.product_id for ref in showing})
    image_ids = sorted({ref.image_id for ref in showing if ref.image_id is not None})
    product_index = {product_id: index for index, product_id in enumerate(product_ids)}
    image_index = {image_id: index for index, image_id in enumerate(image_ids)}
    group_of = group_products(
        product=np.array([product_index[ref.product_id] for ref in showing], dtype=np.int64),
        image=np.array([image_index[str(ref.image_id)] for ref in showing], dtype=np.int64),
        hashes=_hashes(image_ids, scores),
        distance=distance,
    )
    return {product_ids[product]: product_ids[key] for product, key in group_of.items()}


def _discard_near_duplicates(
    refs: Sequence[ImageRef], scores: Mapping[str, ImageScore], outcomes: list[str | None], distance: int
) -> None:
    for guarded in ("test", "val"):
        lesser = SPLITS[: SPLITS.index(guarded)]
        stored = [index for index, outcome in enumerate(outcomes) if outcome in (guarded, *lesser)]
        hashes = _hashes((str(refs[index].image_id) for index in stored), scores)
        in_guarded = np.array([outcomes[index] == guarded for index in stored], dtype=bool)
        near = near_any(hashes, in_guarded, distance)
        for index in np.array(stored, dtype=np.int64)[near & ~in_guarded].tolist():
            outcomes[index] = f"near_duplicate_of_{guarded}"


def _hashes(image_ids: Iterable[str], scores: Mapping[str, ImageScore]) -> np.ndarray:
    return np.array([scores[image_id].phash for image_id in image_ids], dtype=np.uint64)
