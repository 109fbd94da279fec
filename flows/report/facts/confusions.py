"""The most confused pairs of categories, with example images."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.report.facts.predictions import Prediction


@dataclass(frozen=True)
class Confusion:
    """Images of one category that are predicted as another."""

    actual: str
    predicted: str
    count: int
    share: float  # of the test images of ``actual``
    wrong: tuple[Prediction, ...]  # the most certain first
    of_actual: tuple[str, ...]  # image ids: examples of the right category
    of_predicted: tuple[str, ...]  # likewise of the predicted one


def most_confused(
    predictions: Sequence[Prediction], train_images: Mapping[str, Sequence[str]], *, pairs: int, images: int
) -> tuple[list[Confusion], int]:
    """The pairs with the most wrong predictions, and the number of all pairs.

    Examples of a category are test images that were predicted correctly, the most certain first; if there are too few,
    training images.

    Args:
        predictions: on test.
        train_images: image ids of the training split by label; a few of each category are sufficient.
        pairs: maximum number of pairs.
        images: maximum number of images of each kind in a pair.
    """
    tested = Counter(each.actual for each in predictions)
    ranked = sorted(predictions, key=lambda each: (-each.probability, each.image_id))
    wrong: defaultdict[tuple[str, str], list[Prediction]] = defaultdict(list)
    right: defaultdict[str, list[str]] = defaultdict(list)
    for each in ranked:
        if each.right:
            right[each.actual].append(each.image_id)
        else:
            wrong[each.actual, each.predicted].append(each)

    def examples(label: str) -> tuple[str, ...]:
        return tuple([*right[label], *train_images.get(label, ())][:images])

    chosen = sorted(wrong.items(), key=lambda item: (-len(item[1]), item[0]))[:pairs]
    return [
        Confusion(
            actual,
            predicted,
            len(found),
            len(found) / tested[actual],
            tuple(found[:images]),
            examples(actual),
            examples(predicted),
        )
        for (actual, predicted), found in chosen
    ], len(wrong)


def confused_with(predictions: Sequence[Prediction]) -> dict[str, tuple[str, int]]:
    """For each category the wrong category that it is most often predicted as, and how often."""
    counts = Counter((each.actual, each.predicted) for each in predictions if not each.right)
    found: dict[str, tuple[str, int]] = {}
    for (actual, predicted), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        found.setdefault(actual, (predicted, count))
    return found
