"""Pooling images to products, compared with a slow reference; sampling of products."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_model.confidence.products import ProductPool, best_paths, pool_products, ranked_paths, whole_products
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.node_probabilities import images, nodes_of
from tests.support.slow_search import taxonomies

SHOES = Taxonomy([("Bags",), ("Shoes",), ("Shoes", "Boots"), ("Shoes", "Clogs")])


@settings(max_examples=40)
@given(taxonomy=taxonomies, owners=st.lists(st.sampled_from("abc"), min_size=1, max_size=9), seed=st.integers(0, 999))
def test_product_path_maximizes_the_mean_over_its_images(taxonomy: Taxonomy, owners: list[str], seed: int) -> None:
    probabilities = images(taxonomy, len(owners), seed)
    found = pool_products(taxonomy, nodes_of(taxonomy, probabilities), owners)
    assert found.product_ids == list(dict.fromkeys(owners)), "in the order of their first images"
    for place, product in enumerate(found.product_ids):
        rows = [row for row, owner in enumerate(owners) if owner == product]
        mean = sum(probabilities[row] for row in rows) / len(rows)
        assert found.first[place] == rows[0]
        assert found.images[place] == len(rows)
        assert mean[found.path[place]] == pytest.approx(mean.max(), abs=1e-6)
        assert np.exp(found.log_probability[place]) == pytest.approx(mean.max(), abs=1e-5)
        assert np.exp(found.log_p[place]) == pytest.approx(np.exp(nodes_of(taxonomy, mean[None])[0]), abs=1e-5)
        own = {int(probabilities[row].argmax()) for row in rows}
        assert found.disagree[place] == any(path != found.path[place] for path in own)


def test_pooled_branch_may_exceed_confidence_of_each_image() -> None:
    """The two images predict different paths; pooled they give Shoes and are marked as disagreeing."""
    both = np.array([[0.1, 0.0, 0.8, 0.1], [0.1, 0.0, 0.1, 0.8]])
    found = pool_products(SHOES, nodes_of(SHOES, both), ["p", "p"])
    shoes = SHOES.trie.routes[SHOES.index(("Shoes", "Boots")), 1]
    assert np.exp(found.log_p[0, shoes]) == pytest.approx(0.9)
    assert np.exp(found.log_probability[0]) == pytest.approx(0.45)
    assert found.disagree.tolist() == [True]


def test_product_of_one_image_equals_the_image() -> None:
    log_p = nodes_of(SHOES, images(SHOES, 1, 3))
    found = pool_products(SHOES, log_p, ["p"])
    assert np.allclose(np.exp(found.log_p), np.exp(log_p))
    assert found.disagree.tolist() == [False]


def test_pooling_does_not_depend_on_the_batches() -> None:
    log_p = nodes_of(SHOES, images(SHOES, 7, 4))
    whole, parts = ProductPool(SHOES), ProductPool(SHOES)
    whole.add(log_p)
    for part in np.split(log_p, [1, 4]):
        parts.add(part)
    assert np.allclose(whole.log_p, parts.log_p)
    assert (whole.path, whole.disagree, whole.images) == (parts.path, parts.disagree, parts.images)
    assert whole.path == pool_products(SHOES, log_p, ["p"] * 7).path


def test_probability_zero_in_all_images_stays_zero() -> None:
    found = ProductPool(SHOES)
    found.add(nodes_of(SHOES, np.array([[1.0, 0.0, 0.0, 0.0]])))
    assert np.isneginf(found.log_p[SHOES.trie.routes[SHOES.index(("Shoes", "Clogs"))].max()])
    assert SHOES.paths[found.path] == ("Bags",)


def test_ties_prefer_shallower_then_earlier_paths() -> None:
    taxonomy = Taxonomy([("b", "c"), ("b", "a"), ("d",), ("a",)])
    even = nodes_of(taxonomy, np.full((1, 4), 0.25))
    assert [taxonomy.paths[path] for path in ranked_paths(taxonomy, even[0], 9)] == [
        ("a",),
        ("d",),
        ("b", "a"),
        ("b", "c"),
    ]
    assert taxonomy.paths[best_paths(taxonomy, even)[0]] == ("a",)
    assert len(ranked_paths(taxonomy, even[0], 2)) == 2


def test_length_normalization_favours_deep_paths_of_products() -> None:
    taxonomy = Taxonomy([("a",), ("b", "c"), ("b", "d")])
    log_p = nodes_of(taxonomy, np.array([[0.5, 0.4, 0.1]]))
    assert taxonomy.paths[pool_products(taxonomy, log_p, ["p"]).path[0]] == ("a",)
    assert taxonomy.paths[pool_products(taxonomy, log_p, ["p"], 1.0).path[0]] == ("b", "c")
    assert not pool_products(taxonomy, log_p, ["p"], 1.0).disagree[0]


@given(owners=st.lists(st.integers(0, 9).map(str), max_size=40), at_most=st.integers(0, 50), seed=st.integers(0, 9))
def test_sample_contains_whole_products(owners: list[str], at_most: int, seed: int) -> None:
    chosen = whole_products(owners, at_most, seed)
    times = Counter(owners)
    taken = {owner for owner, is_chosen in zip(owners, chosen, strict=True) if is_chosen}
    assert chosen.tolist() == [owner in taken for owner in owners]
    assert chosen.sum() <= max(at_most, max((times[owner] for owner in taken), default=0))
    assert taken or not owners, "at least one"


def test_sample_of_single_image_products_equals_image_sample() -> None:
    chosen = whole_products([str(row) for row in range(30)], 7, 5)
    assert np.flatnonzero(chosen).tolist() == sorted(np.random.default_rng(5).permutation(30)[:7].tolist())
