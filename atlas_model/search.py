"""Beam search over a trie: the most probable category paths, and none that is not in the taxonomy.

Everything is a tensor over pictures x hypotheses: no Python loop over either, only one over levels. The trie is
read in compressed sparse rows, so a step costs the widest node's children, not a mask over the vocabulary.

How paths of different depth compete: a hypothesis that reaches the end of a path leaves the beam for a pool of its
own, so that neither crowds the other out, and the pool's best win by their summed log-probabilities. A path that
ends at an inner node pays for its END token; one that ends at a leaf does not, because there nothing else could
follow.

Knows nothing of pictures or names: feature cells in, indices of paths out.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlas_model.decoder import AttentionDecoder
from atlas_model.taxonomy import END, PAD, START, Trie


@dataclass(frozen=True)
class Found:
    """The ``n`` best paths of each picture, best first. A rank that no path fills has path -1, probability 0."""

    path: Int[Tensor, "b n"]
    log_probability: Float[Tensor, "b n"]
    tokens: Int[Tensor, "b n t"]  # what was written, PAD after the end
    attention: Float[Tensor, "b n t cells"]  # where the decoder looked while writing it

    def _best(self, more: "Found", top: int) -> "Found":
        """The ``top`` best of both; on ties the earlier found."""
        merged = [torch.cat([getattr(self, name), getattr(more, name)], dim=1) for name in self.__dataclass_fields__]
        order = merged[1].sort(dim=1, descending=True, stable=True).indices[:, :top]
        return Found(*(_take(tensor, order) for tensor in merged))


class DeviceTrie:
    """A trie as tensors on the device that searches."""

    def __init__(self, trie: Trie, device: torch.device) -> None:
        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device)

        self.first, self.token, self.child, self.path = map(tensor, (trie.first, trie.token, trie.child, trie.path))
        self.max_children = trie.max_children

    def children(self, node: Int[Tensor, "b k"]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, nodes and validity, each (b, k, max_children), of the edges below each node."""
        offset = torch.arange(self.max_children, device=node.device)
        edge = self.first[node].unsqueeze(-1) + offset  # (b, k, f)
        valid = edge < self.first[node + 1].unsqueeze(-1)
        edge = edge.clamp(max=len(self.token) - 1)  # invalid ones read something; `valid` says not to believe it
        return self.token[edge], self.child[edge], valid


def free_trie(vocabulary: int) -> Trie:
    """The trie that forbids nothing: any token after any token, until END. Searching it is unconstrained."""
    child = np.zeros(vocabulary, dtype=np.int64)
    child[END] = 1
    return Trie(
        first=np.array([0, vocabulary, vocabulary]),
        token=np.arange(vocabulary, dtype=np.int64),
        child=child,
        path=np.array([-1, 0]),
    )


@torch.no_grad()
def beam_search(
    decoder: AttentionDecoder,
    cells: Float[Tensor, "b cells d"],
    trie: DeviceTrie,
    *,
    beam: int,
    top: int,
    max_steps: int,
) -> Found:
    """The ``top`` most probable paths of ``trie`` that a beam finds for each picture.

    Args:
        decoder: in evaluation mode.
        cells: the encoder's output.
        trie: the paths that are allowed.
        beam: hypotheses kept per picture and level.
        top: paths returned per picture, at most ``beam`` different ones a level.
        max_steps: levels of the deepest path, plus one for its END.
    """
    memory, state = decoder.start(cells)
    b, device = cells.shape[0], cells.device
    tokens = torch.full((b, 1), START, device=device)
    node = torch.zeros(b, 1, dtype=torch.long, device=device)
    score = torch.zeros(b, 1, device=device)  # log-probability; -inf: no hypothesis here
    written = torch.full((b, 1, max_steps), PAD, device=device)
    looked = cells.new_zeros(b, 1, max_steps, cells.shape[1])
    found = _nothing_found(written, looked)
    for step in range(max_steps):
        logits, state, attention = decoder.step(memory, state, tokens)
        looked[:, :, step] = attention
        next_token, next_node, valid = trie.children(node)  # (b, k, f)
        gain = logits.log_softmax(dim=-1).gather(2, next_token)
        total = (score.unsqueeze(-1) + gain).masked_fill(~valid, -torch.inf).flatten(1)  # (b, k * f)
        score, choice = total.topk(min(beam, total.shape[1]), dim=1)  # (b, k')
        parent = choice // trie.max_children
        tokens, node = next_token.flatten(1).gather(1, choice), next_node.flatten(1).gather(1, choice)
        state, written, looked = state.at(parent), _take(written, parent), _take(looked, parent)
        written[:, :, step] = tokens
        ended = trie.path[node]
        finished = score.masked_fill(ended < 0, -torch.inf)
        path = ended.masked_fill(finished == -torch.inf, -1)
        found = found._best(Found(path, finished, written.clone(), looked.clone()), top)
        score = score.masked_fill(ended >= 0, -torch.inf)
        if not torch.isfinite(score).any():
            break
    return found


def _nothing_found(written: Tensor, looked: Tensor) -> Found:
    b, _, max_steps, cells = looked.shape
    return Found(
        path=written.new_zeros(b, 0),
        log_probability=looked.new_zeros(b, 0),
        tokens=written.new_zeros(b, 0, max_steps),
        attention=looked.new_zeros(b, 0, max_steps, cells),
    )


def _take(tensor: Tensor, index: Int[Tensor, "b k"]) -> Tensor:
    """``tensor`` (b, k0, ...) at the hypotheses ``index`` of each picture: (b, k, ...)."""
    rest = tensor.shape[2:]
    wide = index.view(*index.shape, *(1 for _ in rest)).expand(*index.shape, *rest)
    return tensor.gather(1, wide)
