"""Compares the exact paths of models: a point and a 95 % interval each, on one axis."""

import math
from dataclasses import dataclass

from flows.report.charts import Tick
from flows.report.facts.figures import Figure, Metrics, read_figure

WIDTH, ROW, TOP, AXIS = 460.0, 30.0, 6.0, 24.0  # units of the SVG
LABEL = 165.0  # width of the names
EDGE = 16.0
HALF_TEXT = 25.0  # of "100 %" below the axis, in the font of narrow screens
PADDING = 0.15  # of the span of the intervals, on each side
LEAST_SPAN = 0.02


@dataclass(frozen=True)
class Row:
    """A model."""

    name: str
    text: str  # value and interval
    y: float
    x: float
    low: float
    high: float
    main: bool  # the model of the report


@dataclass(frozen=True)
class Forest:
    """The chart."""

    height: float
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    axis: float  # y

    width, left, right = WIDTH, LABEL, WIDTH - EDGE

    def anchor(self, tick: Tick) -> str:
        """The part of a tick's text that is at its position: near the right edge the end, for an SVG is clipped."""
        return "end" if tick.at + HALF_TEXT > self.width else "middle"


def forest(metrics: Metrics) -> Forest | None:
    """The comparison of this model with the last accepted one and with the plain classifier; None if it has no rows."""
    models: list[tuple[str, Figure]] = [("this model", metrics.headlines[0].figure)]
    before = metrics.acceptance.before
    if before is not None and before.test is not None:
        models.append((f"accepted version {before.version}", read_figure(before.test, "micro_f1")))
    models.append(("plain classifier", metrics.baseline))
    known = [(name, figure, figure.interval) for name, figure in models if figure.value is not None and figure.interval]
    if not known:
        return None
    low, high = min(ends[0] for *_, ends in known), max(ends[1] for *_, ends in known)
    span = max(high - low, LEAST_SPAN)
    low, high = max(0.0, low - PADDING * span), min(1.0, high + PADDING * span)
    scale = (WIDTH - EDGE - LABEL) / (high - low)

    def x(value: float) -> float:
        return round(LABEL + (value - low) * scale, 1)

    rows = tuple(
        Row(
            name,
            f"{(figure.value or 0) * 100:.1f} % ({ends[0] * 100:.1f} to {ends[1] * 100:.1f} %)",
            TOP + ROW * (number + 0.5),
            x(figure.value or 0),
            x(ends[0]),
            x(ends[1]),
            number == 0,
        )
        for number, (name, figure, ends) in enumerate(known)
    )
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / step <= 6)
    first = math.ceil(low / step)
    ticks = tuple(
        Tick(x(number * step), f"{number * step * 100:.3g} %") for number in range(first, math.floor(high / step) + 1)
    )
    axis = TOP + ROW * len(rows)
    return Forest(axis + AXIS, rows, ticks, axis)
