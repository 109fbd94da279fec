"""Line charts as SVG: computes positions; the template ``chart.svg.j2`` writes them.

The points of a chart are also a table in the page, for readers who do not see the chart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.report.facts.predictions import RiskPoint

WIDTH, HEIGHT = 460.0, 320.0  # units of the SVG
LEFT, RIGHT, TOP, BOTTOM = 52.0, 24.0, 12.0, 46.0  # margins for the labels
LARGEST_MARK = 7.0  # radius


@dataclass(frozen=True)
class Mark:
    """A point with an area."""

    x: float
    y: float
    radius: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    number: int  # from 1: the colour
    points: str  # of an SVG polyline
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Tick:
    """A label of an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A line chart with shares on both axes."""

    key: str  # id of the SVG
    title: str
    description: str  # what can be seen, for readers who do not see it
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    diagonal: tuple[float, float, float, float] | None  # x1, y1, x2, y2
    columns: tuple[str, ...]  # of the table
    rows: tuple[tuple[str, ...], ...]

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM


def reliability_chart(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Chart | None:
    """A reliability diagram; the area of a mark is the number of predictions.

    Args:
        curves: name of a model -> rows with ``confidence``, ``accuracy`` and ``n``, as plots/evaluate has them.
    """
    curves = {name: rows for name, rows in curves.items() if rows}
    if not curves:
        return None
    most = max(row["n"] for rows in curves.values() for row in rows)
    lines = []
    for number, (name, rows) in enumerate(curves.items(), start=1):
        marks = tuple(
            Mark(
                _x(row["confidence"]),
                _y(row["accuracy"], 1.0),
                round(max(1.5, LARGEST_MARK * math.sqrt(row["n"] / most)), 2),
                f"{name}: stated {_percent(row['confidence'])}, correct {_percent(row['accuracy'])}, "
                f"{int(row['n']):,} images",
            )
            for row in rows
        )
        lines.append(Line(name, number, _polyline(marks), marks))
    table = tuple(
        (name, _percent(row["confidence"]), _percent(row["accuracy"]), f"{int(row['n']):,}")
        for name, rows in curves.items()
        for row in rows
    )
    return Chart(
        "reliability",
        "Reliability",
        "A calibrated model is on the diagonal; below it, it is too sure. Larger points have more images.",
        "stated probability",
        "share correct",
        tuple(Tick(_x(value / 5), f"{value * 20}") for value in range(6)),
        tuple(Tick(_y(value / 5, 1.0), f"{value * 20}") for value in range(6)),
        tuple(lines),
        (_x(0), _y(0, 1.0), _x(1), _y(1, 1.0)),
        ("model", "stated probability", "share correct", "images"),
        table,
    )


def risk_chart(points: Sequence[RiskPoint]) -> Chart | None:
    """The risk-coverage curve."""
    if not points:
        return None
    top = _round_up(max(point.risk for point in points))
    marks = tuple(Mark(_x(point.coverage), _y(point.risk, top), 0.0, "") for point in points)
    whole = points[-1]
    half = min(points, key=lambda point: abs(point.coverage - 0.5))
    return Chart(
        "risk",
        "Risk and coverage",
        f"If only the most certain half of the predictions is accepted, {_percent(half.risk)} of these are wrong; of "
        f"all predictions, {_percent(whole.risk)}.",
        "share of the images accepted, the most certain first",
        "share of these that is wrong",
        tuple(Tick(_x(value / 5), f"{value * 20}") for value in range(6)),
        tuple(Tick(_y(top * value / 4, top), f"{top * value * 25:.3g}") for value in range(5)),
        (Line("whole path", 1, _polyline(marks), ()),),
        None,
        ("accepted", "wrong", "least probability"),
        tuple(
            (_percent(point.coverage), _percent(point.risk), _percent(point.threshold))
            for number, point in enumerate(points)
            if number % 3 == 2 or point is whole
        ),
    )


def _polyline(marks: Sequence[Mark]) -> str:
    return " ".join(f"{mark.x:g},{mark.y:g}" for mark in marks)


def _x(value: float) -> float:
    return round(LEFT + value * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float, top: float) -> float:
    return round(HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM), 1)


def _round_up(value: float) -> float:
    """The end of an axis: the next of 1, 2, 4 or 8 percent, or multiple of 10."""
    steps = [0.01, 0.02, 0.04, 0.08, *(ten / 10 for ten in range(1, 11))]
    return next(step for step in steps if value <= step)


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"
