"""The findings about data quality of the stages split and evaluate, if they wrote any."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from atlas_model.data.schemas import read_table

COLUMNS = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("issue", pa.string()),
        pa.field("score", pa.float32()),  # range [0, 1], 1: most suspicious
        pa.field("detail", pa.string()),
    ]
)
ISSUES = {  # issue -> name, explanation
    "label_error": ("Likely label error", "The model is sure of another category than the label."),
    "outlier": ("Outlier", "The image is unlike the others of its category."),
    "duplicate": ("Duplicate", "Another image looks the same."),
    "dark": ("Dark", "Most of the image is dark."),
    "light": ("Light", "Most of the image is white, or nearly so."),
    "blurred": ("Blurred", "The image has no sharp edges."),
    "blank": ("Blank", "The image shows almost nothing."),
    "tiny": ("Tiny", "The image has very few pixels."),
    "odd_aspect": ("Odd aspect ratio", "The image is very wide or very tall."),
}


@dataclass(frozen=True)
class Finding:
    """A finding about an image."""

    image_id: str
    score: float
    detail: str | None  # label_error: the suggested category; duplicate: the image_id of the other image


@dataclass(frozen=True)
class Issue:
    """All findings of one kind."""

    key: str
    name: str
    explanation: str
    count: int
    findings: tuple[Finding, ...]  # the most suspicious first


def collect_quality(paths: Iterable[Path], *, most: int) -> list[Issue] | None:
    """The issues in those of ``paths`` that exist, each with its ``most`` suspicious findings; None if none exists.

    Raises:
        InputError: a file is not such a table.
    """
    there = [path for path in paths if path.is_file()]
    if not there:
        return None
    found: defaultdict[str, list[Finding]] = defaultdict(list)
    for path in there:
        table = read_table(path, COLUMNS, path.parent.name).to_pydict()
        for image_id, issue, score, detail in zip(*table.values(), strict=True):
            found[issue].append(Finding(image_id, score, detail))
    issues = []
    for key in [*(key for key in ISSUES if key in found), *sorted(found.keys() - ISSUES.keys())]:
        name, explanation = ISSUES.get(key, (key.replace("_", " ").capitalize(), ""))
        ranked = sorted(found[key], key=lambda each: (-each.score, each.image_id))
        shown = _without_mirrored(ranked) if key == "duplicate" else ranked
        issues.append(Issue(key, name, explanation, len(ranked), tuple(shown[:most])))
    return issues


def _without_mirrored(findings: list[Finding]) -> list[Finding]:
    """The findings without those whose other image is listed with this one before."""
    pairs: set[tuple[str, str | None]] = set()
    kept = []
    for each in findings:
        if (each.detail, each.image_id) not in pairs:
            kept.append(each)
        pairs.add((each.image_id, each.detail))
    return kept
