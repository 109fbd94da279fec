"""Images of where the decoder looked: one panel for the image, one for each level that it wrote.

Knows nothing of models: an image, names and weights in, an image out.
"""

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
    """A strip of panels, the first plain, the others lit where the decoder looked to write their level.

    Args:
        image: as the model saw it or larger, square cells are stretched over it.
        names: of the levels.
        attention: of at least as many steps as there are names, over a square grid of cells.
        title: above the strip; shown as it is, never interpreted.
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
