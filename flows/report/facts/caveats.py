"""Warnings about metrics that may mean nothing, and about data that may be wrong."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.report.facts.categories import RANKED_FROM, TaxonomyReport
from flows.report.facts.figures import Metrics
from flows.report.facts.sources import Sources
from flows.text import percent, share

FEWEST = 100  # images of val or test, below which their metrics are uncertain
MOST_DROPPED = 0.5  # share of the images, above which there is a warning
MOST_NOT_FETCHED = 0.05  # likewise of the images that could not be downloaded
MOST_FAILED = 0.1  # likewise of the product pages of a shop
MEMORIZED = 0.1  # difference of micro F between train and val
MISCALIBRATED = 0.05  # calibration error
SHOWN = 5  # names in a warning


def doubtful_metrics(
    test: Mapping[str, Any], tested: Mapping[str, int], sizes: Mapping[str, int | None], known: int | None
) -> Iterator[str]:
    """Warnings about metrics that may be meaningless.

    Args:
        test: metrics on test, with their intervals.
        tested: test images of each category.
        sizes: images of test and val; None: unknown.
        known: categories of the taxonomy; None: unknown.
    """
    images = sum(tested.values())
    if test.get("micro_f1") is not None and images:
        most_frequent = max(tested, key=lambda label: tested[label])
        chance = tested[most_frequent] / images
        low, _ = (test.get("intervals") or {}).get("micro_f1") or (test["micro_f1"], None)
        if chance == 1:
            yield f"all test images have one category, {most_frequent}: the metrics are meaningless"
        elif low <= chance:
            yield (
                f"micro F is at chance level: always predicting {most_frequent}, the most frequent category, gives "
                f"{share(chance)}. Use more steps (train.epochs), pretrained weights or more images"
            )
    for name, size in sizes.items():
        if size is not None and size < FEWEST:
            yield f"{name} has {size} images, fewer than {FEWEST}: its metrics are uncertain"
    if known and images:
        with_images = sum(count > 0 for count in tested.values())
        if with_images < known:
            yield f"no test image for {known - with_images} of {known} categories: the metrics do not cover them"


def worse_than_classifier(interval: Sequence[float] | None) -> Iterator[str]:
    """A warning if the plain classifier is better.

    Args:
        interval: 95 % interval of the difference of micro F, model - classifier; None: unknown.
    """
    if interval and interval[1] < 0:
        yield (
            "the plain classifier with the same encoder is better: the 95 % interval of the difference of this model "
            f"to it is {percent(interval[0], sign=True)} to {percent(interval[1], sign=True)} points. It needs fewer "
            "images: use more per category"
        )


def large_losses(kept: int, left_out: int) -> Iterator[str]:
    """A warning if most images were discarded."""
    total = kept + left_out
    if left_out > MOST_DROPPED * total:
        yield f"{left_out:,} of {total:,} images were discarded, for the reasons below"


def report_caveats(
    metrics: Metrics,
    taxonomy: TaxonomyReport,
    sources: Sources,
    *,
    tested: Mapping[str, int],
    split: Mapping[str, Any],
    evaluated: Mapping[str, Any],
    zoom_enabled: bool,
) -> list[str]:
    """All warnings of a report, as sentences.

    Args:
        metrics: of the report.
        taxonomy: likewise.
        sources: likewise.
        tested: test images of each category.
        split: reports/split/metrics.json.
        evaluated: reports/evaluate/metrics.json.
        zoom_enabled: zoom.enabled.
    """
    sizes = {name: (evaluated.get(name) or {}).get("n") for name in ("test", "val")}
    found = [
        *doubtful_metrics(evaluated.get("test") or {}, tested, sizes, taxonomy.known),
        *large_losses(sources.total.kept, sum(sources.total.discarded.values())),
        *_of_the_model(metrics, taxonomy, evaluated),
        *_of_the_split(split),
        *_of_the_sources(sources),
    ]
    if not zoom_enabled:
        found.append("the close-up filter is disabled (zoom.enabled: false): close-ups are in the splits, too")
    return [f"{text[0].upper()}{text[1:].rstrip('.')}." for text in found]


def _of_the_model(metrics: Metrics, taxonomy: TaxonomyReport, evaluated: Mapping[str, Any]) -> Iterator[str]:
    yield from worse_than_classifier(metrics.difference.interval)
    of_train, of_val = ((evaluated.get(name) or {}).get("micro_f1") for name in ("train", "val"))
    if of_train is not None and of_val is not None and of_train - of_val > MEMORIZED:
        yield (
            f"the model is much better on training images ({percent(of_train)}) than on validation images "
            f"({percent(of_val)}): it has learned images by heart. Use more images or more augmentation"
        )
    ece = next((each.figure.value for each in metrics.headlines if each.key == "ece"), None)
    if ece is not None and ece > MISCALIBRATED:
        yield f"the stated probabilities differ from the share correct by {percent(ece)} on average"
    few = sum(0 < each.scores.tested < RANKED_FROM for each in taxonomy.categories)
    if few:
        yield f"fewer than {RANKED_FROM} test images for {few} of {taxonomy.known} categories: their F is mostly chance"


def _of_the_split(split: Mapping[str, Any]) -> Iterator[str]:
    for name, labels in (split.get("categories_without") or {}).items():
        if labels and name != "test":  # test: in `doubtful_metrics`
            yield f"no {NOUN[name]} images for {listed(labels)}"
    for group in (split.get("look_alikes") or [])[:SHOWN]:
        yield f"these category names look alike, but are different categories: {listed([repr(name) for name in group])}"
    leaks = {name: count for name, count in (split.get("leaks") or {}).items() if count}
    if leaks:
        counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in leaks.items())
        yield f"the splits share images or products ({counts}): the metrics are too high"


NOUN = {"train": "training", "val": "validation"}


def _of_the_sources(sources: Sources) -> Iterator[str]:
    total = sources.total
    lost = sum(count for status, count in sources.requests.items() if status != "ok")
    asked = sum(sources.requests.values())
    if asked and lost > MOST_NOT_FETCHED * asked:
        yield f"{lost:,} of {asked:,} images could not be downloaded"
    if total.products and total.without_images > MOST_NOT_FETCHED * total.products:
        yield f"no image for {total.without_images:,} of {total.products:,} products"
    for shop in sources.shops:
        failed = sum(count for reason, count in shop.dropped_pages.items() if not reason.startswith("robots"))
        if shop.pages and failed > MOST_FAILED * shop.pages:
            yield f"{shop.site}: {failed:,} of {shop.pages:,} product pages gave no product"


def listed(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
