"""Draws shop images from the 28 x 28 pixels of Fashion-MNIST: the whole garment, or a close-up of its fabric.

Used by the demo shops and by tools/build_sample.py.
"""

import io
from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import UInt8
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

SOURCE_SIDE = 28  # px of a source image
SIDE = 112  # px of a shop image
QUALITY = 80  # JPEG
CLOSE_UP_SIDES = range(8, 13)  # px of the source image that a close-up shows
GARMENT = 40  # least grey value of a garment's pixel; darker pixels are background
FILLED = 0.97  # least share of garment pixels in a close-up

Pixels = UInt8[np.ndarray, "28 28"]


@dataclass(frozen=True)
class CloseUp:
    """A square of the source image."""

    left: int  # px
    top: int
    side: int


@dataclass(frozen=True)
class WholeView:
    """The whole image; a second view is mirrored and shifted."""

    mirrored: bool = False
    right: int = 0  # px of the source image
    down: int = 0


def find_close_up(pixels: Pixels, random: Random) -> CloseUp | None:
    """A random square filled by the garment, of a random possible size; None if the garment is too narrow."""
    sides = list(CLOSE_UP_SIDES)
    random.shuffle(sides)
    for side in sides:
        windows = sliding_window_view(pixels > GARMENT, (side, side))  # (29 - side, 29 - side, side, side)
        places = np.argwhere(windows.mean(axis=(2, 3)) >= FILLED)
        if len(places):
            top, left = places[random.randrange(len(places))]
            return CloseUp(int(left), int(top), side)
    return None


def draw(pixels: Pixels, view: WholeView | CloseUp) -> Image.Image:
    """The shop image: grey, `SIDE` x `SIDE` px, bicubic interpolation."""
    image = Image.fromarray(pixels)
    if isinstance(view, CloseUp):
        image = image.crop((view.left, view.top, view.left + view.side, view.top + view.side))
    else:
        if view.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if view.right or view.down:  # black background is shifted in
            image = image.transform(image.size, Image.Transform.AFFINE, (1, 0, -view.right, 0, 1, -view.down))
    return _enlarged(image)


def draw_downsampled(pixels: Pixels, side: int) -> Image.Image:
    """The whole image with the blur of a close-up of ``side`` px: reduced to ``side`` px, then enlarged."""
    return _enlarged(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def encode_jpeg(image: Image.Image, quality: int = QUALITY) -> bytes:
    """Encode as JPEG; deterministic."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _enlarged(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
