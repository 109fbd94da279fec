"""Decoding, resizing and encoding images: modes, sizes, metadata."""

import errno
import io
import os
import struct
import zlib
from contextlib import suppress
from typing import Any

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atlas_model.core.errors import ImageError, MachineError
from atlas_model.data.images import Interpolation, Preprocessing, decode, encode_png, perceptual_hash, probe, to_array

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(seed: int, width: int = 40, height: int = 30, bands: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def halves(mode: str, left: Any, right: Any, size: tuple[int, int] = (20, 10)) -> Image.Image:
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def corners(image: Image.Image) -> list[Any]:
    """The colours at the left and right ends of the middle row."""
    return [image.getpixel((x, image.height // 2)) for x in (1, image.width - 2)]


def test_grey_image_stays_grey() -> None:
    image = decode(encoded(halves("L", 10, 200), "PNG"))
    assert image.mode == "L"
    assert corners(image) == [10, 200]


def test_black_and_white_image_becomes_grey() -> None:
    image = decode(encoded(halves("1", 0, 1), "PNG"))
    assert image.mode == "L"
    assert corners(image) == [0, 255]


def test_transparency_is_blended_with_white() -> None:
    image = decode(encoded(halves("RGBA", (255, 0, 0, 255), (0, 0, 0, 0)), "PNG"))
    assert image.mode == "RGB"
    assert corners(image) == [RED, (255, 255, 255)]
    half_black = decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert half_black.getpixel((0, 0)) == (127, 127, 127)


def test_decodes_palette_with_transparent_colour() -> None:
    palette = Image.new("P", (20, 10), 0)
    palette.putpalette([*RED, *BLUE])
    palette.paste(1, (10, 0, 20, 10))
    assert corners(decode(encoded(palette, "PNG", transparency=1))) == [RED, (255, 255, 255)]
    assert corners(decode(encoded(palette, "PNG"))) == [RED, BLUE]


def test_decodes_grey_with_alpha() -> None:
    assert corners(decode(encoded(halves("LA", (0, 255), (0, 0)), "PNG"))) == [(0, 0, 0), (255, 255, 255)]


def test_decodes_cmyk() -> None:
    image = decode(encoded(halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), "JPEG", quality=95))
    assert image.mode == "RGB"
    (left, right) = corners(image)
    assert np.allclose(left, RED, atol=12)
    assert np.allclose(right, (255, 255, 255), atol=12)


def test_sixteen_bits_keep_the_upper_eight() -> None:
    pixels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(pixels), "PNG"))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 100, 255]]


def test_decodes_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    assert probe(data).n_frames == 3
    assert decode(data).convert("RGB").getpixel((4, 4)) == RED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated camera: the stored left side is the top
    data = encoded(halves("RGB", RED, BLUE, size=(32, 16)), format, exif=exif)
    info = probe(data)
    assert (info.width, info.height, info.orientation) == (32, 16, 6)
    image = decode(data)
    assert image.size == (16, 32)
    top, bottom = np.asarray(image)[[2, 29], 8]
    assert np.allclose(top, RED, atol=40)
    assert np.allclose(bottom, BLUE, atol=40)


def test_exif_orientation_is_applied_to_transparent_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(halves("RGBA", (255, 0, 0, 255), (0, 0, 0, 0), size=(32, 16)), "PNG", exif=exif)
    image = decode(data)
    assert image.size == (16, 32)
    assert image.getpixel((8, 2)) == RED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_probe_returns_format_mode_and_size(format: str) -> None:
    info = probe(encoded(noise(1), format))
    assert (info.width, info.height, info.format, info.orientation, info.n_frames) == (40, 30, format, 1, 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("function", [probe, decode])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_reports_truncated_images(format: str, function: object, share: float) -> None:
    data = encoded(noise(2, 200, 150), format)
    with pytest.raises(ImageError) as caught:
        function(data[: int(len(data) * share)])
    # A WEBP starts with its length, so Pillow does not open it.
    assert caught.value.status == ("not_an_image" if format == "WEBP" else "truncated")


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + end


@pytest.mark.parametrize("function", [probe, decode])
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "empty"),
        (b"<!doctype html><html><body>Not found</body></html>", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),  # would start Ghostscript
        (b"\xff\xd8\xff", "not_an_image"),
        (png_header(12_000, 12_000), "too_many_pixels"),  # 144 million, refused by its header
        (png_header(60_000, 60_000), "too_many_pixels"),
    ],
)
def test_invalid_image_has_a_status(function: object, data: bytes, status: str) -> None:
    with pytest.raises(ImageError) as caught:
        function(data)
    assert caught.value.status == status
    assert "expected" in str(caught.value)


def tiff_with_a_tile(side: int) -> bytes:
    """An image of 16 x 16, cut from one tile of ``side`` x ``side``."""
    tile = zlib.compress(bytes(side * side), 9)
    values = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(tile)}
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + struct.pack("<H", len(values)) + tags + bytes(4)


def progressive_jpeg(repeats: int, before: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is repeated ``repeats`` times."""
    data = encoded(noise(4), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:2] + before + data[2:-2] + last * repeats + data[-2:]


def tiff_pages(count: int) -> bytes:
    pages = [noise(number, 2, 2) for number in range(count)]
    return encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (tiff_with_a_tile(7_000), "too_many_pixels"),
        (tiff_pages(102), "decompression_bomb"),
        (progressive_jpeg(200), "decompression_bomb"),
        (progressive_jpeg(200, b"\xff\x01"), "decompression_bomb"),  # a marker without content
        (progressive_jpeg(0, b"\xff\xfe\0\2" * 2_000), "decompression_bomb"),  # comments, all of which Pillow keeps
    ],
)
def test_refuses_decompression_bombs(data: bytes, status: str) -> None:
    with pytest.raises(ImageError) as caught:
        probe(data)
    assert caught.value.status == status


def test_accepts_ordinary_scans_pages_and_tiles() -> None:
    film = b"\xff\xd9" + b"\xff\xda\0\2" * 2_000  # phones append a film after the end of a JPEG
    assert probe(progressive_jpeg(20) + film).format == "JPEG"
    assert probe(tiff_pages(100)).n_frames == 100
    assert probe(tiff_with_a_tile(32)).width == 16


def test_caller_sets_the_pixel_limit() -> None:
    data = encoded(noise(3, 40, 30), "PNG")
    assert probe(data, max_pixels=1200).width == 40
    with pytest.raises(ImageError, match="at most 1199 pixels, got 40 x 30"):
        probe(data, max_pixels=1199)


@given(st.binary(max_size=300), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.data())
def test_damaged_image_decodes_or_has_a_status(junk: bytes, format: str, data: st.DataObject) -> None:
    whole = encoded(noise(4), format)
    at = data.draw(st.integers(0, len(whole)))
    damaged = whole[:at] + junk + whole[at + len(junk) :]
    for function in (probe, decode):
        try:
            function(damaged, max_pixels=100_000)
        except ImageError as error:
            assert error.status in {
                "empty",
                "not_an_image",
                "too_many_pixels",
                "unknown_range",
                "decompression_bomb",
                "truncated",
            }


@pytest.mark.parametrize("seed", range(30))
def test_perceptual_hash_equals_imagehash(seed: int) -> None:
    width, height = 20 + 13 * seed, 300 - 7 * seed
    image = noise(seed, width, height, bands=1 if seed % 3 else 3).resize((97, 61), Image.Resampling.BILINEAR)
    expected = int(str(imagehash.phash(image)), 16)
    assert int(perceptual_hash(image)) == expected


@pytest.mark.parametrize("shade", [0, 77, 255])
def test_perceptual_hash_of_uniform_image_has_no_rounding_noise(shade: int) -> None:
    assert int(perceptual_hash(Image.new("L", (50, 40), shade))) == (2**63 if shade else 0)


def test_perceptual_hashes_of_near_duplicates_are_close() -> None:
    image = noise(5, 12, 12).resize((200, 200), Image.Resampling.BICUBIC)
    again = Image.open(io.BytesIO(encoded(image.resize((150, 150)), "JPEG", quality=70)))
    other = noise(6, 12, 12).resize((200, 200), Image.Resampling.BICUBIC)

    def distance(one: Image.Image, two: Image.Image) -> int:
        return (int(perceptual_hash(one)) ^ int(perceptual_hash(two))).bit_count()

    assert distance(image, again) <= 4
    assert distance(image, other) > 15


def test_resizes_by_squashing_or_padding() -> None:
    image = Image.new("RGB", (40, 20), "white")
    squashed = Preprocessing(size=16, mode="L", resize="squash").apply(image)
    padded = Preprocessing(size=16, mode="L", resize="pad").apply(image)
    assert (squashed.mode, squashed.size) == ("L", (16, 16))
    assert np.asarray(squashed).min() == 255
    assert np.asarray(padded)[[0, 1, 14, 15]].max() == 0
    assert np.asarray(padded)[6:10].min() == 255


def test_crop_keeps_centre_and_aspect_ratio() -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (10, 0, 30, 20))
    cropped = Preprocessing(10, "RGB", "crop").apply(image)
    assert np.asarray(cropped).max() < 30, "the parts left and right of the central square are cut off"
    squashed = np.asarray(Preprocessing(10, "RGB", "squash").apply(image))
    assert squashed[:, 0].min() > 225


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_interpolation_equals_pillow(interpolation: Interpolation) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    expected = image.resize((16, 16), Image.Resampling[interpolation.upper()])
    assert Preprocessing(16, "RGB", "squash", interpolation).apply(image).tobytes() == expected.tobytes()


def test_arrays_are_channels_first() -> None:
    assert to_array(halves("RGB", RED, BLUE)).shape == (3, 10, 20)
    assert to_array(halves("RGB", RED, BLUE))[:, 0, 0].tolist() == [255, 0, 0]
    assert to_array(halves("L", 1, 2)).shape == (1, 10, 20)


def test_png_is_lossless() -> None:
    image = noise(7)
    data = encode_png(image)
    assert data == encode_png(image)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(image))


def test_broken_bytes_decode_or_raise_image_error() -> None:
    """Truncations and flipped bytes of every format, through `probe` and `decode`."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 20, 3), dtype=np.uint8))
    files = []
    for name in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        buffer = io.BytesIO()
        animated = {"save_all": True, "append_images": [image.rotate(90)]} if name in ("GIF", "TIFF", "WEBP") else {}
        image.save(buffer, name, **animated, **({"exif": b"Exif\0\0garbage"} if name in ("PNG", "WEBP") else {}))
        files.append(buffer.getvalue())
    generator = np.random.default_rng(2)
    for data in files:
        cuts = [data[:length] for length in generator.integers(1, len(data), 60)]
        flips = []
        for place in generator.integers(0, min(len(data), 400), 60):
            flipped = bytearray(data)
            flipped[place] ^= int(generator.integers(1, 256))
            flips.append(bytes(flipped))
        for broken in [data, *cuts, *flips]:
            for read in (probe, decode):
                with suppress(ImageError):
                    read(broken, max_pixels=1_000_000)


def test_image_with_unreadable_exif_keeps_its_orientation() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(buffer, "PNG", exif=b"Exif\0\0garbage")
    assert probe(buffer.getvalue()).orientation == 1
    assert decode(buffer.getvalue()).size == (8, 4)


def test_valid_image_is_not_blamed_for_missing_files_or_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_png(Image.new("L", (8, 8)))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch, pytest.raises(MachineError):
        patch.setattr(Image, "open", fail)
        probe(data)
    with monkeypatch.context() as patch, pytest.raises(MachineError):
        patch.setattr(Image.Image, "load", fail)
        patch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
        decode(data)
