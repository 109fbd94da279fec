"""Statistics of a data set's images: sizes, aspect ratios, grey or coloured."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image

from atlas_model.core.errors import ImageError
from atlas_model.data.images import ImageInfo, decode

GREY_DIFFERENCE = 3.0  # of 255: mean difference between channels; JPEG's rounding makes some in grey images
SWAPPED_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
SMALL_SIDE = 32  # px


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of distinct images, with EXIF orientation applied."""

    count: int
    median_side: int  # px, of the longer sides
    small: int  # images whose longer side is below `SMALL_SIDE`
    aspects: tuple[float, float, float]  # width / height: 5 %, median, 95 %
    grey: bool  # whether all samples are grey


def survey(infos: Iterable[ImageInfo], samples: Iterable[bytes]) -> ImageStatistics:
    """Compute the statistics of images.

    Args:
        infos: of each image; at least one.
        samples: the bytes of some of them, which are checked for colours.
    """
    sizes = np.array([_size(info) for info in infos], dtype=np.float64).reshape(-1, 2)  # (n, 2): width, height
    assert len(sizes)
    sides = sizes.max(axis=1)  # (n,)
    low, middle, high = np.quantile(sizes[:, 0] / sizes[:, 1], (0.05, 0.5, 0.95))
    return ImageStatistics(
        count=len(sizes),
        median_side=int(np.median(sides)),
        small=int((sides < SMALL_SIDE).sum()),
        aspects=(float(low), float(middle), float(high)),
        grey=all(map(_is_grey, samples)),
    )


def _size(info: ImageInfo) -> tuple[int, int]:
    return (info.height, info.width) if info.orientation in SWAPPED_ORIENTATIONS else (info.width, info.height)


def _is_grey(data: bytes) -> bool:
    with suppress(ImageError):
        image = decode(data, side=SMALL_SIDE)
        if image.mode == "L":
            return True
        small = image.resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, dtype=np.float64)  # (32, 32, 3)
        return bool((pixels.max(axis=2) - pixels.min(axis=2)).mean() < GREY_DIFFERENCE)
    return True  # cannot be decoded: no evidence of colours
