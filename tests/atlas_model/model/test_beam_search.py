"""The batched beam search, compared with a slow reference (`slow_search`)."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_model.model import decoder as decoder_module
from atlas_model.model.beam_search import DeviceTrie, Normalize, SearchResult, beam_search, stable_topk
from atlas_model.model.decoder import AttentionDecoder
from atlas_model.model.exact_search import exact_search
from atlas_model.taxonomy.tree import END, PAD, START, Taxonomy
from tests.support.slow_search import (
    all_scores,
    equal_scores,
    log_probabilities,
    make_decoder,
    make_indifferent,
    normalizes,
    slow_beam,
    taxonomies,
    watch_steps,
    written,
)

CPU = torch.device("cpu")


def run(
    decoder: AttentionDecoder,
    cells: torch.Tensor,
    taxonomy: Taxonomy,
    *,
    beam: int,
    top: int,
    normalize: Normalize = "vocabulary",
    alpha: float = 0.0,
) -> SearchResult:
    trie = DeviceTrie.of(taxonomy.trie, CPU)
    return beam_search(decoder, cells, trie, beam=beam, top=top, normalize=normalize, length_normalization=alpha)


def answers(found: SearchResult, image: int) -> tuple[list[int], list[float]]:
    """Paths and scores of the ranks that are filled."""
    filled = found.path[image] >= 0
    assert torch.equal(filled, found.log_probability[image] > -torch.inf)
    assert torch.equal(filled, filled.sort(descending=True, stable=True).values), "empty ranks come last"
    return found.path[image][filled].tolist(), found.log_probability[image][filled].tolist()


@pytest.mark.slow
@settings(max_examples=50)
@given(
    taxonomy=taxonomies,
    beam=st.integers(1, 6),
    top=st.integers(1, 6),
    normalize=normalizes,
    alpha=st.sampled_from([0.0, 0.7, 1.0]),
    few_tokens=st.sampled_from([0, 1024]),
    sharpness=st.sampled_from([1.0, 8.0]),
    seed=st.integers(0, 10_000),
)
def test_equals_slow_beam_search(
    taxonomy: Taxonomy,
    beam: int,
    top: int,
    normalize: Normalize,
    alpha: float,
    few_tokens: int,
    sharpness: float,
    seed: int,
) -> None:
    decoder = make_decoder(len(taxonomy.tokens), seed, sharpness)
    cells = torch.randn(2, 4, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            decoder_module, "FEW_TOKENS", few_tokens
        )  # 0: treats the vocabulary as too large to compute all logits
        found = run(decoder, cells, taxonomy, beam=beam, top=top, normalize=normalize, alpha=alpha)
    assert found.path.shape == (2, top)
    sequences = written(taxonomy)
    for image in range(2):
        expected = slow_beam(decoder, cells[image], sequences, beam=beam, normalize=normalize, alpha=alpha)[:top]
        paths, scores = answers(found, image)
        assert paths == [sequences.index(tokens) for _, tokens in expected]
        assert equal_scores(scores, [score for score, _ in expected])
        for rank, (_, tokens) in enumerate(expected):
            assert [token for token in found.tokens[image, rank].tolist() if token != PAD] == tokens


@settings(max_examples=20)
@given(taxonomy=taxonomies, normalize=normalizes, seed=st.integers(0, 10_000))
def test_beam_wider_than_the_taxonomy_is_exact(taxonomy: Taxonomy, normalize: Normalize, seed: int) -> None:
    decoder = make_decoder(len(taxonomy.tokens), seed)
    cells = torch.randn(1, 4, 6)
    found = run(decoder, cells, taxonomy, beam=100, top=len(taxonomy), normalize=normalize)
    paths, scores = answers(found, 0)
    assert sorted(paths) == list(range(len(taxonomy)))
    sequences = written(taxonomy)
    expected = all_scores(decoder, cells[0], sequences, normalize)
    assert equal_scores(scores, [expected[tuple(sequences[path])] for path in paths])


def test_constrained_search_never_predicts_an_invalid_path() -> None:
    taxonomy = Taxonomy([("Men", "Shirts"), ("Women", "Sarees"), ("Women", "Shirts")])
    decoder = make_decoder(len(taxonomy.tokens), seed=1)
    with torch.no_grad():  # biased towards "Men > Sarees" and an immediate END
        decoder.output.bias[taxonomy.tokens.index("Men")] = 50
        decoder.output.bias[taxonomy.tokens.index("Sarees")] = 60
        decoder.output.bias[END] = 70
    cells = torch.randn(16, 4, 6)
    found = run(decoder, cells, taxonomy, beam=5, top=1)
    names = {tuple(row[row > END].tolist()) for row in found.tokens[:, 0]}
    valid = {tuple(row[row > END].tolist()) for row in torch.from_numpy(taxonomy.targets)}
    assert names <= valid
    free = DeviceTrie.unconstrained(len(taxonomy.tokens), taxonomy.depth + 1, CPU)
    freely = beam_search(decoder, cells, free, beam=5, top=1, normalize="vocabulary")
    assert (freely.tokens[:, 0, 0] == END).all(), "the unconstrained search follows the bias"


@settings(max_examples=20)
@given(vocabulary=st.integers(4, 8), steps=st.integers(1, 5), beam=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_unconstrained_search_uses_the_whole_vocabulary(vocabulary: int, steps: int, beam: int, seed: int) -> None:
    decoder = make_decoder(vocabulary, seed)
    cells = torch.randn(1, 4, 6)
    free = DeviceTrie.unconstrained(vocabulary, steps, CPU)
    found = beam_search(decoder, cells, free, beam=beam, top=1, normalize="vocabulary")
    live, ends = [(0.0, [])], []
    for _ in range(steps):
        grown = [
            (score + log_p, [*tokens, token])
            for score, tokens in live
            for token, log_p in log_probabilities(
                decoder, cells[0], tokens, list(range(vocabulary)), "vocabulary"
            ).items()
        ]
        ends += [each for each in grown if each[1][-1] == END]
        live = sorted((each for each in grown if each[1][-1] != END), reverse=True)[:beam]
    score, tokens = max(ends)
    assert found.log_probability.item() == pytest.approx(score, abs=1e-4)
    assert found.tokens[0, 0, : len(tokens)].tolist() == tokens


@settings(max_examples=20)
@given(
    taxonomy=taxonomies,
    normalize=normalizes,
    temperature=st.sampled_from([0.3, 1.0, 4.0]),
    few_tokens=st.sampled_from([0, 1024]),
    seed=st.integers(0, 10_000),
)
def test_temperature_divides_the_logits(
    taxonomy: Taxonomy, normalize: Normalize, temperature: float, few_tokens: int, seed: int
) -> None:
    decoder = make_decoder(len(taxonomy.tokens), seed)
    cells = torch.randn(2, 4, 6)
    trie = DeviceTrie.of(taxonomy.trie, CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_module, "FEW_TOKENS", few_tokens)
        warm = beam_search(decoder, cells, trie, beam=4, top=3, normalize=normalize, temperature=temperature)
        _, warm_nodes = exact_search(decoder, cells, trie, top=3, normalize=normalize, temperature=temperature)
        with torch.no_grad():
            decoder.output.weight.div_(temperature)
            decoder.output.bias.div_(temperature)
        divided = beam_search(decoder, cells, trie, beam=4, top=3, normalize=normalize)
        _, divided_nodes = exact_search(decoder, cells, trie, top=3, normalize=normalize)
    torch.testing.assert_close(warm.log_probability, divided.log_probability, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(warm_nodes, divided_nodes, atol=1e-4, rtol=1e-4)


def test_attention_belongs_to_the_predicted_path() -> None:
    taxonomy = Taxonomy([*itertools.product("AB", "CD", "EF"), ("A",), ("G", "A")])
    decoder = make_decoder(len(taxonomy.tokens), seed=5)
    cells = torch.randn(4, 9, 6)
    found = run(decoder, cells, taxonomy, beam=10, top=len(taxonomy))
    for image, rank in itertools.product(range(4), range(len(taxonomy))):
        tokens = torch.tensor(written(taxonomy)[found.path[image, rank].item()])
        steps = len(tokens)
        forced = torch.cat([torch.tensor([START]), tokens[:-1]])[None]
        with torch.no_grad():
            _, attention = decoder(cells[image, None], forced)
        torch.testing.assert_close(found.attention[image, rank, :steps], attention[0], atol=1e-5, rtol=1e-4)
        assert not found.attention[image, rank, steps:].any()
        assert found.tokens[image, rank, :steps].tolist() == tokens.tolist()


@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
@pytest.mark.parametrize("beam", [1, 2, 3])
def test_ties_prefer_shallower_then_earlier_paths(beam: int, normalize: Normalize) -> None:
    taxonomy = Taxonomy([("D",), ("C",), ("A", "A", "B"), ("A", "A", "A"), ("B", "D"), ("B", "C"), ("A", "B", "A")])
    decoder = make_indifferent(make_decoder(len(taxonomy.tokens), seed=1))
    sequences = written(taxonomy)
    found = run(decoder, torch.randn(3, 4, 6), taxonomy, beam=beam, top=7, normalize=normalize)
    expected = slow_beam(decoder, torch.randn(4, 6), sequences, beam=beam, normalize=normalize)
    for image in range(3):
        assert answers(found, image)[0] == [sequences.index(tokens) for _, tokens in expected]
    assert found.path[0, :2].tolist() == [1, 0], "C before D, both before deeper paths"


def test_length_normalization_favours_deep_paths() -> None:
    taxonomy = Taxonomy([("A",), ("B", "A", "A", "A")])
    decoder = make_indifferent(make_decoder(len(taxonomy.tokens), seed=1))
    cells = torch.randn(1, 4, 6)
    plain = run(decoder, cells, taxonomy, beam=2, top=2)
    assert plain.path.tolist() == [[0, 1]]
    divided = run(decoder, cells, taxonomy, beam=2, top=2, alpha=1.2)
    assert divided.path.tolist() == [[1, 0]]
    assert divided.log_probability.flip(1).equal(plain.log_probability), "probabilities are unchanged"


def test_decodes_only_hypotheses_that_can_still_win(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = watch_steps(monkeypatch)
    taxonomy = Taxonomy(itertools.product("AB", "CDE", "FGHI"))
    run(make_decoder(len(taxonomy.tokens), seed=1), torch.randn(3, 4, 6), taxonomy, beam=5, top=1)
    assert decoded == [(3, 1), (3, 2), (3, 5)], "all hypotheses up to the beam width, and no step for leaves"
    decoded.clear()
    deep = Taxonomy([("A",), *itertools.product("BC", "DE", "FG", "HI")])
    decoder = make_decoder(len(deep.tokens), seed=1)
    with torch.no_grad():
        decoder.output.bias[deep.tokens.index("A")] = 50
    assert run(decoder, torch.randn(3, 4, 6), deep, beam=5, top=1).path.tolist() == [[0]] * 3
    assert decoded == [(3, 1)], "a hypothesis below a finished path can only lose probability"


def test_keeps_hypotheses_that_may_beat_a_finished_path() -> None:
    taxonomy = Taxonomy([("A",), ("B", "C"), ("B", "D")])
    decoder = make_indifferent(make_decoder(len(taxonomy.tokens), seed=1))
    with torch.no_grad():
        decoder.output.bias[[taxonomy.tokens.index(name) for name in "BC"]] += torch.tensor([0.1, 20.0])
    found = run(decoder, torch.randn(2, 4, 6), taxonomy, beam=1, top=1, normalize="children")
    assert found.path.tolist() == [[1]] * 2


def test_probabilities_sum_to_at_most_one() -> None:
    taxonomy = Taxonomy(itertools.product("AB", "CD"))
    found = run(make_decoder(len(taxonomy.tokens), seed=8), torch.randn(1, 4, 6), taxonomy, beam=10, top=4)
    total = float(found.log_probability.exp().sum())
    assert 0 < total <= 1 and math.isfinite(total)
    assert np.all(np.diff(found.log_probability.numpy()) <= 0), "best first"


@given(
    st.lists(st.sampled_from([-0.0, 0.0, -(2.0**-100), -0.5, -1.0, -7.25, -math.inf]), min_size=1), st.integers(1, 9)
)
def test_topk_is_a_stable_sort(scores: list[float], count: int) -> None:
    values, order = stable_topk(torch.tensor([scores]), count)
    expected = sorted(range(len(scores)), key=lambda index: -scores[index])[:count]
    assert order[0].tolist() == expected
    assert values[0].tolist() == [scores[index] for index in expected]
