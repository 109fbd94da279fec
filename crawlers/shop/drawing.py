"""Draws shop images from the 28 x 28 pixels of Fashion-MNIST: the whole garment, or a close-up of its fabric.

Shared by the shop and by the script that builds the sample. Knows nothing of products or labels.
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
GARMENT = 40  # a pixel this bright is garment, darker ones are the black ground
FILLED = 0.97  # share of a close-up's pixels that must be garment

Pixels = UInt8[np.ndarray, "28 28"]


@dataclass(frozen=True)
class CloseUp:
    """A square of the source image."""

    left: int  # px
    top: int
    side: int


@dataclass(frozen=True)
class WholeView:
    """The whole image; the first view is the plain one, others are mirrored and moved a little."""

    mirrored: bool = False
    right: int = 0  # px of the source image
    down: int = 0


def find_close_up(pixels: Pixels, random: Random) -> CloseUp | None:
    """A random square that the garment fills, of a random size where there are several; None: it is too slender."""
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
    """The image that a shop would show: grey, `SIDE` px square, enlarged smoothly."""
    image = Image.fromarray(pixels)
    if isinstance(view, CloseUp):
        image = image.crop((view.left, view.top, view.left + view.side, view.top + view.side))
    else:
        if view.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if view.right or view.down:  # what is moved in is the black ground
            image = image.transform(image.size, Image.Transform.AFFINE, (1, 0, -view.right, 0, 1, -view.down))
    return _enlarged(image)


def draw_through_bottleneck(pixels: Pixels, side: int) -> Image.Image:
    """The whole image, as blurred as a close-up of ``side`` px is: shrunk to ``side`` px, then enlarged."""
    return _enlarged(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def encode_jpeg(image: Image.Image, quality: int = QUALITY) -> bytes:
    """JPEG bytes; the same image gives the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _enlarged(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
