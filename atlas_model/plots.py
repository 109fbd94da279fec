"""Plots that people look at, as pictures. Knows nothing of where the figures come from."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

LABELLED_CELLS = 30  # with more categories than this the numbers in the cells could not be read


def render(figure: Figure) -> Image.Image:
    """``figure`` as a picture; drawn without a display."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    return Image.open(buffer).convert("RGB")


def confusion_plot(names: Sequence[str], counts: Int[np.ndarray, "m m"]) -> Image.Image:
    """A confusion matrix: rows are right, columns are predicted, shades are shares of the row."""
    size = min(3.0 + 0.5 * len(names), 30.0)
    figure = Figure(figsize=(size, size), dpi=100, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
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
