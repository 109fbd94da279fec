"""Exact search, compared with one path at a time (`slow_search`), and properties of probabilities over a tree."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_model.model import decoder as decoder_module
from atlas_model.model import exact_search as exact_module
from atlas_model.model.beam_search import DeviceTrie, Normalize, beam_search
from atlas_model.model.exact_search import exact_search
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.slow_search import (
    all_scores,
    equal_scores,
    make_decoder,
    make_indifferent,
    normalizes,
    ranked,
    taxonomies,
    watch_steps,
    written,
)

CPU = torch.device("cpu")


@settings(max_examples=25)
@given(
    taxonomy=taxonomies,
    top=st.integers(1, 15),
    normalize=normalizes,
    alpha=st.sampled_from([0.0, 1.0]),
    floats=st.sampled_from([1, 100, 2**24]),
    few_tokens=st.sampled_from([0, 1024]),
    seed=st.integers(0, 10_000),
)
def test_equals_scoring_one_path_at_a_time(
    taxonomy: Taxonomy, top: int, normalize: Normalize, alpha: float, floats: int, few_tokens: int, seed: int
) -> None:
    decoder = make_decoder(len(taxonomy.tokens), seed)
    cells = torch.randn(2, 4, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_module, "FEW_TOKENS", few_tokens)
        patch.setattr(exact_module, "FLOATS_AT_ONCE", floats)  # 1: one node of one image at a time
        found, log_p = exact_search(
            decoder,
            cells,
            DeviceTrie.of(taxonomy.trie, CPU),
            top=top,
            normalize=normalize,
            length_normalization=alpha,
        )
    sequences = written(taxonomy)
    for image in range(2):
        scores = all_scores(decoder, cells[image], sequences, normalize)
        every = [(scores[tuple(tokens)], tokens) for tokens in sequences]
        expected = ranked(every, alpha)[:top]
        assert [path for path in found.path[image].tolist() if path >= 0] == [
            sequences.index(tokens) for _, tokens in expected
        ]
        count = len(expected)
        assert equal_scores(found.log_probability[image, :count].tolist(), [score for score, _ in expected])
        assert (found.log_probability[image, count:] == -torch.inf).all()
        for rank, (_, tokens) in enumerate(expected):
            so_far = [scores[tuple(tokens[:step])] for step in range(1, len(tokens) + 1)]
            assert equal_scores(found.prefix_log_probability[image, rank, : len(tokens)].tolist(), so_far)
            assert not found.prefix_log_probability[image, rank, len(tokens) :].any()
        of_nodes = {
            int(node): scores[tuple(sequences[index][:step])]
            for index, route in enumerate(taxonomy.trie.routes)
            for step, node in enumerate(route[route >= 0])
        }
        assert equal_scores(log_p[image].tolist(), [score for _, score in sorted(of_nodes.items())])


@settings(max_examples=40)
@given(taxonomy=taxonomies, seed=st.integers(0, 10_000))
def test_child_probabilities_sum_to_that_of_their_parent(taxonomy: Taxonomy, seed: int) -> None:
    trie = taxonomy.trie
    decoder = make_decoder(len(taxonomy.tokens), seed)
    _, log_p = exact_search(decoder, torch.randn(2, 4, 6), DeviceTrie.of(trie, CPU), top=1, normalize="children")
    torch.testing.assert_close(log_p[:, trie.is_end].logsumexp(1), torch.zeros(2), atol=1e-5, rtol=0)
    for node in range(len(trie.path)):
        children = log_p[:, trie.first[node] + 1 : trie.first[node + 1] + 1]
        if children.shape[1]:
            torch.testing.assert_close(children.logsumexp(1), log_p[:, node], atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@given(taxonomy=taxonomies, normalize=normalizes, seed=st.integers(0, 10_000))
def test_equals_beam_search_with_an_unlimited_beam(taxonomy: Taxonomy, normalize: Normalize, seed: int) -> None:
    decoder, trie = make_decoder(len(taxonomy.tokens), seed), DeviceTrie.of(taxonomy.trie, CPU)
    cells = torch.randn(3, 4, 6)
    found, _ = exact_search(decoder, cells, trie, top=5, normalize=normalize)
    beamed = beam_search(decoder, cells, trie, beam=1000, top=5, normalize=normalize)
    for name in ("path", "tokens", "log_probability", "prefix_log_probability", "attention"):
        torch.testing.assert_close(getattr(found, name), getattr(beamed, name), atol=1e-4, rtol=1e-4)


def test_decodes_each_inner_node_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = watch_steps(monkeypatch)
    monkeypatch.setattr(exact_module, "FLOATS_AT_ONCE", 100)
    taxonomy = Taxonomy([("A",), *itertools.product("ABC", "DEF", "GHIJ")])
    decoder = make_decoder(len(taxonomy.tokens), seed=1)
    found, _ = exact_search(
        decoder, torch.randn(2, 4, 6), DeviceTrie.of(taxonomy.trie, CPU), top=40, normalize="children"
    )
    assert sum(images * nodes for images, nodes in decoded) == 2 * (1 + 3 + 9)
    assert len(decoded) > 6, "several chunks"
    assert sorted(found.path[1].tolist()) == [-1, -1, -1, *range(37)]


def test_ties_prefer_shallower_then_earlier_paths() -> None:
    taxonomy = Taxonomy([("D",), ("C",), ("B", "D"), ("B", "C")])
    decoder = make_indifferent(make_decoder(len(taxonomy.tokens), seed=1))
    found, _ = exact_search(
        decoder, torch.randn(2, 4, 6), DeviceTrie.of(taxonomy.trie, CPU), top=4, normalize="vocabulary"
    )
    assert found.path.tolist() == [[1, 0, 3, 2]] * 2
