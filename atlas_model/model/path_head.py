"""A classifier of whole paths inside the sequence model, whose logits are added to the decoder's.

Logits of paths are converted to logits of the trie's edges: the log-sum-exp over the paths below. With a decoder whose
logits are all zero, the model equals this classifier: the probabilities of children, normalised step by step, multiply
to the softmax over paths. So the decoder learns a correction ("Wide & Deep Learning", Cheng et al. 2016, arXiv
1606.07792).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atlas_model.taxonomy.tree import Trie


class PathEdges(nn.Module):
    """Converts logits of paths to logits of the edges of a trie; edge e leads to node e + 1.

    Args:
        trie: of the taxonomy.
    """

    parent: Tensor
    end: Tensor
    path_of_end: Tensor

    def __init__(self, trie: Trie) -> None:
        super().__init__()
        first, path = torch.from_numpy(trie.first), torch.from_numpy(trie.path)
        self._levels = trie.levels
        nodes = torch.arange(len(path))
        self.register_buffer("parent", torch.repeat_interleave(nodes, first.diff()), persistent=False)  # of each edge
        self.register_buffer("end", (path >= 0).nonzero().flatten(), persistent=False)
        self.register_buffer("path_of_end", path[path >= 0], persistent=False)

    def forward(self, scores: Float[Tensor, "b paths"]) -> Float[Tensor, "b edges"]:
        """The log-sum-exp of ``scores`` over the paths below each edge."""
        nodes = scores.new_full((scores.shape[0], len(self.parent) + 1), -torch.inf)
        nodes[:, self.end] = scores[:, self.path_of_end]
        for above, start, stop in reversed(list(zip(self._levels, self._levels[1:], self._levels[2:], strict=False))):
            parent = self.parent[start - 1 : stop - 1] - above  # parent of each node, as an index into its level
            below = nodes[:, start:stop]
            index = parent.expand(scores.shape[0], -1)
            width = start - above
            most = (
                below.detach()
                .new_full((scores.shape[0], width), -torch.inf)
                .scatter_reduce(1, index, below.detach(), "amax")
            )
            total = torch.zeros_like(most).scatter_add(1, index, (below - most.gather(1, index)).exp())
            inner = torch.zeros(width, dtype=torch.bool, device=scores.device).index_fill(0, parent, True)
            summed = nodes.clone()
            summed[:, above:start] = torch.where(inner, most + total.log(), nodes[:, above:start])
            nodes = summed
        return nodes[:, 1:]


class PathHead(nn.Module):
    """One linear layer on the mean and the maximum of an image's cells.

    The mean represents what most of the image shows, the maximum also small details.

    Args:
        features: number of features of a cell.
        trie: of the taxonomy.
        dropout: of the pooled features.
    """

    def __init__(self, features: int, trie: Trie, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.edges = PathEdges(trie)
        self.output = nn.Linear(2 * features, len(self.edges.end))

    def forward(self, cells: Float[Tensor, "b cells d"]) -> Float[Tensor, "b edges"]:
        """Logits of the edges, to be added to the decoder's."""
        edges: Tensor = self.edges(self.scores(cells))
        return edges

    def scores(self, cells: Float[Tensor, "b cells d"]) -> Float[Tensor, "b paths"]:
        """Logits of the paths."""
        # Features of pretrained encoders are small: normalised, they are learnt as fast as the decoder's.
        pooled = torch.cat(
            [nn.functional.layer_norm(each, each.shape[1:]) for each in (cells.mean(dim=1), cells.amax(dim=1))], dim=1
        )  # (b, 2 d)
        scores: Tensor = self.output(self.dropout(pooled))
        return scores.float()
