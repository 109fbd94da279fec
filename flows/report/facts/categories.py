"""The taxonomy with counts and scores: a row per category, and a tree in which a node counts all below it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from atlas_model.split.names import SPLITS
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath
from flows.report.facts.predictions import Prediction

MOST_NODES = 1_500  # of the tree; beyond it, the categories with the fewest images have no row
RANKED_FROM = 10  # test images of a category, from which it is ranked: with fewer, its F is mostly chance
RANKED = 8  # best and worst categories


@dataclass(frozen=True)
class Scores:
    """Counts on the test split, and what follows from them; None is unknown."""

    tested: int  # images whose right path is this one, or passes through it
    predicted: int  # likewise for the predicted path
    right: int  # both

    @property
    def precision(self) -> float | None:
        """Share of those predicted that are right; None if it was never predicted."""
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of its images that are predicted so; None without test images."""
        return self.right / self.tested if self.tested else None

    @property
    def f1(self) -> float | None:
        """Their harmonic mean; None without test images."""
        return 2 * self.right / (self.tested + self.predicted) if self.tested else None


@dataclass(frozen=True)
class Category:
    """A category path."""

    label: str  # "A > B > C"
    counts: Mapping[str, int]  # split -> images
    scores: Scores  # of the exact path

    @property
    def images(self) -> int:
        """Images in all splits."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Node:
    """A node of the taxonomy."""

    name: str
    label: str  # of the path to it
    counts: Mapping[str, int]  # split -> images, with those of all categories below
    scores: Scores  # down to this level
    children: tuple["Node", ...]
    left_out: int  # categories below it without a node of their own


@dataclass(frozen=True)
class TaxonomyReport:
    """All categories."""

    depth: int
    known: int  # categories of the taxonomy
    empty: int  # of these, without an image in any split
    untested: tuple[str, ...]  # with images, but none in test
    categories: tuple[Category, ...]  # with images or predictions, in the taxonomy's order
    roots: tuple[Node, ...]
    left_out: int  # categories without a row
    ranked: tuple[Category, ...]  # with at least `RANKED_FROM` test images, worst first

    @property
    def worst(self) -> tuple[Category, ...]:
        """The categories with the lowest F, the lowest first."""
        return self.ranked[: min(RANKED, (len(self.ranked) + 1) // 2)]

    @property
    def best(self) -> tuple[Category, ...]:
        """The categories with the highest F, the highest first; none is also in `worst`."""
        return self.ranked[::-1][: min(RANKED, len(self.ranked) // 2)]


def split_label(label: str) -> CategoryPath:
    """The names of a label; no name contains the separator."""
    return tuple(label.split(SEPARATOR))


def collect_categories(
    paths: Sequence[CategoryPath],
    images: Iterable[tuple[str, str]],
    predictions: Sequence[Prediction],
) -> TaxonomyReport:
    """Count and score.

    Args:
        paths: of the taxonomy.
        images: label and split of each image of the splits.
        predictions: on test.
    """
    counted = Counter(images)
    known = [SEPARATOR.join(path) for path in paths]
    met = {label for label, _ in counted} | {label for each in predictions for label in (each.actual, each.predicted)}
    tested = Counter(each.actual for each in predictions)
    predicted = Counter(each.predicted for each in predictions)
    right = Counter(each.actual for each in predictions if each.right)
    labels = [label for label in dict.fromkeys([*known, *sorted(met)]) if label in met]
    every = [
        Category(
            label,
            {split: counted[label, split] for split in SPLITS},
            Scores(tested[label], predicted[label], right[label]),
        )
        for label in labels
    ]
    shown = _largest(every)
    ranked = [each for each in every if each.scores.tested >= RANKED_FROM]
    return TaxonomyReport(
        depth=max((len(path) for path in paths), default=0),
        known=len(known),
        empty=len(set(known) - met),
        untested=tuple(each.label for each in every if each.images and not each.scores.tested),
        categories=tuple(each for each in every if each.label in shown),
        roots=_tree(every, shown, predictions),
        left_out=len(every) - len(shown),
        ranked=tuple(sorted(ranked, key=lambda each: (each.scores.f1, -each.scores.tested, each.label))),
    )


def _largest(every: Sequence[Category]) -> set[str]:
    """The labels of the categories with the most images whose nodes are no more than `MOST_NODES`."""
    nodes: set[CategoryPath] = set()
    shown: set[str] = set()
    for each in sorted(every, key=lambda one: (-one.images, one.label)):
        path = split_label(each.label)
        needed = {path[:level] for level in range(1, len(path) + 1)} - nodes
        if len(nodes) + len(needed) <= MOST_NODES:
            nodes |= needed
            shown.add(each.label)
    return shown


def _tree(every: Sequence[Category], shown: set[str], predictions: Sequence[Prediction]) -> tuple[Node, ...]:
    counts: dict[CategoryPath, Counter[str]] = {}
    left_out: Counter[CategoryPath] = Counter()
    children: dict[CategoryPath, dict[CategoryPath, None]] = {}  # in order
    for each in every:
        path = split_label(each.label)
        for level in range(1, len(path) + 1):
            counts.setdefault(path[:level], Counter()).update(each.counts)
        if each.label in shown:
            for level in range(len(path)):
                children.setdefault(path[:level], {})[path[: level + 1]] = None
        else:
            left_out[path[:-1]] += 1
    tested: Counter[CategoryPath] = Counter()
    predicted: Counter[CategoryPath] = Counter()
    right: Counter[CategoryPath] = Counter()
    for prediction in predictions:
        one, other = split_label(prediction.actual), split_label(prediction.predicted)
        of_one = {one[:level] for level in range(1, len(one) + 1)}
        of_other = {other[:level] for level in range(1, len(other) + 1)}
        tested.update(of_one)
        predicted.update(of_other)
        right.update(of_one & of_other)

    def node(path: CategoryPath) -> Node:
        return Node(
            path[-1],
            SEPARATOR.join(path),
            {split: counts[path][split] for split in SPLITS},
            Scores(tested[path], predicted[path], right[path]),
            tuple(node(child) for child in children.get(path, ())),
            left_out[path],
        )

    return tuple(node(root) for root in children.get((), ()))
