"""The batched search against a slow, obvious one that scores one path of one picture at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_model.decoder import AttentionDecoder, State
from atlas_model.search import DeviceTrie, beam_search, free_trie
from atlas_model.taxonomy import END, PAD, START, Taxonomy

CPU = torch.device("cpu")


def make_decoder(vocabulary: int, seed: int, sharpness: float = 8.0) -> AttentionDecoder:
    torch.manual_seed(seed)
    decoder = AttentionDecoder(
        vocabulary, cell_features=6, attention_size=5, embedding_size=4, hidden_size=7, dropout=0.5
    ).eval()
    with torch.no_grad():
        decoder.output.weight.mul_(sharpness)  # random decoders are nearly uniform; a sharp one has favourites
        decoder.embedding.weight.mul_(20)
    return decoder


@torch.no_grad()
def step_log_probabilities(decoder: AttentionDecoder, cells: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """log p of every next token after ``tokens``, for one picture, by walking the decoder from the start."""
    memory, state = decoder.start(cells[None])
    for token in [START, *tokens]:
        logits, state, _ = decoder.step(memory, state, torch.tensor([[token]]))
    return logits[0, 0].log_softmax(-1)


def slow_score(decoder: AttentionDecoder, cells: torch.Tensor, taxonomy: Taxonomy, index: int) -> float:
    """log p of a path: its tokens, and END only where the path could have gone on."""
    path = taxonomy.paths[index]
    tokens = taxonomy.targets[index, : len(path)].tolist()
    goes_on = any(len(other) > len(path) and other[: len(path)] == path for other in taxonomy.paths)
    written = [*tokens, END] if goes_on else tokens
    return sum(
        float(step_log_probabilities(decoder, cells, written[:step])[token]) for step, token in enumerate(written)
    )


def slow_beam(decoder: AttentionDecoder, cells: torch.Tensor, taxonomy: Taxonomy, beam: int) -> list[tuple[float, int]]:
    """Plain lists, one hypothesis at a time, prefixes looked up in the list of paths."""
    written = []
    for index, path in enumerate(taxonomy.paths):
        tokens = taxonomy.targets[index, : len(path)].tolist()
        goes_on = any(len(other) > len(path) and other[: len(path)] == path for other in taxonomy.paths)
        written.append([*tokens, END] if goes_on else tokens)
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    pool: list[tuple[float, int]] = []
    while live:
        grown = []
        for score, tokens in live:
            following = {path[len(tokens)] for path in written if path[: len(tokens)] == tokens and path != tokens}
            log_p = step_log_probabilities(decoder, cells, tokens)
            grown += [(score + float(log_p[token]), [*tokens, token]) for token in following]
        grown = sorted(grown, reverse=True)[:beam]
        pool += [(score, written.index(tokens)) for score, tokens in grown if tokens in written]
        live = [(score, tokens) for score, tokens in grown if tokens not in written]
    return sorted(pool, reverse=True)


names = st.sampled_from(["Men", "Women", "Tops", "Shirts", "Bags", "Shoes"])
taxonomies = st.lists(st.lists(names, min_size=1, max_size=8).map(tuple), min_size=1, max_size=12, unique=True).map(
    Taxonomy
)


def run(decoder: AttentionDecoder, cells: torch.Tensor, taxonomy: Taxonomy, beam: int, top: int):
    trie = DeviceTrie(taxonomy.trie, CPU)
    return beam_search(decoder, cells, trie, beam=beam, top=top, max_steps=taxonomy.depth + 1)


@settings(max_examples=60, deadline=None)
@given(taxonomy=taxonomies, beam=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_agrees_with_the_slow_beam(taxonomy: Taxonomy, beam: int, seed: int) -> None:
    decoder = make_decoder(len(taxonomy.tokens), seed)
    cells = torch.randn(3, 4, 6)
    found = run(decoder, cells, taxonomy, beam, top=beam)
    for picture in range(3):
        expected = slow_beam(decoder, cells[picture], taxonomy, beam)[:beam]
        got = [
            (score, path)
            for score, path in zip(found.log_probability[picture].tolist(), found.path[picture].tolist(), strict=True)
            if path >= 0
        ]
        assert [path for _, path in got] == [path for _, path in expected]
        assert [score for score, _ in got] == pytest.approx([score for score, _ in expected], abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(taxonomy=taxonomies, seed=st.integers(0, 10_000))
def test_a_beam_wider_than_the_taxonomy_is_exact(taxonomy: Taxonomy, seed: int) -> None:
    decoder = make_decoder(len(taxonomy.tokens), seed)
    cells = torch.randn(2, 4, 6)
    found = run(decoder, cells, taxonomy, beam=100, top=len(taxonomy))
    for picture in range(2):
        assert sorted(found.path[picture].tolist()) == list(range(len(taxonomy)))
        scores = dict(zip(found.path[picture].tolist(), found.log_probability[picture].tolist(), strict=True))
        for index in range(len(taxonomy)):
            assert scores[index] == pytest.approx(slow_score(decoder, cells[picture], taxonomy, index), abs=1e-4)


def test_never_writes_an_invalid_path_however_much_the_decoder_wants_to() -> None:
    taxonomy = Taxonomy([("Men", "Shirts"), ("Women", "Sarees"), ("Women", "Shirts")])
    decoder = make_decoder(len(taxonomy.tokens), seed=1)
    with torch.no_grad():  # loves to write "Men > Sarees" and to end at once
        decoder.output.bias[taxonomy.tokens.index("Men")] = 50
        decoder.output.bias[taxonomy.tokens.index("Sarees")] = 60
        decoder.output.bias[END] = 70
    cells = torch.randn(16, 4, 6)
    found = run(decoder, cells, taxonomy, beam=5, top=1)
    written = {tuple(row[row > END].tolist()) for row in found.tokens[:, 0]}
    valid = {tuple(row[row > END].tolist()) for row in torch.from_numpy(taxonomy.targets)}
    assert written <= valid
    free = beam_search(
        decoder, cells, DeviceTrie(free_trie(len(taxonomy.tokens)), CPU), beam=5, top=1, max_steps=taxonomy.depth + 1
    )
    assert (free.tokens[:, 0, 0] == END).all(), "with no mask it writes what it wants"


def test_unconstrained_search_is_a_beam_over_the_whole_vocabulary() -> None:
    vocabulary, steps, beam = 6, 3, 4
    decoder = make_decoder(vocabulary, seed=3)
    cells = torch.randn(1, 4, 6)
    found = beam_search(decoder, cells, DeviceTrie(free_trie(vocabulary), CPU), beam=beam, top=1, max_steps=steps)
    live, pool = [(0.0, [])], []
    for _ in range(steps):
        grown = [
            (score + float(log_p[token]), [*tokens, token])
            for score, tokens in live
            for log_p in [step_log_probabilities(decoder, cells[0], tokens)]
            for token in range(vocabulary)
        ]
        grown = sorted(grown, reverse=True)[:beam]
        pool += [each for each in grown if each[1][-1] == END]
        live = [each for each in grown if each[1][-1] != END]
    score, tokens = max(pool)
    assert found.log_probability.item() == pytest.approx(score, abs=1e-5)
    assert found.tokens[0, 0, : len(tokens)].tolist() == tokens


def test_attention_is_that_of_the_written_path() -> None:
    taxonomy = Taxonomy(itertools.product("AB", "CD", "EF"))
    decoder = make_decoder(len(taxonomy.tokens), seed=5)
    cells = torch.randn(4, 9, 6)
    found = run(decoder, cells, taxonomy, beam=3, top=2)
    for picture, rank in itertools.product(range(4), range(2)):
        target = torch.from_numpy(taxonomy.targets[found.path[picture, rank].item()])
        forced = torch.cat([torch.tensor([START]), target[:2]])[None]
        with torch.no_grad():
            _, attention = decoder(cells[picture, None], forced)
        torch.testing.assert_close(found.attention[picture, rank, :3], attention[0], atol=1e-5, rtol=1e-4)
        assert found.tokens[picture, rank].tolist() == [*target[:3].tolist(), PAD]


def test_ties_go_to_the_path_that_comes_first() -> None:
    taxonomy = Taxonomy([("A",), ("B",), ("C",)])
    decoder = make_decoder(len(taxonomy.tokens), seed=1)
    with torch.no_grad():
        decoder.output.weight.zero_()
        decoder.output.bias.zero_()
    found = run(decoder, torch.randn(2, 4, 6), taxonomy, beam=3, top=3)
    assert found.log_probability.exp().allclose(torch.full((2, 3), 1 / len(taxonomy.tokens)))
    assert sorted(found.path[0].tolist()) == [0, 1, 2]
    assert torch.equal(found.path[0], found.path[1])


def test_teacher_forcing_equals_walking_step_by_step() -> None:
    decoder = make_decoder(9, seed=2)
    cells, tokens = torch.randn(3, 4, 6), torch.randint(3, 9, (3, 5))
    with torch.no_grad():
        logits, attention = decoder(cells, tokens)
        memory, state = decoder.start(cells)
        for step in range(5):
            one, state, looked = decoder.step(memory, state, tokens[:, step, None])
            torch.testing.assert_close(logits[:, step], one[:, 0])
            torch.testing.assert_close(attention[:, step], looked[:, 0])
    assert torch.allclose(attention.sum(-1), torch.ones(3, 5))


def test_states_are_gathered_by_hypothesis() -> None:
    hidden = torch.arange(2 * 3 * 1.0).view(2, 3, 1)
    state = State(hidden, -hidden).at(torch.tensor([[2, 0], [1, 1]]))
    assert state.hidden.squeeze(-1).tolist() == [[2, 0], [4, 4]]
    assert state.cell.squeeze(-1).tolist() == [[-2, 0], [-4, -4]]


def test_probabilities_are_probabilities() -> None:
    taxonomy = Taxonomy(itertools.product("AB", "CD"))
    found = run(make_decoder(len(taxonomy.tokens), seed=8), torch.randn(1, 4, 6), taxonomy, beam=10, top=4)
    total = float(found.log_probability.exp().sum())
    assert 0 < total <= 1 and math.isfinite(total)
    assert np.all(np.diff(found.log_probability.numpy()) <= 0), "best first"
