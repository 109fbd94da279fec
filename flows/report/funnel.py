"""The steps from the first URL to the splits, with what each step loses and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from atlas_model.split.reasons import NOT_FETCHED, kind_of
from flows.report.facts.sources import Shop, Sources

FILTERED = ("zoomed", "unreadable")  # reasons of the stage zoom


@dataclass(frozen=True)
class Step:
    """A step."""

    name: str
    count: int
    share: float  # of the first step with the same unit
    lost: Mapping[str, int]  # reason -> count, before this step
    stage: str  # that takes the step


def fetched(shop: Shop) -> int:
    """Images of the shop that were downloaded."""
    return shop.listed - sum(_lost(shop, of_fetch=True).values())


def unfiltered(shop: Shop) -> int:
    """Images of the shop that the stage zoom kept."""
    return fetched(shop) - sum(count for reason, count in shop.discarded.items() if reason in FILTERED)


def funnel(sources: Sources) -> list[Step]:
    """The steps of all shops together."""
    total = sources.total
    of_split = {reason: count for reason, count in _lost(total, of_fetch=False).items() if reason not in FILTERED}
    of_zoom = {reason: count for reason, count in total.discarded.items() if reason in FILTERED}
    steps: list[tuple[str, int, int, Mapping[str, int], str]] = []
    if total.pages is not None:
        steps.append(("product pages", total.pages, total.pages, {}, "crawl"))
    most = max(total.pages or 0, total.products)
    steps.append(("products", total.products, most, dict(total.dropped_pages), "crawl"))
    steps += [
        ("images of products", total.listed, total.listed, {}, "crawl"),
        ("downloaded", fetched(total), total.listed, _lost(total, of_fetch=True), "fetch"),
        ("kept by the close-up filter", unfiltered(total), total.listed, of_zoom, "zoom"),
        ("in train, val and test", total.kept, total.listed, of_split, "split"),
    ]
    return [
        Step(name, count, count / whole if whole else 0.0, lost, stage) for name, count, whole, lost, stage in steps
    ]


def _lost(shop: Shop, *, of_fetch: bool) -> dict[str, int]:
    return {reason: count for reason, count in shop.discarded.items() if (kind_of(reason) == NOT_FETCHED) == of_fetch}
