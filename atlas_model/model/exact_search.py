"""Exact search over a trie: the log-probability of every node, and the most probable paths.

Proceeds level by level. Each inner node is decoded once per image, whatever the number of paths through it. Paths are
compared as in `beam_search`, but none is pruned. Ties are broken in favour of the shallower path, then of the first in
alphabetical order.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from atlas_model.model.beam_search import (
    BeamLevel,
    DeviceTrie,
    FinishedPaths,
    Normalize,
    SearchResult,
    backtrack,
    next_log_probability,
)
from atlas_model.model.decoder import AttentionDecoder, DecoderMemory, DecoderState
from atlas_model.taxonomy.tree import START

FLOATS_AT_ONCE = 2**24  # numbers of one intermediate tensor: 64 MiB


@torch.no_grad()
def exact_search(
    decoder: AttentionDecoder,
    cells: Float[Tensor, "b cells d"],
    trie: DeviceTrie,
    *,
    top: int,
    normalize: Normalize,
    temperature: Float[Tensor, "b"] | float = 1.0,
    length_normalization: float = 0.0,
    bias: Float[Tensor, "b edges"] | None = None,
) -> tuple[SearchResult, Float[Tensor, "b nodes"]]:
    """The ``top`` most probable of all paths, and log p of each node: that the path goes through it.

    With ``normalize="children"`` the probabilities of a node's children sum to that of the node, so those of all paths
    sum to one. Arguments as in `beam_search.beam_search`.
    """
    first = trie.first
    inner_nodes = (first[1:] > first[:-1]).nonzero().squeeze(1)  # nodes to decode
    # Numbers in memory per image: attention of all inner nodes, states of a level.
    kept = len(inner_nodes) * (cells.shape[1] + 2 * decoder.lstm.hidden_size) + len(first)
    parts = [
        _search(
            decoder,
            cells[part],
            trie,
            top=top,
            normalize=normalize,
            temperature=temperature[part].view(-1, 1, 1) if isinstance(temperature, Tensor) else temperature,
            length_normalization=length_normalization,
            bias=None if bias is None else bias[part],
        )
        for part in torch.split(torch.arange(len(cells)), max(1, 4 * FLOATS_AT_ONCE // kept))
    ]
    found, log_probability = zip(*parts, strict=True)
    fields = ([getattr(each, name) for each in found] for name in SearchResult.__dataclass_fields__)
    return SearchResult(*map(torch.cat, fields)), torch.cat(log_probability)


def _search(
    decoder: AttentionDecoder,
    cells: Float[Tensor, "b cells d"],
    trie: DeviceTrie,
    *,
    top: int,
    normalize: Normalize,
    temperature: Float[Tensor, "b 1 1"] | float,
    length_normalization: float,
    bias: Float[Tensor, "b edges"] | None,
) -> tuple[SearchResult, Float[Tensor, "b nodes"]]:
    memory, state = decoder.start(cells)
    b, device = len(cells), cells.device
    log_p = cells.new_zeros(b, len(trie.first) - 1)
    node = torch.zeros(1, dtype=torch.long, device=device)  # inner nodes of the level
    parent, token = node, node + START
    levels, ends = [], [FinishedPaths.empty(b, top, device)]
    for depth, width in enumerate(trie.fan_out):
        states, attentions = [], []
        for part in torch.split(torch.arange(len(node), device=device), _nodes_at_once(decoder, memory, normalize)):
            new, attention = decoder.step(memory, state.at(parent[part].expand(b, -1)), token[part].expand(b, -1))
            states.append(new)
            attentions.append(attention)
            edge, valid = trie.edges(node[part], width)  # (c, f)
            readout = decoder.readout(cells, new.hidden, attention)
            gain = next_log_probability(
                decoder,
                readout,
                trie.token[edge],
                valid,
                normalize=normalize,
                temperature=temperature,
                bias=None if bias is None else bias[:, edge],
            )  # (b, c, f)
            log_p[:, trie.child[edge[valid]]] = (log_p[:, node[part], None] + gain)[:, valid]
        levels.append(
            BeamLevel(token.expand(b, -1), parent.expand(b, -1), log_p[:, node], torch.cat(attentions, dim=1))
        )
        state = DecoderState(
            torch.cat([new.hidden for new in states], dim=1), torch.cat([new.cell for new in states], dim=1)
        )
        edge, valid = trie.edges(node, width)
        slot, _ = valid.nonzero(as_tuple=True)
        edge = edge[valid]  # (e,), all edges of the level, in order
        path = trie.path[edge]
        ending = path >= 0
        at = trie.child[edge[ending]]
        ends.append(
            FinishedPaths(
                log_p[:, at],
                *(each[ending].expand(b, -1) for each in (path, torch.full_like(path, depth), slot, trie.token[edge])),
            )
        )
        node, parent, token = (each[~ending] for each in (trie.child[edge], slot, trie.token[edge]))
    found = backtrack(levels, FinishedPaths.concatenate(ends).best(top, length_normalization), len(trie.fan_out))
    return found, log_p


def _nodes_at_once(decoder: AttentionDecoder, memory: DecoderMemory, normalize: Normalize) -> int:
    b, cells, a = memory.projected.shape
    widest = max(cells * a, decoder.output.out_features if normalize == "vocabulary" else 0)
    return max(1, FLOATS_AT_ONCE // (b * widest))
