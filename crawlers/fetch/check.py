"""Bytes that should be an image: checked at the least cost, in threads, without too much memory at once."""

import threading

from atlas_model.core.errors import ImageError
from atlas_model.data.images import ImageInfo, probe

SMALL_PIXELS = 4_000_000  # most images; a larger one can take 160 MB to decode
_one_large = threading.Lock()


def check(data: bytes, max_pixels: int) -> ImageInfo:
    """What ``data`` is, decoded to its end; one large image at a time.

    Raises:
        ImageError: it is no image, not a whole one, or has more than ``max_pixels``.
    """
    try:
        return probe(data, min(SMALL_PIXELS, max_pixels))
    except ImageError as error:
        if error.status != "too_many_pixels" or max_pixels <= SMALL_PIXELS:
            raise
    with _one_large:
        return probe(data, max_pixels)
