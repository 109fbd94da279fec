"""Untrusted images: validating, decoding, resizing, hashing.

All images enter Atlas through `probe` (validation and metadata) and `decode` (pixels, with EXIF orientation applied,
the first frame, transparency over white, 8 bits per channel). Takes bytes; files and URLs are handled elsewhere.
"""

import io
import math
import re
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import (  # noqa: F401  # Pillow would import them for the first image, and leave out what fails
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from atlas_model.core.errors import ImageError
from atlas_model.core.machine import check_machine_for
from atlas_model.data.png_metadata import without_metadata

# Pillow's formats, except those that run other programs, contain other images, have no signature, or take minutes to
# decode in Python. MPO is opened as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM")
MAX_PIXELS = 40_000_000  # larger images take hundreds of MB to decode
MAX_DECODED_BYTES = 4 * MAX_PIXELS  # an image takes at most that many at once
LARGE_PIXELS = 4_000_000  # larger images are reduced while decoding, if a small one is requested
MAX_SCANS = 100  # of a JPEG: a scan of a few bytes costs as much as all pixels; progressive files have some 10
MAX_SEGMENTS = 1_000  # of a JPEG: Pillow keeps each in memory
HASH_SIDE = 32  # px of the image that is hashed; its lowest 8 x 8 frequencies are used
ROWS_AT_ONCE = 256  # rows of a large image that are reduced together
MAX_COMPONENTS = 4  # of a JPEG 2000: each takes as much memory as a grey image
MAX_PAGES = 100  # of a TIFF: the time to find a page grows with its number
EXIF_ORIENTATION = 0x0112
BITS_PER_SAMPLE, PHOTOMETRIC, TILE_WIDTH, TILE_LENGTH = 258, 262, 322, 323  # TIFF tags
TRANSPOSES = {  # EXIF orientation -> transpose that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of unusual metadata, which is irrelevant here. Set once for the process: images are decoded in threads,
# and `warnings.catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # replaced by `max_pixels`, checked from the header before decoding

Mode = Literal["L", "RGB"]
Resize = Literal["squash", "pad", "crop"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class ImageInfo:
    """Metadata of an image; names as in `schemas.IMAGES`."""

    width: int  # px, as stored
    height: int
    format: str
    mode: str
    orientation: int  # EXIF, 1-8
    n_frames: int


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded image becomes a model's input; saved with every model, so that prediction does the same."""

    size: int  # px, square
    mode: Mode
    resize: Resize
    interpolation: Interpolation = "bicubic"  # the default is for models saved without this field

    def apply(self, image: Image.Image) -> Image.Image:
        """Convert ``image`` to ``mode`` and ``size`` x ``size``.

        It is squashed; or, to keep its aspect ratio, padded with black or center-cropped.
        """
        image = image.convert(self.mode)
        target = (self.size, self.size)
        if image.size == target:
            return image
        method = Image.Resampling[self.interpolation.upper()]
        if self.resize == "pad":
            return ImageOps.pad(image, target, method)
        if self.resize == "crop":
            return ImageOps.fit(image, target, method)
        return image.resize(target, method)

    def read(self, data: bytes) -> Image.Image:
        """Decode ``data`` and `apply` this, in memory that does not grow with the image.

        Raises:
            ImageError: as `probe`.
        """
        return self.apply(decode(data, side=self.size))

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return asdict(self)


def probe(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Check that ``data`` is a complete image; finds everything that `decode` would reject, at the least cost.

    JPEGs are decoded in grey at an eighth of their size, which reads all bytes; `Image.verify` misses truncation.

    Raises:
        ImageError: with status ``empty``, ``not_an_image``, ``too_many_pixels``, ``decompression_bomb`` (few bytes that
            take much time or memory), ``unknown_range`` (the value of white is not defined) or ``truncated``.
    """
    image = _open(data, max_pixels)
    with _decoding():
        (width, height), mode = image.size, image.mode
        if image.format in ("JPEG", "MPO"):
            image.draft("L", (max(1, width // 8), max(1, height // 8)))
        image.load()  # before reading metadata, which also loads and may hide errors
        if image.mode == "P" and image.palette is None:  # which `crop` would add
            raise ValueError("it has no palette")
        _flattened(image.crop((0, 0, 1, 1)), getattr(image, "tag_v2", {}))
        return ImageInfo(
            width=width,
            height=height,
            format="JPEG" if image.format == "MPO" else str(image.format),
            mode=mode,
            orientation=_orientation(image),
            n_frames=_frame_count(image, data),
        )


def decode(data: bytes, max_pixels: int = MAX_PIXELS, side: int | None = None) -> Image.Image:
    """Decode an image to mode L or RGB, upright.

    Args:
        data: of the image.
        max_pixels: limit of width x height, as stored.
        side: px of the square that it will be resized to. Images of more than `LARGE_PIXELS` are then reduced to a
            half, a quarter or an eighth of their size, but to no less than twice that side, so that memory does not
            grow with them: JPEGs by their decoder, other formats one at a time.

    Raises:
        ImageError: as `probe`.
    """
    image = _open(data, max_pixels)
    factor = 1 if side is None else _factor(image.size, 2 * max(side, HASH_SIDE))
    tags = getattr(image, "tag_v2", {})
    with _decoding():
        if factor == 1:
            image.load()
            flat = _flattened(image, tags)
        elif image.format in ("JPEG", "MPO") and not image.info.get("progressive"):
            flat = _drafted(image, factor)
        else:  # cannot be reduced by the decoder; a progressive JPEG needs more memory than its pixels
            with _large_image_lock:
                flat = _drafted(image, factor) if image.format in ("JPEG", "MPO") else _reduced(image, factor, tags)
        turn = TRANSPOSES.get(_orientation(image))
        return flat if turn is None else flat.transpose(turn)


_large_image_lock = threading.Lock()


def _factor(size: tuple[int, int], least: int) -> int:
    """The factor to reduce an image of ``size`` (px) by: 1, 2, 4 or 8, so that no side falls below ``least``."""
    fitting = [factor for factor in (1, 2, 4, 8) if factor == 1 or min(size) // factor >= least]
    return next((factor for factor in fitting if math.prod(size) <= LARGE_PIXELS * factor**2), fitting[-1])


def _drafted(image: Image.Image, factor: int) -> Image.Image:
    """Decode a JPEG at a fraction of its size."""
    image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    return _flattened(image, {})


def _reduced(image: Image.Image, factor: int, tags: Mapping[int, Any]) -> Image.Image:
    """As `_flattened`, but averages ``factor`` x ``factor`` pixels, strip by strip."""
    image.load()
    rows = max(1, ROWS_AT_ONCE // factor) * factor
    strips = (
        _flattened(image.crop((0, top, image.width, min(top + rows, image.height))), tags).reduce(factor)
        for top in range(0, image.height, rows)
    )
    first = next(strips)
    reduced = Image.new(first.mode, (first.width, -(-image.height // factor)))
    reduced.paste(first, (0, 0))
    for number, strip in enumerate(strips, start=1):
        reduced.paste(strip, (0, number * rows // factor))
    return reduced


def _flattened(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Convert ``image`` to L or RGB; ``tags`` are those of a TIFF."""
    if image.mode.startswith("I"):
        return _eight_bits(image, tags)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        over_white = Image.new("RGBA", layer.size, "white")
        over_white.alpha_composite(layer)
        return over_white.convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Convert up to sixteen bits of grey to eight."""
    pixels = np.asarray(image, dtype=np.int64)
    (bits,) = tags.get(BITS_PER_SAMPLE, (16,))
    grey = pixels * 255 // (2**bits - 1)
    if tags.get(PHOTOMETRIC) == 0:  # 0 is white; Pillow handles this up to 8 bits only
        grey = 255 - grey
    grey[pixels == image.info.get("transparency")] = 255  # over white
    return Image.fromarray(grey.astype(np.uint8))


def to_array(image: Image.Image) -> UInt8[np.ndarray, "channels height width"]:
    """Convert to pixels, range [0, 255], channels first."""
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def encode_png(image: Image.Image) -> bytes:
    """Encode as PNG; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache
def _cosines() -> Float[np.ndarray, "8 32"]:
    frequency, position = np.mgrid[0:8, 0:HASH_SIDE]
    return np.asarray(np.cos(np.pi * frequency * (2 * position + 1) / (2 * HASH_SIDE)))


def perceptual_hash(image: Image.Image) -> np.uint64:
    """A 64-bit perceptual hash: whether each low DCT frequency is above their median.

    Near-duplicates differ in few bits. This is the pHash of Zauner (2010), "Implementation and Benchmarking of
    Perceptual Image Hash Functions", as the package ImageHash computes it.
    """
    grey = image.convert("L").resize((HASH_SIDE, HASH_SIDE), Image.Resampling.LANCZOS)
    low = _cosines() @ np.asarray(grey, dtype=np.float64) @ _cosines().T  # (8, 8)
    low = low.round(6)  # below that, zeros of a plain image differ by machine
    bits = np.packbits((low > np.median(low)).reshape(-1))  # (8,) bytes
    return np.uint64(int.from_bytes(bits.tobytes(), "big"))


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("empty", "expected an image, got 0 bytes")
    if _exceeds_jpeg_limits(data):
        limits = f"{MAX_SCANS} scans and {MAX_SEGMENTS} segments"
        raise ImageError("decompression_bomb", f"expected a JPEG of at most {limits}, got more")
    try:
        image = Image.open(io.BytesIO(without_metadata(data)), formats=FORMATS)
        width, height = max(image.size, _tile_size(image), _codestream_size(data), key=math.prod)
    except ImageError:
        raise
    except Exception as error:  # decoders raise errors of many types: struct.error, SyntaxError, ...
        check_machine_for(error, MAX_DECODED_BYTES)
        raise ImageError("not_an_image", f"expected an image ({', '.join(FORMATS)}), got other bytes") from error
    if image.mode in ("I", "F"):
        raise ImageError("unknown_range", f"expected 8 or 16 bits a sample, got a {image.format} of mode {image.mode}")
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"expected at most {max_pixels} pixels, got {width} x {height}")
    return image


_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # of a JPEG segment; does not occur in a scan's data


def _exceeds_jpeg_limits(data: bytes) -> bool:
    """Whether a JPEG has more than `MAX_SCANS` or `MAX_SEGMENTS`, up to its end marker."""
    scans = segments = 0
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while (marker := _MARKER.search(data, at)) and marker[1] != b"\xd9":
        at = marker.end()
        if marker[1] not in b"\x01\xd8":  # these markers have no length
            at += int.from_bytes(data[at : at + 2], "big")
        scans += marker[1] == b"\xda"
        segments += 1
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            return True
    return False


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Tile size of a TIFF, px: a tile may be larger than the image and is decoded as a whole."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(TILE_WIDTH, 0)), int(tags.get(TILE_LENGTH, 0))


_SIZE_OF_JPEG_2000 = re.compile(rb"\xff\x4f\xff\x51..(.{36})", re.DOTALL)  # the markers SOC and SIZ


def _codestream_size(data: bytes) -> tuple[int, int]:
    """Size of a JPEG 2000's codestream, px: the header box may state less (ISO/IEC 15444-1, A.5.1)."""
    size = (0, 0)
    is_one = data.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"))
    for found in _SIZE_OF_JPEG_2000.finditer(data) if is_one else ():
        _, right, bottom, left, top, *_, components = struct.unpack(">H8IH", found[1])
        if components > MAX_COMPONENTS:
            raise ValueError(f"{components} components")
        size = max(size, (max(0, right - left), max(0, bottom - top)), key=math.prod)
    return size


def _frame_count(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG" and b"acTL" in data:
        with suppress(ImageError, OSError, SyntaxError, ValueError):  # a damaged animation has a first image
            image = Image.open(io.BytesIO(without_metadata(data, animation=True)), formats=["PNG"])
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    count = 1
    with suppress(EOFError):
        while count <= MAX_PAGES:
            image.seek(count)
            count += 1
    if count > MAX_PAGES:
        raise ImageError("decompression_bomb", f"expected a TIFF of at most {MAX_PAGES} pages, got more")
    image.seek(0)
    return count


@contextmanager
def _decoding() -> Iterator[None]:
    """Convert any exception of a decoder to an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        check_machine_for(error, MAX_DECODED_BYTES)
        raise ImageError("truncated", f"the image cannot be decoded to its end: {str(error) or repr(error)}") from error


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:  # broken metadata does not matter
        check_machine_for(error, MAX_DECODED_BYTES)
        return 1
    return value if value in range(1, 9) else 1
