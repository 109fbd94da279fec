"""Decoding of every image format and mode, compared with known pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from atlas_model.core.errors import ImageError
from atlas_model.data.images import decode, probe

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
GREYS = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40  # no two pixels alike
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}
UPRIGHT = {  # EXIF orientation -> transform from stored to upright pixels, written by hand
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].T,
    8: np.rot90,
}


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def pixels(data: bytes) -> list[object]:
    """The pixels of the first row."""
    return np.asarray(decode(data))[0].tolist()


def png(color: int, depth: int, row: bytes, width: int, transparent: bytes = b"") -> bytes:
    """A PNG of one row, written after the specification because Pillow writes only some kinds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0)
    key = chunk(b"tRNS", transparent) if transparent else b""
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + data + chunk(b"IEND", b"")


def tiff(bits: int, photometric: int, row: bytes, width: int) -> bytes:
    """A TIFF of one row."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(row)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    row += bytes(len(row) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(row)) + row + struct.pack("<H", len(tags)) + table + bytes(4)


def sixteen(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_applies_each_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(GREYS) if kind == "TIFF" else Image.fromarray(GREYS).convert("RGB")
    seen = np.asarray(decode(encoded(stored, kind, exif=exif, **LOSSLESS[kind])).convert("L"))
    assert seen.tolist() == UPRIGHT[orientation](GREYS).tolist()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(png(0, 1, bytes([0b10100000]), 3), [255, 0, 255], id="1-bit"),
        pytest.param(png(0, 2, bytes([0b00011011]), 4), [0, 85, 170, 255], id="2-bit grey"),
        pytest.param(png(0, 4, bytes([0x0F]), 2), [0, 255], id="4-bit grey"),
        pytest.param(png(0, 8, bytes([9, 50]), 2, sixteen(9)), [WHITE, (50, 50, 50)], id="transparent grey"),
        pytest.param(png(0, 16, sixteen(0, 257 * 100, 65535), 3), [0, 100, 255], id="16-bit grey"),
        pytest.param(png(0, 16, sixteen(0, 100, 255), 3), [0, 0, 0], id="16-bit grey that is all dark"),
        pytest.param(png(0, 16, sixteen(0, 257 * 50), 2, sixteen(0)), [255, 50], id="16-bit transparent grey"),
        pytest.param(png(4, 16, sixteen(257 * 50, 65535, 0, 0), 2), [(50, 50, 50), WHITE], id="16-bit grey and alpha"),
        pytest.param(png(2, 16, sixteen(65535, 257 * 7, 0), 1), [(255, 7, 0)], id="16-bit RGB"),
        pytest.param(png(2, 8, bytes([*RED, *BLUE]), 2, sixteen(*BLUE)), [RED, WHITE], id="transparent colour"),
        pytest.param(png(6, 16, sixteen(65535, 0, 0, 65535, 0, 0, 0, 0), 2), [RED, WHITE], id="16-bit RGBA"),
        pytest.param(tiff(16, 1, struct.pack("<3H", 0, 257 * 100, 65535), 3), [0, 100, 255], id="16-bit TIFF"),
        pytest.param(tiff(16, 0, struct.pack("<3H", 0, 257 * 100, 65535), 3), [255, 155, 0], id="0 is white"),
        pytest.param(tiff(8, 0, bytes([0, 100, 255]), 3), [255, 155, 0], id="0 is white, 8 bits"),
        pytest.param(tiff(12, 1, bytes([0x00, 0x0F, 0xFF]), 2), [0, 255], id="12-bit TIFF"),
    ],
)
def test_decodes_bit_depths_and_transparency(data: bytes, expected: list[object]) -> None:
    assert pixels(data) == [list(pixel) if isinstance(pixel, tuple) else pixel for pixel in expected]
    assert probe(data).n_frames == 1


def test_decodes_big_endian_sixteen_bits() -> None:
    assert pixels(encoded(Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=">u2")), "TIFF")) == [0, 100, 255]


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_converts_cmyk_to_rgb(kind: str) -> None:
    inks = {(0, 255, 255, 0): RED, (255, 255, 0, 0): BLUE, (0, 0, 0, 0): WHITE, (0, 0, 0, 255): BLACK}
    for cmyk, rgb in inks.items():
        data = encoded(Image.new("CMYK", (8, 8), cmyk), kind)
        assert probe(data).mode == "CMYK"
        assert np.allclose(np.asarray(decode(data))[4, 4], rgb, atol=0 if kind == "TIFF" else 3)


def test_palette_with_partial_transparency_is_blended_with_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *BLACK, *BLUE])
    image.putdata([0, 1, 2])
    data = encoded(image, "PNG", transparency=bytes([255, 128, 0]))
    assert pixels(data) == [list(RED), [127, 127, 127], list(WHITE)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_decodes_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, WHITE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **LOSSLESS.get(kind, {}))
    assert probe(data).n_frames == 3
    assert decode(data).convert("RGB").getpixel((4, 4)) == RED


def test_transparent_animation_is_blended_with_white() -> None:
    first = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    first.paste(RED, (0, 0, 4, 8))
    data = encoded(first, "GIF", save_all=True, append_images=[Image.new("RGBA", (8, 8), BLUE)])
    assert [decode(data).getpixel((x, 4)) for x in (1, 6)] == [RED, WHITE]


@pytest.mark.parametrize("read", [probe, decode])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_refuses_samples_of_unknown_range(read: object, dtype: type) -> None:
    data = encoded(Image.fromarray(np.array([[0, 1]], dtype=dtype)), "TIFF")
    with pytest.raises(ImageError, match="expected 8 or 16 bits a sample") as caught:
        read(data)
    assert caught.value.status == "unknown_range"
