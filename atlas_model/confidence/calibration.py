"""Calibration: fitting the temperature, measuring calibration, and cutting predictions at a minimum confidence.

A model is calibrated if 80 % of the predictions that it makes with a probability of 80 % are right (Guo et al. 2017,
"On Calibration of Modern Neural Networks", arXiv 1706.04599).
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
MIN_NAMED_TITLES = 30  # with fewer titles that have a label's word, these get no weights of their own
MIN_TEMPERATURE, MAX_TEMPERATURE = (
    0.1,
    10.0,
)  # bounds; if all of validation is right, the optimum is 0
DIGITS = 3  # of a temperature: more than validation can determine, and few enough to be reproducible


@torch.inference_mode()
def fit_temperature(model: Model, cells: Iterable[Float[Tensor, "_ cells d"]], paths: Int[np.ndarray, "n"]) -> float:
    """Fit the temperature that minimises the negative log-likelihood of the right paths.

    The likelihood is a product over steps, each given the right previous tokens and normalised as in the model; by the
    chain rule it is that of whole paths. Decoder states are computed once. The likelihood is concave in 1 /
    temperature, so a line search finds the only maximum. The temperature does not change the ranking within a step, but
    it can change the ranking of paths.

    Args:
        model: trained; its own temperature is neither used nor changed.
        cells: the encoder's output for the validation images, in batches.
        paths: the right one of each image.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and prediction does not need it

    if len(model.taxonomy) == 1 or not len(paths):
        return 1.0  # always right, or no data
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
    """Fit the weights of the logits of images and titles.

    They minimise the same loss as `fit_temperature`. The weights for titles without a label's word are fitted on all
    titles after removing these words, because most titles have one.

    Args:
        model: trained, with a title head; its own weights are neither used nor changed.
        cells: as in `fit_temperature`.
        titles: of the images.
        paths: the right one of each image.
    """
    head = model.eval().title_head
    assert head is not None, "a model with a title head"
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
    """Expected calibration error: mean difference of confidence and accuracy over bins (Guo et al. 2017, eq. 3).

    Args:
        confidence: probability of each prediction, range [0, 1].
        right: whether it is the exact path.
        weight: of each prediction; 1 by default.
    """
    weight = np.ones(len(confidence)) if weight is None else weight
    gap = np.bincount(_bin(confidence), weights=weight * (right - confidence), minlength=BINS)
    return float(np.abs(gap).sum() / weight.sum())


def reliability(confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> list[dict[str, float | int]]:
    """Mean confidence and accuracy of the predictions in each non-empty bin, for a reliability diagram."""
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
    """The greedy descent of the tree, always to the most probable child; the first level is the root's children."""

    node: Int[np.ndarray, "n levels"]  # -1 below a leaf
    probability: Float[np.ndarray, "n levels"]  # that the right path goes through the node; decreasing, range [0, 1]

    @cached_property
    def depth(self) -> Int[np.ndarray, "n"]:
        """The level of the leaf that the descent ends at, from 1."""
        count: np.ndarray = (self.node >= 0).sum(axis=1)
        return count

    @cached_property
    def end_probability(self) -> Float[np.ndarray, "n"]:
        """Probability of the leaf, which is that of the whole path."""
        found: np.ndarray = self.probability[np.arange(len(self.node)), self.depth - 1]
        return found

    def levels(self, whole: float, shorter: float | None = None) -> Int[np.ndarray, "n"]:
        """The number of levels to predict: all, or down to the deepest node with enough probability.

        Args:
            whole: minimum probability of a whole path.
            shorter: minimum probability of a node above the leaf; by default the same.
        """
        shorter = whole if shorter is None else shorter
        prefix = ((self.probability >= shorter) & (self.node >= 0)).sum(axis=1)
        count: np.ndarray = np.where(self.end_probability >= whole, self.depth, np.minimum(prefix, self.depth - 1))
        return count

    def names(self, taxonomy: Taxonomy, row: int, level: int) -> CategoryPath:
        """The names on the descent of ``row`` down to ``level``."""
        if not level:
            return ()
        path = int((taxonomy.trie.routes[:, level] == self.node[row, level - 1]).argmax())  # any path through that node
        return taxonomy.paths[path][:level]  # END, a child of some inner nodes, is a level without a name


def descend(trie: Trie, log_p: Float[Tensor, "n nodes"]) -> Descent:
    """Descend from the root to a leaf, always to the most probable child (on ties the first)."""
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
    """For each image the names down to the deepest level with at least ``min_confidence``, and their probability.

    Descends from the root to the most probable child while the child's probability is at least ``min_confidence``.
    Above .5 no other node of that depth or deeper has that probability, so this is the deepest confident prediction of
    the whole tree, and a higher ``min_confidence`` only removes names from its end. It need not be a prefix of the most
    probable path: many improbable leaves can make a probable branch.

    With probabilities over children, a node's probability is exactly the sum over the paths through it. With
    probabilities over the vocabulary, it is the probability of these names with any continuation, so at least the sum
    over the valid paths.

    Args:
        taxonomy: of the model.
        log_p: of each node of its trie, from `Categorizer.exact`.
        min_confidence: range [0, 1].

    Returns:
        Names and probability; no names and 1.0 if even the first level is below ``min_confidence``.
    """
    descent = descend(taxonomy.trie, log_p)
    return [
        (descent.names(taxonomy, row, level), float(descent.probability[row, level - 1]) if level else 1.0)
        for row, level in enumerate(descent.levels(min_confidence).tolist())
    ]


def abstention_curve(
    taxonomy: Taxonomy, actual: Int[np.ndarray, "n"], descent: Descent, thresholds: Sequence[float]
) -> list[dict[str, float | None]]:
    """Coverage and accuracy of `deepest_confident` for each of ``thresholds``.

    Returns:
        ``min_confidence``; ``answered`` (share of images with at least one name predicted); ``complete`` (with a whole
        path predicted); ``accuracy`` (of those answered, share whose right path goes through the prediction);
        ``mean_depth`` (names, over all images); ``coverage_1``, ``coverage_2``, ... (of the images whose right path
        has at least 1, 2, ... names, the share with as many predicted).
    """
    trie = taxonomy.trie
    names_of_path = np.array([len(path) for path in taxonomy.paths])[actual]
    every = np.arange(len(actual))
    rows: list[dict[str, float | None]] = []
    for threshold in thresholds:
        level = descent.levels(threshold)
        node = np.where(level > 0, descent.node[every, level - 1], 0)  # the root if nothing is predicted
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


_Loss = Callable[..., Tensor]  # weights -> sum of -log p of the right paths


def _fitted_weights(both: Sequence[_Loss], alone: Sequence[_Loss]) -> LogitWeights:
    """Fit weights to the losses of some rows; 1 if there are no rows."""
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
    """The loss as a function of the weights of the image (1 / temperature) and of the title (logits ``scores``)."""
    trie = DeviceTrie.of(model.taxonomy.trie, cells.device)
    routes = model.routes[paths]
    node, child = routes[:, :-1], routes[:, 1:]  # (b, t)
    before = trie.token[(node - 1).clamp(min=0)].where(node > 0, START)  # the edge to node n is n - 1
    readout, _ = model.decoder(cells, before)
    writing = child >= 0
    readout, node, child = readout[writing], node[writing], child[writing]  # (n, h), (n,), (n,)
    right = child - 1 - trie.first[node]  # index of the child among its node's edges
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
    """As `_categorizer_loss`, for logits of whole paths."""
    logits = scores.double()

    def loss(weight: float) -> Tensor:
        return nn.functional.cross_entropy(logits * weight, paths, reduction="sum")

    return loss


def _bin(confidence: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    index: np.ndarray = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return index


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
