"""Formats the report of `atlas init`: the data, the choices with their reasons, and the problems of the data."""

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from atlas_model.data.image_survey import ImageStatistics
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath
from crawlers.files.products import ProductCounts
from flows.init.choices import Choice

MAX_LISTED = 5  # examples
FEW_TESTED = 200


@dataclass(frozen=True)
class DataSurvey:
    """What is in the data."""

    counts: ProductCounts
    statuses: Counter[str]  # of images of products
    examples: Mapping[str, Sequence[str]]  # by status
    images: ImageStatistics
    products: Counter[CategoryPath]  # that have an image
    images_in: Counter[CategoryPath]
    conflicts: list[str]  # images with two categories
    copies: int  # repeated images with the same category
    hints: Counter[str]
    unnamed: int  # image files that are in no row of the table
    test_share: float  # of params.yaml


def too_many_fail(found: DataSurvey, max_failed_share: float) -> list[str]:
    """A warning if the stage fetch would fail because of unusable images."""
    total, failed = found.statuses.total(), found.statuses.total() - found.statuses["ok"]
    if failed <= max_failed_share * total:
        return []
    return [
        f"WARNING: {failed} of {total} images cannot be used (see below), more than fetch.max_failed_share allows: "
        "the stage fetch would fail. Correct the table or the folder, or raise that share"
    ]


def report(found: DataSurvey, images: Path, table: Path, choices: Sequence[Choice], words: Sequence[str]) -> list[str]:
    """The report, in lines.

    Args:
        found: the result of the inspection.
        images: the folder of images.
        table: the table.
        choices: the values for params.yaml.
        words: lines about the written file.
    """
    statistics = found.images
    colours = "grey" if statistics.grey else "coloured"
    lines = [
        f"{images}: {statistics.count} different images, {statistics.median_side} px (median), {colours}",
        f"{table}: {found.counts.rows} rows, {found.counts.products} products, {len(found.products)} categories",
        "",
        *words,
    ]
    explained = [choice for choice in choices if choice.why]
    width = min(60, max(len(_shown(choice)) for choice in explained))
    lines += [f"  {_shown(choice):{width}}  {choice.why}" for choice in explained]
    others = ", ".join(_shown(choice) for choice in choices if not choice.why)
    lines += [
        f"  {line}"
        for line in textwrap.wrap(f"and these values, which follow from them: {others}", 116, break_on_hyphens=False)
    ]
    problems = list(_problems(found, choices))
    lines += ["", "Problems and limits of the data:" if problems else "No problems were found in the data."]
    lines += [f"  - {problem}" for problem in problems]
    return lines


def _shown(choice: Choice) -> str:
    value = yaml.safe_dump(choice.value, default_flow_style=True, width=10_000, allow_unicode=True)
    return f"{choice.key}: {value.splitlines()[0]}"


def _problems(found: DataSurvey, choices: Sequence[Choice]) -> list[str]:
    values = {choice.key: choice.value for choice in choices}
    problems = [
        f"{count} images are {status} ({_some(found.examples[status], count)}): see docs/files.md"
        for status, count in sorted(found.statuses.items())
        if status != "ok"
    ]
    problems += [warning for warning in found.counts.warnings if warning.startswith("column ")]
    if found.conflicts:
        problems.append(
            f"{len(found.conflicts)} images have two categories ({_some(found.conflicts)}): none of them is used"
        )
    if found.copies:
        problems.append(f"{found.copies} images are repeated with the same category: each is used once")
    if found.unnamed:
        problems.append(f"{found.unnamed} image files in the folder are in no row of the table: they are not used")
    least = values["split.min_products"]
    rare = sorted(SEPARATOR.join(path) for path, count in found.products.items() if count < least)
    if rare:
        lost = sum(count for count in found.products.values() if count < least)
        problems.append(
            f"{len(rare)} categories have fewer than {least} products ({_some(rare)}): {lost} products are discarded"
        )
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for path in found.products:
        alike[re.sub(r"[\W_]+", "", SEPARATOR.join(path).casefold())].append(SEPARATOR.join(path))
    doubled = [" = ".join(sorted(group)) for group in alike.values() if len(group) > 1]
    if doubled:
        problems.append(
            f"{len(doubled)} categories have several spellings ({_some(doubled)}): each spelling is its own category"
        )
    if found.counts.without_title and values["crawl.files.columns.title"] is not None:
        problems.append(f"{found.counts.without_title} products have no title")
    used = sum(found.images_in[path] for path, count in found.products.items() if count >= least)
    tested = max(1, round(used * found.test_share))
    if tested < FEW_TESTED:
        problems.append(
            f"about {tested} images are in the test split: an accuracy of .9 is uncertain by {0.6 / tested**0.5:.2f}"
        )
    if found.images.small:
        problems.append(f"{found.images.small} images are smaller than 32 px")
    return problems


def _some(names: Sequence[str], count: int | None = None) -> str:
    shown = ", ".join(names[:MAX_LISTED])
    return shown + (", ..." if (count or len(names)) > len(names[:MAX_LISTED]) else "")
