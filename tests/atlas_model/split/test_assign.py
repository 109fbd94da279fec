"""The rules of splitting, one test each, and the detection of leaks."""

import random
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_model.core.errors import InputError
from atlas_model.split.assign import ImageRef, ImageScore, SplitProduct, assign_split, split_refs
from atlas_model.split.leaks import count_near_duplicate_leaks, count_product_leaks
from atlas_model.split.names import SPLITS

SHIRT, SHOE, BAG = ("Clothing", "Shirt"), ("Footwear", "Shoe"), ("Bags", "Bag")


def far(number: int) -> int:
    """Perceptual hashes that are not near-duplicates of each other."""
    return random.Random(number).getrandbits(64)


class Catalogue:
    """Products added one by one, then split."""

    def __init__(self) -> None:
        self.products: dict[str, SplitProduct] = {}
        self.refs: list[ImageRef] = []
        self.scores: dict[str, ImageScore] = {}

    def add(self, product_id: str, *images: str | ImageRef, category: tuple[str, ...] = SHIRT, hint: str | None = None):
        self.products[product_id] = SplitProduct(product_id, category, hint)
        for image in images:
            ref = image if isinstance(image, ImageRef) else ImageRef(product_id, image, "ok")
            self.refs.append(ref)
            if ref.image_id is not None:
                self.scores.setdefault(ref.image_id, ImageScore(True, "normal", far(len(self.scores))))
        return self

    def fill(self, count: int, category: tuple[str, ...] = SHIRT) -> "Catalogue":
        for number in range(count):
            name = f"{category[-1]}-{number:05d}"
            self.add(name, f"{name}.jpg", category=category)
        return self

    def score(self, image_id: str, keep: bool = True, reason: str = "normal", phash: int = 0) -> "Catalogue":
        self.scores[image_id] = ImageScore(keep, reason, phash)
        return self

    def split(self, **changes: Any) -> dict[tuple[str, str | None], str]:
        """(product_id, image_id) -> outcome."""
        options: dict[str, Any] = {
            "allowed": {SHIRT, SHOE, BAG},
            "val_share": 0.15,
            "test_share": 0.15,
            "min_products": 1,
            "rare": "drop",
            "near_duplicate_distance": 2,
            "respect_hint": False,
            "seed": 1,
        }
        refs = sorted(self.refs, key=lambda ref: ref.product_id)
        outcomes = split_refs(refs, self.products, self.scores, **(options | changes))
        return {(ref.product_id, ref.image_id): outcome for ref, outcome in zip(refs, outcomes, strict=True)}


def product_in(split: str, seed: int = 1, start: str = "p") -> str:
    """A product id whose hash assigns it to ``split``."""
    names = (f"{start}{number}" for number in range(1000))
    return next(name for name in names if assign_split(name, val_share=0.15, test_share=0.15, seed=seed) == split)


def test_shares_are_close_to_params_and_depend_on_the_seed() -> None:
    one, other = (Catalogue().fill(4000).split(seed=seed) for seed in (1, 2))
    counts = Counter(one.values())
    assert counts["val"] / 4000 == pytest.approx(0.15, abs=0.02)
    assert counts["test"] / 4000 == pytest.approx(0.15, abs=0.02)
    assert one != other


def test_products_keep_their_split_when_the_catalogue_grows() -> None:
    before = Catalogue().fill(300).split()
    after = Catalogue().fill(900).fill(300, SHOE).split()
    assert all(after[key] == outcome for key, outcome in before.items())


def test_larger_test_share_only_adds_to_the_test_split() -> None:
    small, large = (Catalogue().fill(500).split(test_share=share) for share in (0.1, 0.2))
    assert all(large[key] == "test" for key, outcome in small.items() if outcome == "test")


def test_products_with_a_shared_image_stay_together() -> None:
    catalogue = Catalogue().fill(50)
    for number in range(49):
        catalogue.add(f"Shirt-{number:05d}", "shared.jpg")
    outcomes = catalogue.split(max_products_per_image=49)
    connected = {outcomes[f"Shirt-{number:05d}", f"Shirt-{number:05d}.jpg"] for number in range(49)}
    assert len(connected) == 1
    shared = Counter(outcome for (_, image_id), outcome in outcomes.items() if image_id == "shared.jpg")
    assert shared == {connected.pop(): 1, "duplicate": 48}


def test_widely_shared_image_is_dropped_and_groups_nothing() -> None:
    catalogue = Catalogue().fill(60).fill(60, SHOE)
    for number in range(60):
        catalogue.add(f"Shirt-{number:05d}", "chart.jpg")
    for number in range(3):  # the same chart, recompressed
        catalogue.add(f"Shirt-{number:05d}", "chart-again.jpg")
    catalogue.score("chart.jpg", phash=0b1).score("chart-again.jpg", phash=0b111)
    outcomes = catalogue.split()
    assert Counter(outcomes.values())["shared_image"] == 63
    without = Catalogue().fill(60).fill(60, SHOE).split()
    assert {key: outcome for key, outcome in outcomes.items() if "chart" not in str(key[1])} == without
    assert "shared_image" not in catalogue.split(max_products_per_image=60).values()


def test_shared_images_count_products_of_all_categories() -> None:
    catalogue = Catalogue().fill(8)
    for number in range(8):
        catalogue.add(f"Shirt-{number:05d}", "chart.jpg", "both.jpg")
        catalogue.add(f"Toy-{number}", "chart.jpg", category=("Toys",))  # not in the taxonomy
        catalogue.add(f"Shoe-{number}", "both.jpg", category=SHOE)
    outcomes = catalogue.split()
    assert outcomes["Shirt-00000", "chart.jpg"] == "shared_image"
    assert outcomes["Shirt-00000", "both.jpg"] == outcomes["Shoe-0", "both.jpg"] == "label_conflict"


def test_near_duplicates_follow_the_key_image_of_a_product() -> None:
    test, train = product_in("test", start="a"), product_in("train", start="b")
    catalogue = Catalogue().add(test, "x").add(train, "y").score("x", phash=0b0).score("y", phash=0b11)
    assert set(catalogue.split().values()) == {"test"}
    assert set(catalogue.split(near_duplicate_distance=1).values()) == {"test", "train"}


@pytest.mark.parametrize(("guarded", "lesser"), [("test", "train"), ("test", "val"), ("val", "train")])
def test_drops_near_duplicates_of_val_and_test_images(guarded: str, lesser: str) -> None:
    one, other = product_in(guarded, start="a"), product_in(lesser, start="b")
    # The key images are far apart: only the second ones are alike.
    catalogue = Catalogue().add(one, "a1", "a2").add(other, "b1", "b2").score("a2", phash=7).score("b2", phash=6)
    outcomes = catalogue.split()
    assert outcomes[one, "a2"] == guarded
    assert outcomes[other, "b1"] == lesser
    assert outcomes[other, "b2"] == f"near_duplicate_of_{guarded}"


def test_reports_a_reason_for_each_dropped_image() -> None:
    gone = ImageRef("a", None, "http_404")
    catalogue = Catalogue().add("a", "close", "broken", gone, "fine").add("b", "other", category=("Toys",))
    catalogue.score("close", keep=False, reason="zoomed").score("broken", keep=False, reason="unreadable")
    outcomes = catalogue.split()
    assert outcomes.pop(("a", "fine")) in SPLITS
    assert outcomes == {
        ("a", "close"): "zoomed",
        ("a", "broken"): "unreadable",
        ("a", None): "http_404",
        ("b", "other"): "not_in_taxonomy",
    }


def test_image_with_two_labels_is_dropped_and_groups_nothing() -> None:
    shirt, shoe = product_in("test", start="a"), product_in("train", start="b")
    catalogue = Catalogue().add(shirt, "placeholder", "a").add(shoe, "placeholder", "b", category=SHOE)
    outcomes = catalogue.split()
    assert outcomes == {
        (shirt, "placeholder"): "label_conflict",
        (shoe, "placeholder"): "label_conflict",
        (shirt, "a"): "test",
        (shoe, "b"): "train",
    }


def test_rare_categories_are_dropped_or_used_for_training() -> None:
    catalogue = Catalogue().fill(20).fill(9, SHOE).fill(10, BAG)
    dropped = catalogue.split(min_products=10)
    assert {outcome for (product, _), outcome in dropped.items() if product.startswith("Shoe")} == {"rare_category"}
    assert {outcome for (product, _), outcome in dropped.items() if product.startswith("Bag")} <= set(SPLITS)
    trained = catalogue.split(min_products=10, rare="train", test_share=0.9, val_share=0.05)
    assert {outcome for (product, _), outcome in trained.items() if product.startswith("Shoe")} == {"train"}


def test_rarity_counts_products_with_remaining_images() -> None:
    catalogue = Catalogue().fill(10)
    for number in range(10, 20):
        catalogue.add(f"Shirt-{number}", ImageRef(f"Shirt-{number}", None, "timeout"))
    assert set(catalogue.split(min_products=11).values()) == {"rare_category", "timeout"}


def test_split_hints_apply_only_if_respected_and_test_wins() -> None:
    train = product_in("train")
    catalogue = Catalogue().add(train, "x", hint="val").add("z", "x", "y", hint="test").add("q", "q", hint=" ")
    assert catalogue.split()[train, "x"] == "train"
    respected = catalogue.split(respect_hint=True)
    assert respected[train, "x"] == respected["z", "y"] == "test"
    assert respected["q", "q"] == assign_split("q", val_share=0.15, test_share=0.15, seed=1)


def test_accepts_common_names_of_splits() -> None:
    names = {
        "train": ["train", "TRAIN", " Training ", "restval"],
        "val": ["val", "Valid", "validation", "dev"],
        "test": ["test", "TESTING"],
    }
    catalogue = Catalogue()
    for split, its_names in names.items():
        for number, name in enumerate(its_names):
            catalogue.add(f"{split}-{number}", f"{split}-{number}.jpg", hint=name)
    assert all(product.startswith(split) for (product, _), split in catalogue.split(respect_hint=True).items())


def test_refuses_unknown_split_names_if_hints_are_respected() -> None:
    catalogue = Catalogue().fill(3).add("q", "q", hint="holdout").add("r", "r", hint="holdout").add("s", "s", hint="7")
    assert set(catalogue.split().values()) <= set(SPLITS)
    with pytest.raises(
        InputError, match=r"expected names of splits .*got 'holdout' \(2 products\), '7' \(1 products\)"
    ):
        catalogue.split(respect_hint=True)


products = st.lists(
    st.tuples(
        st.lists(st.integers(0, 30), min_size=1, max_size=3),  # images
        st.sampled_from([SHIRT, SHOE, BAG]),
    ),
    max_size=40,
)
close_hashes = st.lists(st.integers(0, 255), min_size=31, max_size=31)


@settings(deadline=None)
@given(products, close_hashes, st.integers(0, 3), st.sampled_from(["drop", "train"]), st.integers(0, 100))
def test_any_catalogue_is_split_without_leaks_and_completely(
    products: list[tuple[list[int], tuple[str, ...]]], hashes: list[int], distance: int, rare: str, seed: int
) -> None:
    catalogue = Catalogue()
    for number, (images, category) in enumerate(products):
        catalogue.add(f"p{number:02d}", *dict.fromkeys(map(str, images)), category=category)
    for number, phash in enumerate(hashes):
        catalogue.score(str(number), phash=phash)
    outcomes = catalogue.split(
        near_duplicate_distance=distance, rare=rare, seed=seed, min_products=3, val_share=0.3, test_share=0.3
    )
    assert len(outcomes) == len(catalogue.refs)
    stored = [(product, str(image), outcome) for (product, image), outcome in outcomes.items() if outcome in SPLITS]
    assert len({image for _, image, _ in stored}) == len(stored)
    for one, other in combinations(stored, 2):
        if one[2] != other[2]:
            assert one[0] != other[0]
            assert (hashes[int(one[1])] ^ hashes[int(other[1])]).bit_count() > distance
    splits = [split for *_, split in stored]
    assert count_product_leaks([product for product, *_ in stored], splits) == 0
    kept_hashes = np.array([hashes[int(image)] for _, image, _ in stored], dtype=np.uint64)
    assert count_near_duplicate_leaks(kept_hashes, splits, distance) == 0


def test_detects_leaks() -> None:
    assert count_product_leaks(["a", "a", "b", "b", "c"], ["train", "train", "train", "test", "val"]) == 1
    hashes = np.array([0b0, 0b1, 0b11, 0b111], dtype=np.uint64)
    assert count_near_duplicate_leaks(hashes, ["train", "test", "test", "val"], 1) == 2
    assert count_near_duplicate_leaks(hashes, ["train", "test", "test", "val"], 0) == 0
    assert count_near_duplicate_leaks(hashes, ["train"] * 4, 64) == 0
