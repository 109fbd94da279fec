"""Attention overlays: the image, and the image with the decoder's attention for each predicted level."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

from atlas_model.viz.plots import render

PANEL_INCHES = 2.2
PANEL_PX = 224


def overlay(
    image: Image.Image,
    names: Sequence[str],
    attention: Float[np.ndarray, "t cells"],
    *,
    title: str,
) -> Image.Image:
    """Draw a row of panels: the image, and for each level the image with a heat map of the attention.

    Args:
        image: the model's input or larger; the grid of cells is stretched over it.
        names: of the levels.
        attention: at least one row per name, over a square grid of cells.
        title: above the panels; drawn literally, without math markup.
    """
    side = math.isqrt(attention.shape[1])
    assert side * side == attention.shape[1], "attention comes from a square grid"
    base = image.convert("RGB").resize((PANEL_PX, PANEL_PX), Image.Resampling.BICUBIC)
    figure = Figure(figsize=(PANEL_INCHES * (len(names) + 1), PANEL_INCHES + 0.7), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=9, parse_math=False)
    panels = figure.subplots(1, len(names) + 1, squeeze=False)[0]
    for panel in panels:
        panel.imshow(base)
        panel.set_axis_off()
    for panel, name, weights in zip(panels[1:], names, attention, strict=False):
        cells = Image.fromarray(weights.reshape(side, side).astype(np.float32))
        heat = np.asarray(cells.resize((PANEL_PX, PANEL_PX), Image.Resampling.BICUBIC))
        panel.imshow(heat, cmap="inferno", alpha=0.6, vmin=0.0, vmax=max(float(heat.max()), 1e-6))
        panel.set_title(name, fontsize=9, parse_math=False)
    return render(figure)
