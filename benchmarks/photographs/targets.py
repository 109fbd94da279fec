"""The target values of the benchmark, and the table of results for the terminal and for docs/photographs.md."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.files import write_text

BEGIN, END = "<!-- figures: begin (python -m benchmarks.photographs table) -->", "<!-- figures: end -->"


@dataclass(frozen=True)
class Target:
    """A metric with its required value and its target."""

    name: str  # key in the result: "image.micro_f1" is "micro_f1" in "image"
    what: str  # name in the table
    required: float | None = None
    target: float | None = None
    lower_is_better: bool = False
    digits: int = 3

    def verdict(self, value: float) -> str:
        """Whether the target or the required value is reached."""
        for name, limit in (("target", self.target), ("required value", self.required)):
            if limit is not None and (value <= limit if self.lower_is_better else value >= limit):
                return f"{name} reached"
        return "" if self.required is None and self.target is None else "missed"


TARGETS = (
    Target("image.micro_f1", "exact path from the image, test", 0.91, 0.93),
    Target("image.macro_f1", "macro F from the image, test", 0.83, 0.86),
    Target(
        "image.ece",
        "calibration error from the image, after temperature scaling",
        0.02,
        0.015,
        lower_is_better=True,
        digits=4,
    ),
    Target("image_and_title.micro_f1", "exact path from image and title, test", 0.985, 0.99),
    Target(
        "image_and_stripped_title.micro_f1",
        "exact path from image and title without the labels' words, test",
        0.93,
        0.95,
    ),
    Target("title.micro_f1", "exact path from the title, test"),
    Target("classifier.micro_f1", "plain classifier with the same encoder and epochs: exact path, test"),
    Target("difference.micro_f1.value", "difference of the sequence model to the classifier", None, 0.0, digits=4),
    Target(
        "pipeline_minutes",
        "time of the whole pipeline, from manifest to evaluation (min)",
        30,
        15,
        lower_is_better=True,
        digits=1,
    ),
    Target(
        "tuned_epoch_over_forward",
        "time of an epoch / of a forward pass of the frozen blocks",
        0.6,
        0.35,
        lower_is_better=True,
        digits=2,
    ),
    Target("files_micro_f1", "exact path, test, trained on 300 images and a CSV", 0.9),
    Target("files_minutes", "time for 300 images and a CSV, two commands (min)", 5, lower_is_better=True, digits=1),
    Target("peak_rss_gb", "peak memory of any stage (GB)", 3, 1.5, lower_is_better=True, digits=2),
    Target(
        "zoom_discarded_share", "share discarded by the bundled close-up filter", 0.02, lower_is_better=True, digits=4
    ),
)


def value_at(figures: Mapping[str, Any], name: str) -> float | None:
    """The value of a dotted key; None if it is missing."""
    found: Any = figures
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int | float) else None


def table(figures: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """A row per target: name, value, required value, target, verdict; "-" for missing values."""
    rows = []
    for target in TARGETS:
        value = value_at(figures, target.name)
        shown, required, goal = (_text(number, target.digits) for number in (value, target.required, target.target))
        rows.append((target.what, shown, required, goal, "not measured" if value is None else target.verdict(value)))
    return rows


def printed(figures: Mapping[str, Any]) -> str:
    """The table for a terminal."""
    rows = [("metric", "value", "required", "target", ""), *table(figures)]
    width = max(len(row[0]) for row in rows)
    lines = [
        f"  {what:<{width}}  {value:>8}  {required:>8}  {goal:>6}  {verdict}".rstrip()
        for what, value, required, goal, verdict in rows
    ]
    return "\n".join(lines)


def in_markdown(figures: Mapping[str, Any]) -> str:
    """The table, the images and the machine, and the results per seed, in Markdown."""
    lines = ["| metric | value | required | target | |", "|---|--:|--:|--:|---|"]
    lines += [f"| {' | '.join(row)} |" for row in table(figures)]
    sizes = figures["data"]["images"]
    drawn = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    lines += ["", f"Images: {drawn}. Machine: {figures['machine']}; torch {figures['versions']['torch']}.", ""]
    lines += [
        "| seed | exact path | macro F | classifier, exact path | difference, 95 % interval |",
        "|---|--:|--:|--:|---|",
    ]
    for seed, found in figures["seeds"].items():
        difference = found["difference"]["micro_f1"]
        low, high = difference["interval"]
        lines.append(
            f"| {seed} | {_text(found['image']['micro_f1'], 4)} | {_text(found['image']['macro_f1'], 4)} | "
            f"{_text(found['classifier']['micro_f1'], 4)} | {_text(difference['value'], 4)}, {_text(low, 4)} to "
            f"{_text(high, 4)} |"
        )
    return "\n".join(lines)


def read_result(path: Path) -> dict[str, Any]:
    """The result file.

    Raises:
        MissingError: the benchmark has not run yet.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such file; make benchmark NAME=photographs writes it")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_into(page: Path, figures: Mapping[str, Any]) -> None:
    """Write the table between the two marks of a Markdown page.

    Raises:
        InputError: the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"{page}: expected the lines {BEGIN!r} and {END!r} once each, in this order")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    write_text(page, f"{head}{BEGIN}\n{in_markdown(figures)}\n{END}{tail}")


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
