"""Honest probabilities: how deep a model may answer when it has to be sure.

Knows nothing of pictures or of which model it was: log-probabilities of a trie's nodes in, nodes out.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlas_model.search import DeviceTrie
from atlas_model.taxonomy import CategoryPath, Taxonomy, Trie


@dataclass(frozen=True)
class Descent:
    """The way down the tree that always takes the most probable child; level 0 is the root's children."""

    node: Int[Tensor, "b levels"]  # -1 below a childless node
    probability: Float[Tensor, "b levels"]  # that the right path leads through the node, falling, range [0, 1]

    def stops(self, min_confidence: float) -> Int[Tensor, "b"]:
        """How many levels down the probability is still at least ``min_confidence``."""
        return ((self.probability >= min_confidence) & (self.node >= 0)).sum(dim=1)


def descend(trie: Trie, log_p: Float[Tensor, "b nodes"]) -> Descent:
    """Walk down from the root, always to the most probable child (on ties the first), to a node without any."""
    tree = DeviceTrie.of(trie, log_p.device)
    node = torch.zeros(len(log_p), dtype=torch.long, device=log_p.device)
    nodes, probabilities = [], []
    for width in trie.fan_out:
        edge, valid = tree.edges(node, width)  # (b, f)
        child = tree.child[edge]
        best, choice = log_p.gather(1, child).masked_fill(~valid, -torch.inf).max(dim=1)  # (b,)
        going_on = valid[:, 0] & (node >= 0)
        node = child.gather(1, choice[:, None])[:, 0].where(going_on, -1)
        nodes.append(node)
        probabilities.append(best.exp().where(going_on, 0.0))
    return Descent(torch.stack(nodes, dim=1), torch.stack(probabilities, dim=1))


def deepest_confident(
    taxonomy: Taxonomy, log_p: Float[Tensor, "b nodes"], min_confidence: float
) -> list[tuple[CategoryPath, float]]:
    """For each picture the names down to the deepest level that the model is sure of, and how sure it is.

    The rule: from the root to the most probable child, again and again, as long as that child's probability is at
    least ``min_confidence``. Above .5 no other node that deep or deeper reaches it, so this is the deepest sure
    answer of the whole tree, and asking for more certainty only takes names off its end. It need not be the
    beginning of the most probable path: many improbable leaves make a probable branch together, and then the branch
    is the better answer.

    What a node's probability is: normalised over children, the exact sum of those of all paths through it.
    Normalised over the vocabulary, the probability that the model writes these names, whatever it writes then, so at
    least the sum over the valid paths.

    Args:
        taxonomy: the model's.
        log_p: of each of its trie's nodes, as `Categorizer.exact` gives it.
        min_confidence: range [0, 1].

    Returns:
        Names and probability; no names and 1.0 where not even the first level is sure.
    """
    trie = taxonomy.trie
    descent = descend(trie, log_p)
    answers: list[tuple[CategoryPath, float]] = []
    for row, levels in enumerate(descent.stops(min_confidence).tolist()):
        if not levels:
            answers.append(((), 1.0))
            continue
        node = int(descent.node[row, levels - 1])
        path = int((trie.routes[:, levels] == node).argmax())  # any that leads through it
        # The END that some inner nodes have as a child is a level of the tree, but no name.
        answers.append((taxonomy.paths[path][:levels], float(descent.probability[row, levels - 1])))
    return answers
