"""`probe` refuses every damaged image that `decode` refuses; metadata of any size has no effect."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from atlas_model.core.errors import ImageError
from atlas_model.data.images import decode, probe
from atlas_model.data.png_metadata import SIGNATURE, without_metadata

RED = (200, 30, 30)
NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8))
FRAMES = {"save_all": True, "append_images": [NOISE.rotate(90)]}


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    """A red PNG of 40 x 30 with extra chunks before and after its pixel data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(RED) * 40 for _ in range(30))))
    return SIGNATURE + header + before + pixels + after + chunk(b"IEND", b"")


def status(read: object, data: bytes) -> str:
    try:
        read(data)
    except ImageError as error:
        return error.status
    return "ok"


KINDS = {
    "PNG": encoded(NOISE, "PNG"),
    "PNG with a palette": encoded(NOISE.convert("P"), "PNG"),
    "PNG with alpha": encoded(NOISE.convert("RGBA"), "PNG"),
    "PNG of 16 bits": encoded(Image.fromarray(np.arange(3072, dtype=np.uint16).reshape(48, 64) * 20), "PNG"),
    "PNG with EXIF": encoded(NOISE, "PNG", exif=b"Exif\0\0MM\0\x2a"),
    "APNG": encoded(NOISE, "PNG", **FRAMES),
    "JPEG": encoded(NOISE, "JPEG"),
    "progressive JPEG": encoded(NOISE, "JPEG", progressive=True),
    "JPEG of inks": encoded(NOISE.convert("CMYK"), "JPEG"),
    "WEBP": encoded(NOISE, "WEBP"),
    "lossless WEBP": encoded(NOISE, "WEBP", lossless=True),
    "GIF": encoded(NOISE, "GIF", **FRAMES),
    "BMP": encoded(NOISE, "BMP"),
    "TIFF": encoded(NOISE, "TIFF", **FRAMES),
    "AVIF": encoded(NOISE, "AVIF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_probe_refuses_images_that_decode_refuses(kind: str) -> None:
    chance, data = random.Random(kind), KINDS[kind]
    assert status(probe, data) == status(decode, data) == "ok"
    damaged = []
    for _ in range(60):
        some = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            some[chance.randrange(len(some))] ^= chance.randint(1, 255)
        damaged.append(bytes(some[: chance.choice([len(some), chance.randrange(1, len(some))])]))
    found = [(status(probe, some), status(decode, some)) for some in damaged]
    assert not [pair for pair in found if pair[0] == "ok" != pair[1]]
    assert any(pair[1] != "ok" for pair in found), "nothing was damaged"


def test_png_with_a_corrupt_pixel_byte_is_truncated() -> None:
    data = bytearray(KINDS["PNG"])
    data[len(data) // 2] ^= 0x55
    assert (status(probe, bytes(data)), status(decode, bytes(data))) == ("truncated", "truncated")


TWO_MB = bytes(2_000_000)
LARGE = {
    "profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(random.Random(1).randbytes(1_500_000))),
    "profile packed unlike any": chunk(b"iCCP", b"p\0\x07" + b"x"),
    "packed text": chunk(b"zTXt", b"k\0\0" + zlib.compress(TWO_MB)),
    "text packed unlike any": chunk(b"zTXt", b"k\0\x07" + b"x"),
    "EXIF as packed text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(TWO_MB)),
    "XMP as packed text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(TWO_MB)),
    "plain text": chunk(b"tEXt", b"k\0" + b"t" * 9_000_000),
    "many texts": chunk(b"tEXt", b"XML:com.adobe.xmp\0" + b"t" * 3_900_000) * 20,
    "wrong checksum": chunk(b"tEXt", b"k\0text", crc=1),
    "short gamma": chunk(b"gAMA", b"\0"),
}


@pytest.mark.parametrize("name", LARGE)
def test_ignores_damaged_or_large_metadata(name: str) -> None:
    for data in (png(before=LARGE[name]), png(after=LARGE[name])):
        assert probe(data).mode == "RGB"
        assert decode(data).getpixel((5, 5)) == RED


def test_reads_orientation_from_each_metadata_chunk() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    hexed = b"\nexif\n" + f"{len(raw):8d}".encode() + b"\n" + raw.hex().encode() + b"\n"
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    places = [
        chunk(b"eXIf", raw.removeprefix(b"Exif\0\0")),
        chunk(b"tEXt", b"Raw profile type exif\0" + hexed),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexed)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ]
    for place in places:
        assert probe(png(before=place)).orientation == 6
        assert decode(png(before=place)).size == (30, 40)


def test_without_metadata_keeps_chunks_that_affect_pixels() -> None:
    transparent = png(before=chunk(b"tRNS", struct.pack(">3H", *RED)))
    assert decode(transparent).getpixel((5, 5)) == (255, 255, 255)
    assert without_metadata(transparent) is transparent
    assert without_metadata(KINDS["JPEG"]) is KINDS["JPEG"]
    assert probe(KINDS["APNG"]).n_frames == 2
