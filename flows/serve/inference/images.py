"""Images of requests: decoding, with the limits of the service, in threads. Downloads are in `urls`."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from atlas_model.core.errors import ImageError
from atlas_model.data.images import decode
from atlas_model.inference.predictor import Predictor

VIEW_SIDE = 512  # px, longer side of the images that attention is drawn on


@dataclass(frozen=True)
class DecodedImage:
    """An image as the model takes it."""

    image_id: str  # sha256 of its bytes, as in the pipeline
    pixels: np.ndarray  # channels, height, width
    view: Image.Image | None  # to draw on, if requested


@dataclass(frozen=True)
class Base64Image:
    """The file of an image in base64."""

    text: str


@dataclass(frozen=True)
class ImageUrl:
    """The URL of an image."""

    url: str


@dataclass(frozen=True)
class UnreadableImage:
    """Why an image cannot be used."""

    status: str  # as in the data files: truncated, not_an_image, ...; or as `FetchOutcome.status`
    detail: str


def from_base64(text: str, max_bytes: int) -> bytes:
    """The bytes of an image in base64, with or without padding and line ends, also as a data URL.

    Raises:
        ImageError: it is not base64, or too large.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > max_bytes * 4 // 3 * 1.1:
        raise ImageError("too_large", f"expected at most {max_bytes} bytes, got {len(text)} characters of base64")
    try:
        compact = "".join(text.split()).rstrip("=")
        data = base64.b64decode(compact + "=" * (-len(compact) % 4), altchars=_alphabet(compact), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("bad_base64", f"expected the bytes of an image in base64: {error}") from error
    return data


def _alphabet(text: str) -> bytes | None:
    """The other two characters of base64url, if ``text`` has them."""
    return b"-_" if "-" in text or "_" in text else None


Source = bytes | Base64Image | ImageUrl


def read(
    given: bytes | Base64Image, predictor: Predictor, *, max_bytes: int, max_pixels: int, view: bool
) -> DecodedImage | UnreadableImage:
    """Decode an image as `atlas predict` does; never raises for what is in it.

    Args:
        given: the image.
        predictor: whose input it becomes.
        max_bytes: limit of its size.
        max_pixels: limit of width x height.
        view: whether `DecodedImage.view` is needed.
    """
    try:
        data = from_base64(given.text, max_bytes) if isinstance(given, Base64Image) else given
        if len(data) > max_bytes:
            raise ImageError("too_large", f"expected at most {max_bytes} bytes, got {len(data)}")
        image = decode(data, max_pixels, side=max(predictor.side, VIEW_SIDE) if view else predictor.side)
        seen = predictor.view(image, VIEW_SIDE) if view else None
        if view:  # the same pixels as without a view
            image = decode(data, max_pixels, side=predictor.side)
        return DecodedImage(hashlib.sha256(data).hexdigest(), predictor.prepare(image), seen)
    except ImageError as error:
        return UnreadableImage(error.status, str(error))
