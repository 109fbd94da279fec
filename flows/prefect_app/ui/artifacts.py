"""Creates the artifacts of a stage for Prefect's UI: a table of its metrics, images, a report of the evaluation.

Metrics are compared with those of the last accepted run, or, if there is none, with those of the last commit. The
earlier values come from DVC's cache, or, if it does not have them, the headline metrics from git.

Titles, categories and shops are untrusted text: they are escaped. Images are ``data:`` URLs of limited size, because
Prefect stores them in its database. The flow posts the artifacts; this module does not import Prefect.
"""

import json
import math
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from atlas_model.core.errors import InputError
from atlas_model.core.params import Params
from flows.dvc import repo
from flows.evaluation_tables import read_categories, weakest_categories
from flows.git import content_at
from flows.paths import METRICS, REPORTS, TIMINGS
from flows.prefect_app.ui.reporter import key_of
from flows.registry.versions import compared_with
from flows.stages.entry import read_metrics
from flows.text import in_markdown, printable

if TYPE_CHECKING:
    from PIL import Image

MAX_ROWS = 200  # of a table
MAX_BYTES = 400_000  # of an image, as PNG
LONGEST_SIDE = 1000  # px
WEAKEST = 10  # categories in the report
HEADLINES = {
    "micro_f1": "micro F (exact paths)",
    "macro_f1": "macro F",
    "hierarchical_f1": "hierarchical F",
    "ece": "calibration error",
}
# Cells of tables are Markdown in the older UI and plain text in the newer one. No escape works in both, so characters
# of markup are replaced by similar ones.
LOOKALIKES = str.maketrans("<>[]`\\", "‹›⟦⟧'∖")


@dataclass(frozen=True)
class Artifact:
    """An artifact for Prefect's UI."""

    kind: Literal["table", "image", "markdown"]
    key: str  # lower-case letters, digits, hyphens
    description: str
    data: Any  # rows, a URL, Markdown


class Before(NamedTuple):
    """Earlier metrics for the comparison."""

    name: str  # of their run
    metrics: dict[str, Any]


def stage_artifacts(stage: str, params: Params) -> Iterator[Artifact]:
    """The artifacts of ``stage``, which has just run; none if its files are missing."""
    found = read_metrics(stage)
    if found:
        before = metrics_before(stage, params)
        description = f"Metrics of {stage}, compared with the {before.name}"
        yield Artifact("table", key_of(f"{stage}-metrics"), description, _metric_rows(stage, found, before))
    if stage == "evaluate" and found:
        yield Artifact("markdown", "evaluation", "The evaluation", evaluation_report(params))
    from flows.prefect_app.ui.figures import images_of

    for key, description, image in images_of(stage):
        yield Artifact("image", key_of(key), description, data_url(image))


def _metric_rows(stage: str, found: dict[str, Any], before: Before) -> list[dict[str, str]]:
    known = dict(_leaves(before.metrics))
    timings = TIMINGS / f"{stage}.json"
    figures = [*_leaves(found)]
    if timings.is_file():
        figures += _leaves(json.loads(timings.read_text(encoding="utf-8")))
    rows = [
        {"metric": _cell(name), "now": _number(value), before.name: _number(known.get(name))} for name, value in figures
    ]
    left_out = len(rows) - MAX_ROWS
    return rows if left_out <= 0 else [*rows[:MAX_ROWS], {"metric": f"and {left_out} more", "now": "", before.name: ""}]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict | list):
        yield name, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value, 1):
        yield from _leaves(inner, f"{name} / {key}" if name else str(key))


def metrics_before(stage: str, params: Params) -> Before:
    """The metrics of ``stage`` in the last accepted run, or in the last commit."""
    revision, name = compared_with(params)
    content = content_at(revision, METRICS / f"{stage}.json")
    if content is not None:
        with suppress(InputError):  # not in the cache: the headline is used
            content = repo.read_output(REPORTS / stage / "metrics.json", revision)
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        found = {}
    return Before(name, found if isinstance(found, dict) else {})


def evaluation_report(params: Params) -> str:
    """The headline metrics with their change since the last accepted run, and the weakest categories, as Markdown."""
    now, (name_before, before) = read_metrics("evaluate"), metrics_before("evaluate", params)
    lines = [f"| | now | 95 % interval | {name_before} | change |", "|---|--:|--:|--:|--:|"]
    for split in ("test", "val"):
        for key, name in HEADLINES.items():
            value, old = _get(now, split, key), _get(before, split, key)
            if value is not None:
                interval = "–".join(map(_share, _get(now, split, "intervals", key) or []))
                lines.append(
                    f"| {name}, {split} | {_share(value)} | {interval} | {_share(old)} | {_change(value, old)} |"
                )
    plain, old = (_get(each, "baseline", "test", "micro_f1") or each.get("classifier_f1") for each in (now, before))
    lines.append(f"| plain classifier: micro F, test | {_share(plain)} | | {_share(old)} | {_change(plain, old)} |")
    weakest = weakest_categories(read_categories(), WEAKEST).to_dict("records")
    if weakest:
        lines += [
            "",
            "The weakest categories of the test split:",
            "",
            "| category | F | precision | recall | images |",
        ]
        lines += ["|---|--:|--:|--:|--:|"]
    for row in weakest:
        figures = " | ".join(_share(_known(float(row[key]))) for key in ("f1", "precision", "recall"))
        lines.append(f"| {in_markdown(row['category'])} | {figures} | {in_markdown(str(row['n']))} |")
    return "\n".join(lines) + "\n"


def _known(value: float) -> float | None:
    """None for NaN: a metric that cannot be computed is an empty cell of the table."""
    return None if math.isnan(value) else value


def _get(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else _cell(str(value))


def _share(value: Any) -> str:
    """A metric in [0, 1] with four decimal places."""
    return f"{value:.4f}" if isinstance(value, float) else _number(value)


def _change(now: float | None, before: Any) -> str:
    return f"{now - before:+.4f}" if isinstance(now, float) and isinstance(before, float) else ""


def _cell(text: str) -> str:
    return printable(text).translate(LOOKALIKES).replace("://", ":∕∕")


def data_url(image: "Image.Image") -> str:
    """``image`` as a data URL, scaled down until it has at most `MAX_BYTES`."""
    image = image.copy()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    while True:
        buffer = BytesIO()
        image.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MAX_BYTES:
            return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))
