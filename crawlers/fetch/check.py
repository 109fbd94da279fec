"""Validation of downloaded bytes as an image, with bounded memory across threads."""

import threading

from atlas_model.core.errors import ImageError
from atlas_model.data.images import ImageInfo, probe

SMALL_PIXELS = 4_000_000  # a larger image can take 160 MB to decode
_one_large = threading.Lock()


def check(data: bytes, max_pixels: int) -> ImageInfo:
    """Decode ``data`` completely and describe the image; large images are decoded one at a time.

    Raises:
        ImageError: ``data`` is not an image, is truncated, or has more than ``max_pixels``.
    """
    try:
        return probe(data, min(SMALL_PIXELS, max_pixels))
    except ImageError as error:
        if error.status != "too_many_pixels" or max_pixels <= SMALL_PIXELS:
            raise
    with _one_large:
        return probe(data, max_pixels)
