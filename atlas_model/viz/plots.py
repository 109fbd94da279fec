"""Plots of an evaluation as images: confusion matrix, reliability diagram, coverage."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

LABELLED_CELLS = 30  # with more categories the cells have no numbers, which would be too small to read
MAX_CATEGORIES = 40  # of a confusion matrix
GREY = "#999999"


def render(figure: Figure) -> Image.Image:
    """Draw ``figure`` as an image, without a display."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    return Image.open(buffer).convert("RGB")


def confusion_plot(names: Sequence[str], counts: Int[np.ndarray, "m m"], totals: Int[np.ndarray, "m"]) -> Image.Image:
    """A confusion matrix: rows are right, columns predicted, shades the shares of the rows' ``totals``."""
    shares = counts / np.maximum(totals, 1)[:, None]
    size = 3.0 + 0.5 * len(names)
    figure = Figure(figsize=(size, size), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("right")
    if len(names) <= LABELLED_CELLS:
        for row, column in np.argwhere(counts):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=shade, fontsize=8)
    return render(figure)


def reliability_plot(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Image.Image:
    """Reliability diagrams of `calibration.reliability` by name, with the numbers of predictions below.

    A calibrated model is on the diagonal; an overconfident one is below it. Larger points have more predictions.
    """
    figure = Figure(figsize=(5.4, 6.4), dpi=100, layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
    most = max(row["n"] for rows in curves.values() for row in rows)
    for name, rows in curves.items():
        confidence, accuracy, n = (np.array([row[key] for row in rows]) for key in ("confidence", "accuracy", "n"))
        (line,) = axes.plot(confidence, accuracy, linewidth=1, alpha=0.5)
        colour = line.get_color()
        axes.scatter(confidence, accuracy, s=6 + 120 * np.sqrt(n / most), color=colour, alpha=0.7, label=name)
        counts.plot(confidence, n, marker="o", markersize=4, color=colour)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of exact paths")
    counts.set(xlabel="probability of the answer", ylabel="answers", yscale="log")
    for handle in axes.legend(loc="upper left", frameon=False).legend_handles[1:]:
        handle.set_sizes([36])
    for each in (axes, counts):
        _plain(each)
    return render(figure)


def abstention_plot(rows: Sequence[Mapping[str, float | None]]) -> Image.Image:
    """Coverage and accuracy against the minimum confidence, from rows of `calibration.abstention_curve`."""
    figure = Figure(figsize=(5.4, 4.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    thresholds = [_number(row["min_confidence"]) for row in rows]
    levels = [name for name in rows[0] if name.startswith("coverage_")]
    for index, name in enumerate(levels):
        shade = 0.35 + 0.6 * (index + 1) / len(levels)
        label = f"answered down to level {name.removeprefix('coverage_')}"
        axes.plot(thresholds, [_number(row[name]) for row in rows], color=colormaps["Blues"](shade), label=label)
    accuracy = [_number(row["accuracy"]) for row in rows]
    axes.plot(thresholds, accuracy, color="#d95f02", linewidth=2, label="right, of those answered")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="least probability of an answer", ylabel="share of images")
    axes.legend(loc="lower left", frameon=False)
    _plain(axes)
    return render(figure)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value  # leaves a gap in the line


def _plain(axes: Any) -> None:
    axes.grid(color=GREY, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
