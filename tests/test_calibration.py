"""How deep a model may answer: known trees, and a slow walk over random ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_model.calibration import deepest_confident
from atlas_model.exact_search import exact_search
from atlas_model.search import DeviceTrie
from atlas_model.taxonomy import Taxonomy
from tests.slow_search import make_decoder, taxonomies

CPU = torch.device("cpu")
MANY_LEAVES = Taxonomy([("Bags",), ("Shoes",), ("Shoes", "Boots"), ("Shoes", "Clogs"), ("Shoes", "Pumps")])


def log_p(taxonomy: Taxonomy, probabilities: dict[tuple[str, ...], float]) -> torch.Tensor:
    """Of the nodes, from the probabilities of the paths."""
    found = torch.zeros(1, len(taxonomy.trie.path))
    for path, probability in probabilities.items():
        route = taxonomy.trie.routes[taxonomy.index(path)]
        found[0, [0, *route[route >= 0]]] += probability
    return found.log()


@pytest.mark.parametrize(
    ("min_confidence", "names", "probability"),
    [
        (0.65, (), 1.0),
        (0.59, ("Shoes",), 0.6),
        (0.31, ("Shoes",), 0.6),
        (0.29, ("Shoes", "Boots"), 0.3),
        (0.0, ("Shoes", "Boots"), 0.3),
    ],
)
def test_a_sure_branch_beats_the_most_probable_path(
    min_confidence: float, names: tuple[str, ...], probability: float
) -> None:
    given = {("Bags",): 0.4, ("Shoes",): 0.1, ("Shoes", "Boots"): 0.3, ("Shoes", "Clogs"): 0.2, ("Shoes", "Pumps"): 0.0}
    ((got, p),) = deepest_confident(MANY_LEAVES, log_p(MANY_LEAVES, given), min_confidence)
    assert (got, p) == (names, pytest.approx(probability, abs=1e-6))


def test_an_inner_node_may_be_where_the_path_ends() -> None:
    given = {("Bags",): 0.1, ("Shoes",): 0.8, ("Shoes", "Boots"): 0.1}
    sure, unsure = (deepest_confident(MANY_LEAVES, log_p(MANY_LEAVES, given), at)[0] for at in (0.75, 0.85))
    assert sure == (("Shoes",), pytest.approx(0.8)), "the END below it is no name"
    assert unsure == (("Shoes",), pytest.approx(0.9))


@settings(max_examples=40)
@given(taxonomy=taxonomies, min_confidence=st.floats(0, 0.99), seed=st.integers(0, 10_000))
def test_above_one_half_it_is_the_deepest_sure_answer_of_the_whole_tree(
    taxonomy: Taxonomy, min_confidence: float, seed: int
) -> None:
    decoder = make_decoder(len(taxonomy.tokens), seed, sharpness=30.0)
    _, log_p = exact_search(
        decoder, torch.randn(4, 4, 6), DeviceTrie.of(taxonomy.trie, CPU), top=1, normalize="children"
    )
    ends = log_p[:, taxonomy.trie.routes.max(axis=1)].exp().tolist()  # of the paths
    for row, (names, probability) in enumerate(deepest_confident(taxonomy, log_p, min_confidence)):
        of_prefix: dict[tuple[str, ...], float] = {(): 0.0}
        for path, p in zip(taxonomy.paths, ends[row], strict=True):
            for depth in range(len(path) + 1):
                of_prefix[path[:depth]] = of_prefix.get(path[:depth], 0.0) + p
        assert min_confidence <= probability <= of_prefix[names] + 1e-5
        if min_confidence > 0.5:
            assert names == max((each for each in of_prefix if of_prefix[each] >= min_confidence), key=len)
