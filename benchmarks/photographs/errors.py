"""Writes contact sheets of the worst errors, a table to judge them in, and the confusions by pair.

The worst errors are those with the highest probability, on the validation and the test split. They are written to
``errors/`` in the workspace, never to git, because the images must not be published.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from atlas_model.core.errors import MissingError
from atlas_model.core.files import replacing_folder
from atlas_model.taxonomy.tree import SEPARATOR

COLUMNS, ROWS = 8, 5  # of a sheet
SIDE, TEXT, GAP = 200, 74, 8  # px: of an image, of the lines under it, between two
LINE, FONT = 18, 13  # px
SHOWN = ("val", "test")
CSV_COLUMNS = ("number", "sheet", "split", "product_id", "title", "actual", "predicted", "probability", "verdict")
PAIR_COLUMNS = ("actual", "predicted", "count", "share_of_errors", "mean_probability")


def write_errors(workspace: Path, seed: int, count: int) -> list[Path]:
    """Write the sheets and both tables; returns their paths.

    Args:
        workspace: of the benchmark.
        seed: of the model.
        count: number of errors on the sheets. The table of pairs counts all errors.

    Raises:
        MissingError: the benchmark has not run with this seed.
    """
    predictions = workspace / f"seeds/{seed}/reports/evaluate/predictions.parquet"
    splits = workspace / "pipeline/data/splits"
    for path in (predictions, splits):
        if not path.exists():
            raise MissingError(f"{path}: no such file; make benchmark NAME=photographs writes it (seed {seed})")
    table = pq.read_table(predictions)
    table = table.filter(pc.is_in(table["split_value"], pa.array(SHOWN)))
    wrong = table.filter(pc.not_equal(table["actual_category"], table["predicted_category"])).sort_by(
        [("log_probability", "descending"), ("product_id", "ascending")]
    )
    worst = wrong.slice(0, count).to_pylist()
    stored = _stored(splits, {row["product_id"] for row in worst})
    folder = workspace / "errors"
    with replacing_folder(folder) as made:
        rows = [_row(number, row, stored[row["product_id"]]) for number, row in enumerate(worst, start=1)]
        per_sheet = COLUMNS * ROWS
        for start in range(0, len(rows), per_sheet):
            shown = rows[start : start + per_sheet]
            images = [stored[row["product_id"]]["image"]["bytes"] for row in shown]
            sheet(shown, images).save(made / f"{shown[0]['sheet']}")
        _write_csv(made / "errors.csv", CSV_COLUMNS, rows)
        _write_csv(made / "confusions.csv", PAIR_COLUMNS, confusions(wrong.to_pylist()))
    return sorted(folder.iterdir())


def confusions(wrong: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs of actual and predicted categories, the most frequent first.

    Args:
        wrong: rows of predictions.
    """
    pairs: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in wrong:
        pairs[row["actual_category"], row["predicted_category"]].append(math.exp(row["log_probability"]))
    return [
        {
            "actual": actual,
            "predicted": predicted,
            "count": len(found),
            "share_of_errors": round(len(found) / len(wrong), 4),
            "mean_probability": round(sum(found) / len(found), 3),
        }
        for (actual, predicted), found in sorted(pairs.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    ]


def sheet(rows: Sequence[dict[str, Any]], images: Iterable[bytes]) -> Image.Image:
    """A contact sheet: each image with its category, the prediction, its probability, and the title."""
    width, height = SIDE + GAP, SIDE + TEXT + GAP
    lines = math.ceil(len(rows) / COLUMNS)
    made = Image.new("RGB", (COLUMNS * width + GAP, lines * height + GAP), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(FONT)
    for place, (row, data) in enumerate(zip(rows, images, strict=True)):
        left, top = GAP + place % COLUMNS * width, GAP + place // COLUMNS * height
        image = Image.open(BytesIO(data)).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        made.paste(image, (left, top))
        actual, predicted = _short_labels(row["actual"], row["predicted"])
        texts = (
            f"{row['number']} {row['split']}: {actual}",
            f"{row['probability']:.3f} {predicted}",
            *_wrapped(row["title"], font, lines=2),
        )
        for number, text in enumerate(texts):
            color = ("black", "firebrick", "dimgray", "dimgray")[number]
            draw.text((left, top + SIDE + 2 + number * LINE), _truncated(text, font), fill=color, font=font)
    return made


def _short_labels(actual: str, predicted: str) -> tuple[str, str]:
    """The last name of each label, or the whole labels if the last names are equal."""
    first, second = (label.rpartition(SEPARATOR)[2] for label in (actual, predicted))
    return (first, second) if first != second else (actual, predicted)


def _wrapped(text: str, font: Any, lines: int) -> list[str]:
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if font.getlength(longer) <= SIDE or len(found) == lines:
            found[-1] = longer
        else:
            found.append(word)
    return found


def _truncated(text: str, font: Any) -> str:
    if font.getlength(text) <= SIDE:
        return text
    while text and font.getlength(f"{text}...") > SIDE:
        text = text[:-1]
    return f"{text}..."


def _stored(splits: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Product -> its row of the splits; each product of this benchmark has one image."""
    found: dict[str, dict[str, Any]] = {}
    for name in SHOWN:
        for path in sorted(splits.glob(f"{name}-*.parquet")):
            table = pq.read_table(path, columns=["image", "product_id", "title"])
            rows = table.filter(pc.is_in(table["product_id"], pa.array(sorted(wanted), pa.string())))
            found |= {row["product_id"]: row for row in rows.to_pylist()}
    return found


def _row(number: int, row: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": number,
        "sheet": f"sheet-{(number - 1) // (COLUMNS * ROWS) + 1}.png",
        "split": row["split_value"],
        "product_id": row["product_id"],
        "title": stored["title"],
        "actual": row["actual_category"],
        "predicted": row["predicted_category"],
        "probability": round(math.exp(row["log_probability"]), 4),
        "verdict": "",  # to be filled in by hand
    }


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
