"""Slow reference searches: one path of one image at a time, with plain lists, decoding from START."""

import math
from collections.abc import Iterable

import pytest
import torch
from hypothesis import strategies as st

from atlas_model.model.beam_search import Normalize
from atlas_model.model.decoder import AttentionDecoder, DecoderMemory, DecoderState
from atlas_model.taxonomy.tree import END, START, Taxonomy

names = st.sampled_from(["Men", "Women", "Tops", "Shirts", "Bags", "Shoes"])
taxonomies = st.lists(st.lists(names, min_size=1, max_size=8).map(tuple), min_size=1, max_size=12, unique=True).map(
    Taxonomy
)
normalizes = st.sampled_from(["vocabulary", "children"])

Scored = tuple[float, list[int]]  # log-probability, written tokens


def make_decoder(vocabulary: int, seed: int, sharpness: float = 8.0) -> AttentionDecoder:
    """A decoder of random weights; every other seed has a deep output."""
    torch.manual_seed(seed)
    decoder = AttentionDecoder(
        vocabulary,
        cell_features=6,
        attention_size=5,
        embedding_size=4,
        hidden_size=7,
        dropout=0.5,
        deep_output=seed % 2 == 0,
    ).eval()
    with torch.no_grad():
        decoder.output.weight.mul_(
            sharpness
        )  # random decoders are nearly uniform; sharpening separates the probabilities
        decoder.embedding.weight.mul_(20)
    return decoder


def make_indifferent(decoder: AttentionDecoder) -> AttentionDecoder:
    """Give all tokens the same logits."""
    with torch.no_grad():
        decoder.output.weight.zero_()
        decoder.output.bias.zero_()
    return decoder


def written(taxonomy: Taxonomy) -> list[list[int]]:
    """The tokens that a decoder writes for each path, with END only where the path has children."""
    sequences = []
    for index, path in enumerate(taxonomy.paths):
        goes_on = any(len(other) > len(path) and other[: len(path)] == path for other in taxonomy.paths)
        tokens = taxonomy.targets[index, : len(path)].tolist()
        sequences.append([*tokens, END] if goes_on else tokens)
    return sequences


def followers(sequences: Iterable[list[int]], prefix: list[int]) -> list[int]:
    """The tokens that may follow ``prefix``, in order."""
    length = len(prefix)
    return sorted({each[length] for each in sequences if len(each) > length and each[:length] == prefix})


@torch.no_grad()
def log_probabilities(
    decoder: AttentionDecoder, cells: torch.Tensor, prefix: list[int], allowed: list[int], normalize: Normalize
) -> dict[int, float]:
    """log p of each allowed token after ``prefix``, for one image."""
    memory, state = decoder.start(cells[None])
    for token in [START, *prefix]:
        state, attention = decoder.step(memory, state, torch.tensor([[token]]))
    logits = decoder.logits(decoder.readout(cells[None], state.hidden, attention))[0, 0]
    if normalize == "children":
        found = dict(zip(allowed, logits[allowed].log_softmax(-1).tolist(), strict=True))
    else:
        found = {token: float(logits.log_softmax(-1)[token]) for token in allowed}
    return found


def all_scores(
    decoder: AttentionDecoder, cells: torch.Tensor, sequences: list[list[int]], normalize: Normalize
) -> dict[tuple[int, ...], float]:
    """log p of every sequence and of all its prefixes."""
    scores: dict[tuple[int, ...], float] = {(): 0.0}
    waiting: list[list[int]] = [[]]
    while waiting:
        prefix = waiting.pop()
        if allowed := followers(sequences, prefix):
            for token, log_p in log_probabilities(decoder, cells, prefix, allowed, normalize).items():
                scores[*prefix, token] = scores[tuple(prefix)] + log_p
                waiting.append([*prefix, token])
    return scores


def ranked(ends: list[Scored], alpha: float) -> list[Scored]:
    """Sort best first; ties keep their order."""
    return sorted(ends, key=lambda end: -end[0] / len(end[1]) ** alpha)


def slow_beam(
    decoder: AttentionDecoder,
    cells: torch.Tensor,
    sequences: list[list[int]],
    *,
    beam: int,
    normalize: Normalize,
    alpha: float = 0.0,
) -> list[Scored]:
    """All finished paths that a beam search scores, best first."""
    live: list[Scored] = [(0.0, [])]
    ends: list[Scored] = []
    while live:
        grown = [
            (score + log_p, [*prefix, token])
            for score, prefix in live
            for token, log_p in log_probabilities(
                decoder, cells, prefix, followers(sequences, prefix), normalize
            ).items()
        ]
        ends += ranked([each for each in grown if each[1] in sequences], 0.0)
        live = ranked([each for each in grown if each[1] not in sequences], 0.0)[:beam]
    return ranked(ends, alpha)


def equal_scores(got: list[float], expected: list[float]) -> bool:
    """Whether scores are equal to single precision over several steps."""
    return len(got) == len(expected) and all(
        math.isclose(one, other, abs_tol=1e-4) for one, other in zip(got, expected, strict=True)
    )


def watch_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A list that records the numbers of images and hypotheses of each later decoder step."""
    decoded: list[tuple[int, int]] = []
    step = AttentionDecoder.step

    def watched(decoder: AttentionDecoder, memory: DecoderMemory, state: DecoderState, tokens: torch.Tensor):
        images, hypotheses = tokens.shape
        decoded.append((images, hypotheses))
        return step(decoder, memory, state, tokens)

    monkeypatch.setattr(AttentionDecoder, "step", watched)
    return decoded
