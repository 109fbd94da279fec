"""The metrics of the evaluation with their intervals, and their change since the last accepted model."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flows.report.facts.accepted import Acceptance

NAMES = {  # keys of reports/evaluate/metrics.json -> name, explanation
    "micro_f1": ("Exact category path", "Share of the test images whose whole predicted path is correct (micro F)."),
    "macro_f1": ("Mean over categories", "Mean of the F of the categories: each counts the same (macro F)."),
    "hierarchical_f1": ("Hierarchical F", "A path that is wrong only at its end counts in part."),
    "ece": ("Calibration error", "Mean difference between stated probability and share correct. Lower is better."),
}
MODES = {
    "image": "image",
    "title": "title",
    "image_and_title": "image and title",
    "stripped_title": "title without words of category names",
    "image_and_stripped_title": "image and title without words of category names",
}
NOT_GIVEN = "this evaluation did not measure it"
NOT_REACHED = "no image reaches this probability"


@dataclass(frozen=True)
class Figure:
    """A metric; None is unknown."""

    value: float | None
    interval: tuple[float, float] | None = None  # 95 %
    why: str = ""  # it is unknown


@dataclass(frozen=True)
class Change:
    """The change of a metric since an accepted model.

    Both models were evaluated apart, so the interval of the change comes from the two intervals as if the test images
    were independent: half its width is the root of the sum of their squared half widths. On the same test images the
    errors of two models are alike, and this interval is too wide rather than too narrow.
    """

    before: Figure
    value: float
    interval: tuple[float, float] | None

    @property
    def clear(self) -> bool:
        """Whether 0 is outside the interval."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Headline:
    """One of the main metrics on the test split."""

    key: str
    name: str
    explanation: str
    figure: Figure
    change: Change | None
    lower_is_better: bool = False


@dataclass(frozen=True)
class SplitFigures:
    """The metrics of one split."""

    split: str
    n: int
    figures: tuple[Figure, ...]  # in the order of `NAMES`
    levels: tuple[Figure, ...]  # accuracy down to each level
    products: Figure


@dataclass(frozen=True)
class Mode:
    """The metrics of one kind of input of a model that reads titles."""

    name: str
    figures: tuple[Figure, ...]  # in the order of `NAMES`
    difference: Figure  # of micro F to the image alone


@dataclass(frozen=True)
class Guarantee:
    """What came of a guaranteed accuracy on test, for images."""

    accuracy: float  # promised on validation images
    accepted: float | None  # share of the images with a whole path that is accepted
    right: float | None  # share of these that is correct; None: none is accepted


@dataclass(frozen=True)
class Metrics:
    """All metrics of a report."""

    headlines: tuple[Headline, ...]
    levels: tuple[Figure, ...]  # on test
    products: Headline
    baseline: Figure  # micro F of the plain classifier on test
    difference: Figure  # micro F of this model minus that
    confident: Mapping[str, Figure]  # at a probability of at least .9: answered, complete, accuracy
    guarantees: tuple[Guarantee, ...]
    splits: tuple[SplitFigures, ...]
    modes: tuple[Mode, ...]  # empty: the model reads no titles
    acceptance: Acceptance
    same_images: bool | None  # whether the accepted model was tested on the same images; None: unknown
    n: int  # test images


def read_figure(found: Mapping[str, Any], key: str, why: str = NOT_GIVEN) -> Figure:
    """The metric ``key`` of the metrics of one split, with its interval."""
    value = found.get(key)
    if value is None:
        return Figure(None, None, "there are no images" if found.get("n") == 0 else why)
    interval = (found.get("intervals") or {}).get(key)
    return Figure(float(value), (float(interval[0]), float(interval[1])) if interval else None)


def change_since(now: Figure, before: Figure) -> Change | None:
    """The change from ``before`` to ``now``; None if one of them is unknown."""
    if now.value is None or before.value is None:
        return None
    value, interval = now.value - before.value, None
    if now.interval and before.interval:
        half = math.hypot(*((high - low) / 2 for low, high in (now.interval, before.interval)))
        interval = (value - half, value + half)
    return Change(before, value, interval)


def collect_metrics(evaluated: Mapping[str, Any], acceptance: Acceptance, images: str) -> Metrics:
    """The metrics of a report.

    Args:
        evaluated: reports/evaluate/metrics.json.
        acceptance: as `read_acceptance` returns.
        images: fingerprint of the test images and their labels (`predictions.fingerprint`).
    """
    test = evaluated.get("test") or {}
    accepted = acceptance.before.test if acceptance.before else None
    headlines = tuple(_headlines(test, accepted))
    products = test.get("products") or {}
    of_products = read_figure(products, "micro_f1")
    before = read_figure((accepted or {}).get("products") or {}, "micro_f1")
    baseline = evaluated.get("baseline") or {}
    difference = (baseline.get("difference") or {}).get("micro_f1") or {}
    confident = test.get("min_confidence_0.9") or {}
    return Metrics(
        headlines=headlines,
        levels=_levels(test),
        products=Headline(
            "products",
            "Products",
            "Share of the products whose whole path is correct, predicted from all their images.",
            of_products,
            change_since(of_products, before),
        ),
        baseline=read_figure(baseline.get("test") or {}, "micro_f1"),
        difference=_difference(difference),
        confident={
            key: read_figure(confident, key, NOT_REACHED if confident.get("answered") == 0 else NOT_GIVEN)
            for key in ("answered", "complete", "accuracy")
        },
        guarantees=tuple(_guarantees((evaluated.get("guarantees") or {}).get("images") or {})),
        splits=tuple(_split(name, evaluated.get(name) or {}) for name in ("test", "val", "train")),
        modes=tuple(_modes(evaluated.get("modes") or {})),
        acceptance=acceptance,
        same_images=None if accepted is None else accepted.get("images") == images,
        n=int(test.get("n") or 0),
    )


def _headlines(test: Mapping[str, Any], accepted: Mapping[str, Any] | None) -> Iterator[Headline]:
    for key, (name, explanation) in NAMES.items():
        now = read_figure(test, key)
        change = change_since(now, read_figure(accepted or {}, key))
        yield Headline(key, name, explanation, now, change, lower_is_better=key == "ece")


def _levels(found: Mapping[str, Any]) -> tuple[Figure, ...]:
    why = "no right path of these images reaches this level"
    return tuple(Figure(value, None, "" if value is not None else why) for value in found.get("level_accuracy") or [])


def _split(name: str, found: Mapping[str, Any]) -> SplitFigures:
    figures = tuple(read_figure(found, key) for key in NAMES)
    return SplitFigures(
        name,
        int(found.get("n") or 0),
        figures,
        _levels(found),
        read_figure(found.get("products") or {}, "micro_f1"),
    )


def _guarantees(found: Mapping[str, Any]) -> Iterator[Guarantee]:
    for accuracy, figures in found.items():
        test = figures.get("test") or {}
        yield Guarantee(float(accuracy), test.get("accepted"), test.get("accepted_right"))


def _modes(found: Mapping[str, Any]) -> Iterator[Mode]:
    for key, name in MODES.items():
        if key in found:
            difference = (found[key].get("difference") or {}).get("micro_f1") or {}
            yield Mode(name, tuple(read_figure(found[key], each) for each in NAMES), _difference(difference))


def _difference(found: Mapping[str, Any]) -> Figure:
    if found.get("value") is None:
        return Figure(None, None, NOT_GIVEN)
    return Figure(float(found["value"]), (float(found["interval"][0]), float(found["interval"][1])))
