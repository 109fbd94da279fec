"""Honest probabilities: the temperature that makes them so, how honest they are, and how deep a sure answer may go.

A model is calibrated if, of the answers that it gives with a probability of 80 %, 80 % are right (Guo et al. 2017,
"On Calibration of Modern Neural Networks", arXiv 1706.04599). Knows nothing of files, or of what is done about it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from atlas_model.model.beam_search import DeviceTrie, next_log_probability
from atlas_model.model.categorizer import Categorizer, Model
from atlas_model.model.evidence import LogitWeights, TitleWeights
from atlas_model.taxonomy.tree import END, START, CategoryPath, Taxonomy, Trie

BINS = 15  # of equal width over [0, 1], as in the paper
MIN_NAMED_TITLES = 30  # titles with a label's word in them that weights are fitted on; with fewer there is one kind
MIN_TEMPERATURE, MAX_TEMPERATURE = (
    0.1,
    10.0,
)  # temperatures that are tried; where all of validation is right, none is too cold
DIGITS = 3  # of a temperature: more than validation can tell, and few enough to be the same in every run


@torch.inference_mode()
def fit_temperature(model: Model, cells: Iterable[Float[Tensor, "_ cells d"]], paths: Int[np.ndarray, "n"]) -> float:
    """The one temperature under which ``model`` finds the right paths of the images most probable.

    It minimises the negative log-likelihood of the right paths, each step given the right ones before it and
    normalised as the model does it: by the chain rule just that of the whole paths. What depends on the images is
    computed once. The likelihood is concave in 1 / temperature, so a search along a line finds the only maximum.
    The order within a step stays; paths may swap places where one step's certainty weighed against another's.

    Args:
        model: trained; its own temperature is not looked at, nor changed.
        cells: what its encoder makes of the images of validation, in batches.
        paths: the right one of each image.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and prediction does without

    if len(model.taxonomy) == 1 or not len(paths):
        return 1.0  # nothing to be wrong about, or nothing to learn it from
    model.eval()
    losses, start = [], 0
    for batch in cells:
        right = torch.from_numpy(paths[start : start + len(batch)]).to(batch.device)
        losses.append(
            _categorizer_loss(model, batch, right)
            if isinstance(model, Categorizer)
            else _scores_loss(model.logits_of_cells(batch), right)
        )
        start += len(batch)

    def loss(log_temperature: float) -> float:
        return sum(float(of_batch(math.exp(-log_temperature))) for of_batch in losses) / len(paths)

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.1**DIGITS / 4})
    return round(math.exp(found.x), DIGITS)


@torch.inference_mode()
def fit_title_weights(
    model: Categorizer, cells: Iterable[Float[Tensor, "_ cells d"]], titles: Sequence[str], paths: Int[np.ndarray, "n"]
) -> TitleWeights:
    """The weights of images and titles under which ``model`` finds the right paths most probable.

    They minimise what `fit_temperature` does. Those of titles without a label's word are fitted on all titles once the
    labels' words are taken out, for most titles have one.

    Args:
        model: trained, and reads titles; its own weights are not looked at, nor changed.
        cells: as of `fit_temperature`.
        titles: of the images.
        paths: the right one of each image.
    """
    head = model.eval().title_head
    assert head is not None, "a model that reads titles"
    if len(model.taxonomy) == 1:
        return TitleWeights()
    named = np.array([head.words.occur_in(title) for title in titles], dtype=np.bool_)
    stripped = [head.words.remove_from(title) for title in titles]
    kinds = {"named": (titles, named), "other": (stripped, np.array(list(map(bool, stripped)), dtype=np.bool_))}
    both: dict[str, list[_Loss]] = {kind: [] for kind in kinds}
    alone: dict[str, list[_Loss]] = {kind: [] for kind in kinds}
    start = 0
    for batch in cells:
        for kind, (kind_titles, chosen) in kinds.items():
            rows = np.flatnonzero(chosen[start : start + len(batch)]) + start
            if len(rows):
                right = torch.from_numpy(paths[rows]).to(batch.device)
                scores = head([kind_titles[row] for row in rows.tolist()])
                both[kind].append(_categorizer_loss(model, batch[torch.from_numpy(rows - start)], right, scores))
                alone[kind].append(_scores_loss(scores, right))
        start += len(batch)
    other = _fitted_weights(both["other"], alone["other"])
    return TitleWeights(
        _fitted_weights(both["named"], alone["named"]) if named.sum() >= MIN_NAMED_TITLES else other, other
    )


def expected_calibration_error(
    confidence: Float[np.ndarray, "n"],
    right: Bool[np.ndarray, "n"],
    weight: Float[np.ndarray, "n"] | Int[np.ndarray, "n"] | None = None,
) -> float:
    """How far confidence and accuracy are apart, mean over the answers' bins of confidence (Guo et al. 2017, eq. 3).

    Args:
        confidence: the probability of each answer, range [0, 1].
        right: whether it was the exact path.
        weight: how often each answer counts; once by default.
    """
    weight = np.ones(len(confidence)) if weight is None else weight
    gap = np.bincount(_bin(confidence), weights=weight * (right - confidence), minlength=BINS)
    return float(np.abs(gap).sum() / weight.sum())


def reliability(confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> list[dict[str, float | int]]:
    """Mean confidence and accuracy of the answers in each bin that has any, for a reliability diagram."""
    bins = _bin(confidence)
    return [
        {
            "confidence": float(confidence[bins == index].mean()),
            "accuracy": float(right[bins == index].mean()),
            "n": int((bins == index).sum()),
        }
        for index in np.unique(bins)
    ]


@dataclass(frozen=True)
class Descent:
    """The way down the tree that always takes the most probable child; the first level is the root's children."""

    node: Int[np.ndarray, "n levels"]  # -1 below a childless node
    probability: Float[np.ndarray, "n levels"]  # that the right path leads through the node, falling, range [0, 1]

    @cached_property
    def depth(self) -> Int[np.ndarray, "n"]:
        """The level of the childless node that the way leads to, from 1."""
        count: np.ndarray = (self.node >= 0).sum(axis=1)
        return count

    @cached_property
    def end_probability(self) -> Float[np.ndarray, "n"]:
        """Of the childless node: of the whole way."""
        found: np.ndarray = self.probability[np.arange(len(self.node)), self.depth - 1]
        return found

    def levels(self, whole: float, shorter: float | None = None) -> Int[np.ndarray, "n"]:
        """How many levels down an answer may go.

        Args:
            whole: least probability of the whole way.
            shorter: else least probability of the deepest node above its end; the same by default.
        """
        shorter = whole if shorter is None else shorter
        prefix = ((self.probability >= shorter) & (self.node >= 0)).sum(axis=1)
        count: np.ndarray = np.where(self.end_probability >= whole, self.depth, np.minimum(prefix, self.depth - 1))
        return count

    def names(self, taxonomy: Taxonomy, row: int, level: int) -> CategoryPath:
        """What stands on the way of ``row`` down to ``level``."""
        if not level:
            return ()
        path = int((taxonomy.trie.routes[:, level] == self.node[row, level - 1]).argmax())  # any through that node
        return taxonomy.paths[path][:level]  # the END that some inner nodes have as a child is a level, but no name


def descend(trie: Trie, log_p: Float[Tensor, "n nodes"]) -> Descent:
    """Walk down from the root, always to the most probable child (on ties the first), to a node without any."""
    tree = DeviceTrie.of(trie, log_p.device)
    node = torch.zeros(len(log_p), dtype=torch.long, device=log_p.device)
    nodes, probabilities = [], []
    for width in trie.fan_out:
        edge, valid = tree.edges(node, width)  # (n, f)
        child = tree.child[edge]
        best, choice = log_p.gather(1, child).masked_fill(~valid, -torch.inf).max(dim=1)  # (n,)
        has_children = valid[:, 0] & (node >= 0)
        node = child.gather(1, choice.unsqueeze(1)).squeeze(1).where(has_children, -1)
        nodes.append(node)
        probabilities.append(best.exp().where(has_children, 0.0))
    return Descent(torch.stack(nodes, dim=1).cpu().numpy(), torch.stack(probabilities, dim=1).cpu().numpy())


def deepest_confident(
    taxonomy: Taxonomy, log_p: Float[Tensor, "n nodes"], min_confidence: float
) -> list[tuple[CategoryPath, float]]:
    """For each image the names down to the deepest level that the model is sure of, and how sure it is.

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
    descent = descend(taxonomy.trie, log_p)
    return [
        (descent.names(taxonomy, row, level), float(descent.probability[row, level - 1]) if level else 1.0)
        for row, level in enumerate(descent.levels(min_confidence).tolist())
    ]


def abstention_curve(
    taxonomy: Taxonomy, actual: Int[np.ndarray, "n"], descent: Descent, thresholds: Sequence[float]
) -> list[dict[str, float | None]]:
    """What it costs and brings to answer as `deepest_confident` does, for each of ``thresholds``.

    Returns:
        ``min_confidence``; ``answered`` (share of images that get a name at all); ``complete`` (that get a whole
        path); ``accuracy`` (of those answered, share whose right path leads through the answer); ``mean_depth``
        (names, over all images); ``coverage_1``, ``coverage_2``, ... (of the images whose right path has so
        many names, the share that gets as many).
    """
    trie = taxonomy.trie
    names_of_path = np.array([len(path) for path in taxonomy.paths])[actual]
    every = np.arange(len(actual))
    rows: list[dict[str, float | None]] = []
    for threshold in thresholds:
        level = descent.levels(threshold)
        node = np.where(level > 0, descent.node[every, level - 1], 0)  # the root where nothing is sure
        names = level - ((node > 0) & (trie.token[node - 1] == END))
        answered = names > 0
        right = trie.routes[actual, level] == node
        row = {
            "min_confidence": threshold,
            "answered": _mean(answered),
            "complete": _mean(trie.is_end[node]),
            "accuracy": _mean(right[answered]),
            "mean_depth": _mean(names),
        }
        for depth in range(1, taxonomy.depth + 1):
            row[f"coverage_{depth}"] = _mean(names[names_of_path >= depth] >= depth)
        rows.append(row)
    return rows


_Loss = Callable[..., Tensor]  # of weights: the sum of -log p of the right paths


def _fitted_weights(both: Sequence[_Loss], alone: Sequence[_Loss]) -> LogitWeights:
    """The best ones for some rows; as they are where there are no rows."""
    from scipy.optimize import minimize

    def fitted(losses: Sequence[_Loss], count: int) -> list[float]:
        if not losses:
            return [1.0] * count
        found = minimize(
            lambda logs: sum(float(loss(*np.exp(logs))) for loss in losses),
            np.zeros(count),
            method="Nelder-Mead",
            bounds=[(math.log(1 / MAX_TEMPERATURE), math.log(1 / MIN_TEMPERATURE))] * count,
            options={"initial_simplex": np.eye(count + 1, count) / 2, "xatol": 0.1**DIGITS, "fatol": 0.01},
        )
        return [round(math.exp(log), DIGITS) for log in found.x]

    image, title = fitted(both, 2)
    return LogitWeights(image, title, *fitted(alone, 1))


def _categorizer_loss(
    model: Categorizer,
    cells: Float[Tensor, "b cells d"],
    paths: Int[Tensor, "b"],
    scores: Float[Tensor, "b paths"] | None = None,
) -> _Loss:
    """As a function of the weights of the images' logits, 1 / temperature, and of the titles', whose are ``scores``."""
    trie = DeviceTrie.of(model.taxonomy.trie, cells.device)
    routes = model.routes[paths]
    node, child = routes[:, :-1], routes[:, 1:]  # (b, t)
    before = trie.token[(node - 1).clamp(min=0)].where(node > 0, START)  # the edge to node n is n - 1
    readout, _ = model.decoder(cells, before)
    writing = child >= 0
    readout, node, child = readout[writing], node[writing], child[writing]  # (n, h), (n,), (n,)
    right = child - 1 - trie.first[node]  # which of its node's edges leads to the child
    edge, valid = trie.edges(node, max(trie.fan_out))  # (n, f)
    row, _ = writing.nonzero(as_tuple=True)
    of_image = None if model.path_head is None else model.path_head(cells)[row].gather(1, edge)  # (n, f)

    def loss(image: float, title: float = 0.0) -> Tensor:
        bias = None if of_image is None else of_image * image
        if scores is not None:
            of_title = model.edges(scores * title)[row].gather(1, edge)
            bias = of_title if bias is None else bias + of_title
        (log_p,) = next_log_probability(
            model.decoder,
            readout.unsqueeze(0),
            trie.token[edge],
            valid,
            normalize=model.architecture.normalize,
            temperature=1 / image,
            bias=None if bias is None else bias[None],
        )
        total: Tensor = -log_p.gather(1, right.unsqueeze(1)).double().sum()
        return total

    return loss


def _scores_loss(scores: Float[Tensor, "b paths"], paths: Int[Tensor, "b"]) -> _Loss:
    """As `_categorizer_loss`, of logits of whole paths."""
    logits = scores.double()

    def loss(weight: float) -> Tensor:
        return nn.functional.cross_entropy(logits * weight, paths, reduction="sum")

    return loss


def _bin(confidence: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    index: np.ndarray = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return index


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
