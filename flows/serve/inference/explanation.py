"""Attention of the decoder at each level, drawn on an image, as WebP or PNG in base64."""

import base64
import io
import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from PIL import Image

OverlayFormat = Literal["webp", "png"]
OPACITY = 0.75  # of the most attended cell
QUALITY = 80  # of WebP


def levels(view: Image.Image, path: Sequence[str], attention: np.ndarray, form: OverlayFormat) -> list[dict[str, Any]]:
    """For each name of ``path`` its weights and the image with the attention drawn on it.

    Args:
        view: what the model sees, from `Predictor.view`.
        path: the explained category path.
        attention: from `Predictor.attention`: steps x cells.
        form: file format of the overlays.
    """
    side = math.isqrt(attention.shape[1])
    return [
        {
            "name": name,
            "grid": [[round(float(weight), 5) for weight in row] for row in weights.reshape(side, side)],
            "overlay": base64.b64encode(_encoded(overlay(view, weights.reshape(side, side)), form)).decode(),
        }
        for name, weights in zip(path, attention, strict=False)
    ]


def overlay(view: Image.Image, weights: np.ndarray) -> Image.Image:
    """``view`` with a heat map of ``weights`` (rows x columns), stretched over it; less attended cells are clearer."""
    cells = Image.fromarray((weights / max(float(weights.max()), 1e-6)).astype(np.float32))
    heat = np.clip(np.asarray(cells.resize(view.size, Image.Resampling.BICUBIC)), 0, 1)
    color = _colors()[(heat * 255).astype(np.uint8)]
    opacity = (OPACITY * heat)[..., None]
    mixed = np.asarray(view, dtype=np.float32) * (1 - opacity) + color * opacity
    return Image.fromarray(mixed.astype(np.uint8))


@cache
def _colors() -> np.ndarray:
    from matplotlib import colormaps  # slow to import

    return np.asarray(colormaps["inferno"](np.arange(256))[:, :3] * 255, dtype=np.float32)


def _encoded(image: Image.Image, form: OverlayFormat) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form.upper(), **({"quality": QUALITY} if form == "webp" else {}))
    return buffer.getvalue()
