"""Measures of an image's quality, from a grey thumbnail of it.

Knows no thresholds; `issues` turns measures into scores.
"""

from typing import TypedDict

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

THUMBNAIL = 64  # px, longer side; images are reduced to it, so that blur does not depend on their resolution
SMALL_THUMBNAIL = 32  # px; for models of small images, which do not see a slight blur
MIN_BLUR_SIDE = 20  # px, shorter side of a thumbnail; below it the edges of objects fill the image, blurred or not
BLUR_WINDOW = 5  # px
DARK, BRIGHT = 0.05, 0.99  # quantiles of the brightness
LEVELS = 256  # of grey


class ImageMeasures(TypedDict):
    """Measures of an image; the names are columns of `schemas.SCORES`."""

    brightness_low: float  # 5 % quantile of the grey values, range [0, 1]; high: the image is white, or nearly so
    brightness_high: float  # 99 % quantile; low: the image is dark
    entropy: float  # of the grey values, bits, range [0, 8]; low: the image shows nothing
    blur_64: float | None  # of `THUMBNAIL`, range [0, 1], 1: blurred; None for a thumbnail too small, or without edges
    blur_32: float | None  # of `SMALL_THUMBNAIL`


def measure_image(image: Image.Image) -> ImageMeasures:
    """Measure a decoded image of mode L or RGB, of any size."""
    thumbnail = _reduced(image, THUMBNAIL).convert("L")
    grey = np.asarray(thumbnail, dtype=np.uint8)
    counts = np.bincount(grey.reshape(-1), minlength=LEVELS)  # (256,)
    shares = counts[counts > 0] / grey.size
    cumulative = np.cumsum(counts)
    low, high = (int(np.searchsorted(cumulative, share * grey.size)) / (LEVELS - 1) for share in (DARK, BRIGHT))
    return {
        "brightness_low": low,
        "brightness_high": high,
        "entropy": float(-(shares * np.log2(shares)).sum()) + 0.0,  # not -0.0
        "blur_64": blur(grey),
        "blur_32": blur(np.asarray(_reduced(thumbnail, SMALL_THUMBNAIL), dtype=np.uint8)),
    }


def blur(grey: UInt8[np.ndarray, "h w"]) -> float | None:
    """How little an image changes when it is blurred, range [0, 1]; None if it is too small, or has no edges.

    Blurring a sharp image changes the differences between adjacent pixels much; blurring a blurred image changes them
    little. Crete et al. (2007), "The blur effect: perception and estimation with a new no-reference perceptual blur
    metric", section 2; with a window of `BLUR_WINDOW` instead of 9 pixels, because thumbnails are small. A plain
    background has no differences, so it does not count, unlike in measures of the variance of an edge filter.
    """
    if min(grey.shape) < MIN_BLUR_SIDE:
        return None
    values = np.asarray(grey, dtype=np.float32)
    found = [share for share in (_blur_along(values), _blur_along(values.T)) if share is not None]
    return max(found, default=None)


def _blur_along(values: Float[np.ndarray, "n m"]) -> float | None:
    """The blur along the first axis."""
    length = len(values) - BLUR_WINDOW + 1
    smooth = sum((values[start : start + length] for start in range(1, BLUR_WINDOW)), start=values[:length])
    margin = BLUR_WINDOW // 2
    before = np.abs(np.diff(values[margin : margin + length], axis=0))
    after = np.abs(np.diff(smooth, axis=0)) / BLUR_WINDOW
    total = float(before.sum(dtype=np.float64))
    return 1 - float(np.maximum(before - after, 0).sum(dtype=np.float64)) / total if total else None


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """``image`` with its longer side at most ``side`` px; a smaller image is not enlarged."""
    factor = max(image.size) / side
    if factor <= 1:
        return image
    size = [max(1, round(each / factor)) for each in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=2.0)
