"""Damaged and hostile images of every format that is read, and the comparison with Pillow's own strict decoding."""

import io
import math
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from atlas_model.core.errors import ImageError
from atlas_model.data.images import FORMATS, LARGE_PIXELS, MAX_PIXELS, Preprocessing, decode, perceptual_hash
from atlas_model.quality.measures import measure_image
from crawlers.fetch.check import check
from tests.support.isolated_runs import Kind
from tests.support.mutations import EXTREMES, mutated

CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"tRNS")  # PNG chunks that the pixels of the first image depend on
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Title", "a shirt")
TEXT.add_text("Comment", "x" * 500, zip=True)
TEXT.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>", zip=True)


@cache
def valid_images() -> dict[str, bytes]:
    """An image of each format, mode and feature: name -> bytes."""
    colours = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize((30, 36))
    alpha = colours.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    grey16 = Image.fromarray(np.arange(30 * 36, dtype=np.uint16).reshape(36, 30) * 60)
    modes = {"RGB": colours, "L": colours.convert("L"), "1": colours.convert("1"), "P": colours.quantize(16)}
    modes |= {"RGBA": alpha, "LA": alpha.convert("LA"), "CMYK": colours.convert("CMYK"), "I;16": grey16}
    frames: dict[str, Any] = {
        "save_all": True,
        "append_images": [colours.rotate(90), alpha.convert("RGB")],
        "duration": 50,
    }
    exif = {turn: Image.Exif() for turn in range(1, 9)}
    for turn, one in exif.items():
        one[0x0112] = turn
    found: dict[str, bytes] = {}

    def add(name: str, mode: str, format: str, **options: Any) -> None:
        written = io.BytesIO()
        modes[mode].save(written, format, **options)
        found[name] = written.getvalue()

    for mode in ("RGB", "L", "CMYK"):
        add(f"jpeg {mode}", mode, "JPEG", quality=80)
        add(f"jpeg progressive {mode}", mode, "JPEG", progressive=True)
    add("jpeg icc", "RGB", "JPEG", icc_profile=b"\0" * 300, comment=b"made", subsampling=2, restart_marker_blocks=2)
    for turn, tags in exif.items():
        add(f"jpeg exif {turn}", "RGB", "JPEG", exif=tags)
    add("mpo", "RGB", "MPO", **frames)
    for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "I;16"):
        add(f"png {mode}", mode, "PNG")
    add("png chunks", "RGB", "PNG", pnginfo=TEXT, exif=exif[6], icc_profile=b"\0" * 99, dpi=(72, 72))
    add("png transparent", "P", "PNG", transparency=3)
    add("png transparent RGB", "RGB", "PNG", transparency=(1, 2, 3))
    add("apng", "RGB", "PNG", **frames)
    add("webp RGB", "RGB", "WEBP", quality=70)
    add("webp RGBA", "RGBA", "WEBP", lossless=True)
    add("webp animated", "RGB", "WEBP", **frames)
    add("webp exif", "RGB", "WEBP", exif=exif[5])
    add("gif", "P", "GIF", interlace=True)
    add("gif transparent", "P", "GIF", transparency=2)
    add("gif animated", "RGB", "GIF", loop=0, **frames)
    for packing in ("raw", "tiff_deflate", "tiff_lzw", "packbits", "jpeg"):
        add(f"tiff {packing}", "RGB", "TIFF", compression=packing)
    for mode in ("L", "I;16", "CMYK", "RGBA", "P"):
        add(f"tiff {mode}", mode, "TIFF")
    add("tiff fax", "1", "TIFF", compression="group4")
    add("tiff pages", "RGB", "TIFF", save_all=True, append_images=[colours.rotate(90)] * 3)
    add("tiff exif", "RGB", "TIFF", exif=exif[8])
    add("avif", "RGB", "AVIF")
    add("avif alpha", "RGBA", "AVIF", exif=exif[3])
    add("avif animated", "RGB", "AVIF", **frames)
    for mode in ("RGB", "L", "1", "P"):
        add(f"bmp {mode}", mode, "BMP")
    for mode in ("RGB", "L", "RGBA", "I;16"):
        add(f"jpeg 2000 {mode}", mode, "JPEG2000")
    for mode in ("RGB", "L", "1", "I;16"):
        add(f"ppm {mode}", mode, "PPM")
    return found


def mutated_image(random: Random) -> bytes:
    """A damaged or hostile image."""
    images = valid_images()
    if random.random() < 0.01:
        return random.choice(_BOMBS)(random)
    name = random.choice(list(images))
    own = [change for start, change in _OWN if name.startswith(start)]
    return mutated(images[name], random, list(images.values()), own)


def chunks(png: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Kind, content and checksum of the chunks of a PNG, as far as they are whole."""
    found, at = [], 8
    while at + 12 <= len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        if at + 12 + size > len(png):
            break
        found.append((kind, png[at + 8 : at + 8 + size], png[at + 8 + size : at + 12 + size]))
        at += 12 + size
    return found


def chunk(kind: bytes, content: bytes, checksum: bytes | None = None) -> bytes:
    """A PNG chunk, by default with the right checksum."""
    right = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + (right if checksum is None else checksum)


def _change_chunks(data: bytes, random: Random) -> bytes:
    """Change the content of a chunk with a right checksum, or its order, number or kind."""
    parts = chunks(data)
    if not parts:
        return data
    place = random.randrange(len(parts))
    kind, content, _ = parts[place]
    way = random.randrange(6)
    if way == 0:
        parts[place] = kind, mutated(content, random), b""
    elif way == 1:
        parts.insert(random.randrange(len(parts)), parts[place])
    elif way == 2:
        del parts[place]
    elif way == 3:
        random.shuffle(parts)
    elif way == 4:
        other = random.choice(
            (*CRITICAL, b"acTL", b"fcTL", b"fdAT", b"IEND", b"iCCP", b"zTXt", b"eXIf", b"gAMA", b"xxxx", b"XXXX")
        )
        parts[place] = other, content, b""
    else:
        header = bytearray(parts[0][1].ljust(13, b"\0"))
        header[random.randrange(13)] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        parts[0] = b"IHDR", bytes(header), b""
    return data[:8] + b"".join(chunk(kind, content, checksum or None) for kind, content, checksum in parts)


def _change_segment(data: bytes, random: Random) -> bytes:
    """Change the length or the content of a JPEG's segment, or repeat it."""
    places = [at for at in range(2, len(data) - 3) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    if not places:
        return data
    at = random.choice(places)
    way = random.randrange(3)
    if way == 0:
        return (
            data[: at + 2]
            + struct.pack(">H", random.choice((0, 1, 2, 3, 65535, random.randrange(65536))))
            + data[at + 4 :]
        )
    if way == 1:
        return data[: at + 1] + bytes([random.randrange(256)]) + data[at + 2 :]
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] + data[at:end] * random.choice((2, 50, 1500)) + data[end:]


def _change_size(data: bytes, random: Random) -> bytes:
    """Overwrite the width or the height, where a 30 x 36 image has them."""
    places = [at for at in range(min(len(data), 4000)) if data[at : at + 1] in (b"\x1e", b"\x24", b"\x1d", b"\x23")]
    if not places:
        return data
    at, size = random.choice(places), random.choice((1, 2, 4))
    value = random.choice(EXTREMES) % 2 ** (8 * size)
    if random.random() < 0.5:  # big-endian, as the value ends there
        at = max(0, at - size + 1)
        return data[:at] + value.to_bytes(size, "big") + data[at + size :]
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def _change_box(data: bytes, random: Random) -> bytes:
    """Change the length or the kind of a box of WebP, AVIF or JPEG 2000."""
    places = [at for at in range(4, len(data) - 4) if data[at : at + 4].isalpha()]
    if not places:
        return data
    at = random.choice(places)
    way = random.randrange(3)
    if way == 0:
        return data[: at - 4] + struct.pack(">I", random.choice(EXTREMES) % 2**32) + data[at:]
    if way == 1:
        return data[: at + 4] + struct.pack("<I", random.choice(EXTREMES) % 2**32) + data[at + 8 :]
    return data[:at] + data[random.choice(places) :][:4] + data[at + 4 :]


def _change_tag(data: bytes, random: Random) -> bytes:
    """Change a field of a TIFF's directory: tag, type, count, value."""
    if len(data) < 8:
        return data
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack(order + "I", data[4:8])
    if at + 2 > len(data):
        return data
    (count,) = struct.unpack_from(order + "H", data, at)
    entry = at + 2 + 12 * random.randrange(max(1, min(count, 40)))
    field, size = random.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")))
    if entry + 12 > len(data):
        return data
    value = struct.pack(
        order + size, random.choice((*EXTREMES, 2, 3, 4, 5, 8, 16, 32)) % 2 ** (8 * struct.calcsize(size))
    )
    return data[: entry + field] + value + data[entry + field + len(value) :]


def _bomb_png(random: Random) -> bytes:
    side = random.choice((6_000, 6_300, 20_000, 60_000))
    header = struct.pack(">IIBBBBB", side, side, random.choice((1, 8)), random.choice((0, 3)), 0, 0, 0)
    rows = zlib.compress(bytes(min(side * (side + 1), 40_000_000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _bomb_gif(random: Random) -> bytes:
    side = random.choice((6_000, 65_535))
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, random.choice((1, side)), 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * random.choice((1, 1_000, 100_000)) + b";"


def _bomb_jpeg(random: Random) -> bytes:
    data = valid_images()["jpeg RGB"]
    at = data.index(b"\xff\xc0")
    side = random.choice((6_000, 6_300, 65_535))
    return data[: at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]


_BOMBS: tuple[Callable[[Random], bytes], ...] = (_bomb_png, _bomb_gif, _bomb_jpeg)
_OWN = (
    *((start, _change_size) for start in ("jpeg", "png", "gif", "webp", "avif", "bmp", "tiff", "apng")),
    *((start, _change_chunks) for start in ("png", "apng")),
    *((start, _change_segment) for start in ("jpeg", "mpo")),
    *((start, _change_box) for start in ("webp", "avif", "jpeg 2000")),
    ("tiff", _change_tag),
)


def strictly_decoded(data: bytes) -> Image.Image:
    """``data`` as Pillow decodes it, with all its checks; then upright, over white, 8 bits.

    Raises:
        Exception: Pillow refuses it.
    """
    if data.startswith(b"\x89PNG"):
        data = _checked_png(data)
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    bits, photometric = _tiff_tags(image)
    image.load()
    if image.mode.startswith("I"):
        flat = _grey(image, bits, photometric)
    elif "A" in image.getbands() or "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        layer = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    else:
        flat = image.convert("L" if image.mode in ("1", "L") else "RGB")
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata
        turn = 1
    upright = Image.new(flat.mode, flat.size)
    upright.paste(flat)
    if turn in range(2, 9):
        upright.getexif()[0x0112] = turn
        upright = ImageOps.exif_transpose(upright)
    return upright


def _checked_png(data: bytes) -> bytes:
    """The PNG with the chunks that matter here, whose checksums must be right."""
    kept = data[:8]
    for kind, content, checksum in chunks(data):
        right = checksum == struct.pack(">I", zlib.crc32(kind + content))
        if kind in CRITICAL:
            assert right, f"the checksum of a chunk {kind!r} is wrong"
        if kind in CRITICAL or kind == b"IEND" or kind[:1].isupper() or (kind == b"eXIf" and right):
            kept += chunk(kind, content, checksum)
        if kind == b"IEND":
            break
    return kept


def _tiff_tags(image: Image.Image) -> tuple[int, Any]:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))
    return (bits if isinstance(bits, int) else bits[0]), tags.get(262)


def _grey(image: Image.Image, bits: int, photometric: Any) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    grey = (values * 255) // (2**bits - 1)
    grey = 255 - grey if photometric == 0 else grey
    grey = np.where(values == image.info.get("transparency", -1), 255, grey)
    return Image.fromarray(grey.astype(np.uint8))


def check_image(data: bytes, folder: Path) -> str:
    """Check that an image has a status, or the pixels of Pillow's own strict decoding."""
    try:
        info = check(data, MAX_PIXELS)
    except ImageError as error:
        assert error.status and str(error), "a status and a reason"
        return error.status
    try:
        small = Preprocessing(28, "L", "squash").read(data)
        image = decode(data, side=None if info.width * info.height <= LARGE_PIXELS else 28)
    except ImageError as error:
        raise AssertionError(f"accepted by the stage fetch, and then {error.status}: {error}") from error
    assert small.size == (28, 28)
    perceptual_hash(image)
    assert all(value is None or math.isfinite(float(str(value))) for value in measure_image(image).values())
    if info.width * info.height > LARGE_PIXELS:  # reduced while decoding
        return "ok, large"
    assert image.mode in ("L", "RGB")
    turned = info.orientation in (5, 6, 7, 8)
    assert (
        image.size == ((info.height, info.width) if turned else (info.width, info.height)) or info.format == "JPEG2000"
    )
    expected = strictly_decoded(data)
    assert image.mode == expected.mode and image.size == expected.size, (image, expected)
    assert image.tobytes() == expected.tobytes(), "other pixels than Pillow's"
    return "ok"


IMAGES = Kind(mutated_image, check_image)
