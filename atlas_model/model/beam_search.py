"""Beam search constrained to a trie: the most probable category paths of the taxonomy.

All tensors are over images x hypotheses; the only Python loop is over levels. The trie is in compressed sparse rows, so
a step costs as much as the level's widest node, not a mask over the vocabulary. Tokens and attention of a hypothesis
are not copied at each step: each level is stored once, with pointers to parents, and the best paths are backtracked at
the end.

Paths of different depth are compared by log-probability. Finished paths are collected apart from the beam, which holds
unfinished hypotheses only, so neither displaces the other. A path that ends at an inner node includes the probability
of its END token; a path that ends at a leaf has none. Probabilities only decrease from step to step, so a hypothesis is
dropped if it is no better than the worst of ``top`` finished paths. With ``length_normalization`` alpha,
log-probabilities are divided by (number of tokens) ** alpha before finished paths are compared, which favours deep
paths (a simple form of the length penalty of Wu et al. 2016, arXiv 1609.08144, eq. 14). The returned probabilities are
not normalised.

Ties are broken in favour of the shallower path, then of the better parent, then of the earlier token (tokens are in
alphabetical order), so the result does not depend on the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from atlas_model.model.decoder import AttentionDecoder
from atlas_model.taxonomy.tree import END, PAD, START, Trie

Normalize = Literal["vocabulary", "children"]  # the tokens over which a step's probabilities sum to one


@dataclass(frozen=True)
class SearchResult:
    """The ``n`` best paths of each image, best first. If there are fewer, the rest have path -1, probability 0."""

    path: Int[Tensor, "b n"]
    log_probability: Float[Tensor, "b n"]
    tokens: Int[Tensor, "b n t"]  # of the path, PAD after its end
    prefix_log_probability: Float[Tensor, "b n t"]  # log-probability of the tokens up to each; 0 after the end
    attention: Float[Tensor, "b n t cells"]  # of the decoder at each token; 0 after the end


@dataclass(frozen=True)
class DeviceTrie:
    """A trie as tensors on the search's device. An edge either ends a path or leads to an inner node."""

    first: Int[Tensor, "nodes1"]  # node n has the edges first[n]:first[n + 1]
    token: Int[Tensor, "edges"]
    child: Int[Tensor, "edges"]
    path: Int[Tensor, "edges"]  # index of the path that the edge ends, or -1
    fan_out: tuple[int, ...]  # number of edges of each level's widest node

    @classmethod
    def of(cls, trie: Trie, device: torch.device) -> "DeviceTrie":
        """Copy the trie of a taxonomy to ``device``."""
        arrays = (trie.first, trie.token, np.arange(1, len(trie.path)), trie.path[1:])
        first, token, child, path = (torch.from_numpy(array).to(device) for array in arrays)
        return cls(first, token, child, path, trie.fan_out)

    @classmethod
    def unconstrained(cls, vocabulary: int, steps: int, device: torch.device) -> "DeviceTrie":
        """A trie for unconstrained search: any token may follow any token, until END."""
        path = torch.full((vocabulary,), -1, device=device)
        path[END] = 0
        return cls(
            first=torch.tensor([0, vocabulary], device=device),
            token=torch.arange(vocabulary, device=device),
            child=torch.zeros_like(path),
            path=path,
            fan_out=(vocabulary,) * steps,
        )

    def edges(self, node: Int[Tensor, "n"], width: int) -> tuple[Int[Tensor, "n f"], Bool[Tensor, "n f"]]:
        """The edges of each node, padded to ``width``, and a mask of the valid ones."""
        edge = self.first[node].unsqueeze(-1) + torch.arange(width, device=node.device)  # (n, f)
        valid = edge < self.first[node + 1].unsqueeze(-1)
        return edge.clamp(max=len(self.token) - 1), valid  # invalid ones have any index in range


@dataclass(frozen=True)
class BeamLevel:
    """The hypotheses of a level, for backtracking."""

    token: Int[Tensor, "b k"]  # last token
    parent: Int[Tensor, "b k"]  # index of the parent hypothesis in the level above
    score: Float[Tensor, "b k"]  # log-probability
    attention: Float[Tensor, "b k cells"]  # of the next step


@dataclass(frozen=True)
class FinishedPaths:
    """Finished paths of a search."""

    log_probability: Float[Tensor, "b m"]  # -inf: empty slot
    path: Int[Tensor, "b m"]
    level: Int[Tensor, "b m"]  # of the hypothesis that it extends
    slot: Int[Tensor, "b m"]  # index of that hypothesis in its level
    token: Int[Tensor, "b m"]  # last token

    @classmethod
    def empty(cls, b: int, top: int, device: torch.device) -> "FinishedPaths":
        """``top`` empty slots."""
        zeros = torch.zeros(b, top, dtype=torch.long, device=device)
        return cls(torch.full((b, top), -torch.inf, device=device), zeros, zeros, zeros, zeros)

    @classmethod
    def concatenate(cls, parts: Sequence["FinishedPaths"]) -> "FinishedPaths":
        """Concatenate ``parts``."""
        return cls(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in cls.__dataclass_fields__))

    def best(self, top: int, length_normalization: float) -> "FinishedPaths":
        """The ``top`` best, best first."""
        rank = self.log_probability / (self.level + 1) ** length_normalization
        _, order = stable_topk(rank, top)
        chosen = FinishedPaths(*(getattr(self, name).gather(1, order) for name in self.__dataclass_fields__))
        nothing = chosen.log_probability == -torch.inf
        return replace(chosen, path=chosen.path.masked_fill(nothing, -1), level=chosen.level.masked_fill(nothing, -1))


@torch.no_grad()
def beam_search(
    decoder: AttentionDecoder,
    cells: Float[Tensor, "b cells d"],
    trie: DeviceTrie,
    *,
    beam: int,
    top: int,
    normalize: Normalize,
    temperature: Float[Tensor, "b"] | float = 1.0,
    length_normalization: float = 0.0,
    bias: Float[Tensor, "b edges"] | None = None,
) -> SearchResult:
    """Search the ``top`` most probable paths of ``trie`` for each image.

    Args:
        decoder: in evaluation mode.
        cells: the encoder's output.
        trie: the allowed paths.
        beam: hypotheses kept per image and level.
        top: paths returned per image.
        normalize: as in training.
        temperature: the decoder's logits are divided by it (`calibration`).
        length_normalization: alpha; 0 compares log-probabilities.
        bias: added to the logits of the trie's edges after that (`evidence`).
    """
    memory, state = decoder.start(cells)
    b, device = len(cells), cells.device
    token = torch.full((b, 1), START, device=device)
    node = parent = torch.zeros_like(token)
    score = torch.zeros(b, 1, device=device)  # log-probability; -inf: empty slot
    levels: list[BeamLevel] = []
    ends = FinishedPaths.empty(b, top, device)
    for depth, width in enumerate(trie.fan_out):
        state, attention = decoder.step(memory, state, token)
        levels.append(BeamLevel(token, parent, score, attention))
        edge, valid = trie.edges(node.flatten(), width)  # (b * k, f)
        gain = next_log_probability(
            decoder,
            decoder.readout(cells, state.hidden, attention).flatten(0, 1)[None],
            trie.token[edge],
            valid,
            normalize=normalize,
            temperature=_repeat_temperature(temperature, node.shape[1]),
            bias=None if bias is None else bias.gather(1, edge.view(b, -1)).view(1, *edge.shape),
        )
        total = (score.unsqueeze(-1) + gain.view(b, -1, width)).flatten(1)  # (b, k * f)
        edge = edge.view(b, -1)  # (b, k * f)
        ending = trie.path[edge] >= 0
        ended, choice = stable_topk(total.masked_fill(~ending, -torch.inf), top)
        chosen = edge.gather(1, choice)
        more = FinishedPaths(
            ended, trie.path[chosen], torch.full_like(choice, depth), choice // width, trie.token[chosen]
        )
        ends = FinishedPaths.concatenate([ends, more])
        score, choice = stable_topk(total.masked_fill(ending, -torch.inf), beam)
        if not length_normalization:
            enough = ends.log_probability.topk(top).values[:, -1:]
            score = score.masked_fill(score <= enough, -torch.inf)
        alive = int((score > -torch.inf).sum(dim=1).max())
        if not alive:
            break
        score, choice = score[:, :alive], choice[:, :alive]  # best first: no image has more
        parent = choice // width
        chosen = edge.gather(1, choice)
        token, node, state = trie.token[chosen], trie.child[chosen], state.at(parent)
    return backtrack(levels, ends.best(top, length_normalization), len(trie.fan_out))


def next_log_probability(
    decoder: AttentionDecoder,
    readout: Float[Tensor, "b n h"],
    tokens: Int[Tensor, "n f"],
    valid: Bool[Tensor, "n f"],
    *,
    normalize: Normalize,
    temperature: Float[Tensor, "_ _ _"] | float,
    bias: Float[Tensor, "b n f"] | None = None,
) -> Float[Tensor, "b n f"]:
    """The log-probability of each of ``tokens`` as the next one; -inf if not ``valid``.

    With ``normalize="children"``, ``bias`` is added to the logits after dividing them by ``temperature``.
    """
    if normalize == "children":
        logits = decoder.logits_of(readout, tokens, valid) / temperature
        if bias is not None:
            logits = (logits + bias).masked_fill(~valid, -torch.inf)  # -inf divided by infinity is NaN
        found = logits.log_softmax(dim=-1)
    else:
        logits = decoder.logits(readout) / temperature  # (b, n, v)
        found = logits.gather(2, tokens.expand(len(readout), -1, -1)) - logits.logsumexp(dim=-1, keepdim=True)
    return found.masked_fill(~valid, -torch.inf)  # also if none is valid: the softmax is NaN then


def _repeat_temperature(temperature: Float[Tensor, "b"] | float, count: int) -> Float[Tensor, "1 n 1"] | float:
    if isinstance(temperature, Tensor):
        return temperature.repeat_interleave(count).view(1, -1, 1)
    return temperature


def backtrack(levels: Sequence[BeamLevel], ends: FinishedPaths, steps: int) -> SearchResult:
    """Follow parents from ``ends`` to the root: tokens, their log-probabilities, attention."""
    b, n = ends.path.shape
    cells = levels[0].attention.shape[-1]
    tokens = torch.full((b, n, steps), PAD, device=ends.path.device)
    attention = levels[0].attention.new_zeros(b, n, steps, cells)
    prefix = ends.log_probability.new_zeros(b, n, steps)
    token, slot, score = ends.token, ends.slot, ends.log_probability
    for depth in reversed(range(len(levels))):
        level, on = levels[depth], ends.level >= depth
        tokens[:, :, depth] = token.where(on, PAD)
        prefix[:, :, depth] = score.where(on, 0.0)
        at = slot.where(on, 0)  # a path that ends above points into another level
        attention[:, :, depth] = level.attention.gather(1, at.unsqueeze(-1).expand(-1, -1, cells)) * on.unsqueeze(-1)
        token, slot, score = (
            above.gather(1, at).where(on, now)
            for above, now in ((level.token, token), (level.parent, slot), (level.score, score))
        )
    return SearchResult(ends.path, ends.log_probability, tokens, prefix, attention)


def stable_topk(scores: Float[Tensor, "b m"], count: int) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"]]:
    """The ``count`` largest scores (or all), best first, and their indices; ties by index, unlike `torch.topk`.

    Args:
        scores: at most 0, in single precision.
        count: maximum number of results.
    """
    # As unique integers: the bits of non-negative floats have the floats' order.
    bits = (0.0 - scores).view(torch.int32).long()
    unique = (bits << 32) + torch.arange(scores.shape[1], device=scores.device)
    order = unique.topk(min(count, scores.shape[1]), dim=1, largest=False).indices
    return scores.gather(1, order), order
