"""Generates the training images of the filter for photographs: close-ups from product photographs, and normal images.

No simple feature may separate the two classes. Both are scaled down, sharpened and compressed in the same way, so blur
does not separate them. Normal images also have dark, coloured and textured backgrounds, fill the frame, or show several
people; close-ups also have white corners. So the border does not separate them either.
"""

import io
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from scipy import ndimage

from atlas_model.data.images import to_array

SIDE = 224  # px of the photographs
WHITE = 238  # a pixel may be background if all its channels are at least this
FILLED = 0.97  # smallest share of the product in the crop of a texture
NARROWEST = 22  # px, smallest side of a crop: 10 %
MOST = {"texture": 0.38, "detail": 0.3, "edge": 0.25, "repeat": 0.22}  # of the product's length, and of SIDE
RESAMPLINGS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Photograph:
    """A product photograph and where the product is in it."""

    image: Image.Image  # RGB, SIDE x SIDE
    mask: np.ndarray  # bool, (SIDE, SIDE): the product, with the person who wears it

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the product."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return (0, 0, SIDE, SIDE)
        return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def find_product(image: Image.Image) -> Photograph:
    """Separate the product from the background: near-white pixels that are connected to the border."""
    image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    white = np.pad(np.asarray(image).min(2) >= WHITE, 1, constant_values=True)  # connects regions at the border
    regions, _ = ndimage.label(white)
    ground = regions[1:-1, 1:-1] == regions[0, 0]
    return Photograph(image, ndimage.binary_erosion(~ground, np.ones((3, 3)), border_value=1))


def close_up(photograph: Photograph, random: Random) -> tuple[Image.Image, str] | None:
    """A close-up and its kind; None if the product is too small.

    The kinds: ``texture`` (fabric fills the frame), ``detail`` (of several crops the one with the most edges: labels,
    buttons, collars, buckles, dials), ``edge`` (a hem, a sole, a collar: corners show the background), ``repeat`` (a
    small piece, mirrored until it fills the frame: a pattern that is sharp at any size).
    """
    kind = random.choices(("texture", "detail", "edge", "repeat"), (4, 3, 2, 1))[0]
    left, top, right, bottom = photograph.box
    widest = round(min(MOST[kind] * max(right - left, bottom - top), MOST[kind] * SIDE))
    if widest < NARROWEST:
        return None
    side = round(NARROWEST * (widest / NARROWEST) ** random.random() ** 0.6)
    crop = _find_crop(photograph, kind, side, random)
    if crop is None:
        return None
    image = photograph.image.crop(crop)
    if kind == "edge" and random.random() < 0.5:
        image = _on_ground(image, photograph.mask[crop[1] : crop[3], crop[0] : crop[2]], random)
    if kind == "repeat":
        image = _mirrored(image, random)
    return Image.fromarray(np.rot90(np.asarray(image), random.choices(range(4), (5, 1, 1, 1))[0])), kind


def _find_crop(photograph: Photograph, kind: str, side: int, random: Random) -> tuple[int, int, int, int] | None:
    lowest, highest = {"edge": (0.5, 0.85), "detail": (0.85, 1.0)}.get(kind, (FILLED, 1.0))
    filled = _window_means(photograph.mask, side)
    bare = _window_means(_is_skin(photograph.image), side)
    good = np.argwhere((filled >= lowest) & (filled <= highest) & (bare < 0.25))
    if not len(good):
        return None
    drawn = [tuple(good[random.randrange(len(good))].tolist()) for _ in range(8 if kind == "detail" else 1)]
    busy = _window_means(_edges(photograph.image), side) if kind == "detail" else None
    top, left = max(drawn, key=lambda place: busy[place]) if busy is not None else drawn[0]
    return left, top, left + side, top + side


def _window_means(values: np.ndarray, side: int) -> np.ndarray:
    """The mean of each square with this side, at the position of its top left corner."""
    sums = np.pad(values.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    means: np.ndarray = (
        sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    ) / side**2
    return means


def _is_skin(image: Image.Image) -> np.ndarray:
    """Approximately: the range of Chai and Ngan (1999) in YCbCr, without the saturation of dyed fabric."""
    _, blue, red = np.asarray(image.convert("YCbCr")).transpose(2, 0, 1)
    skin: np.ndarray = (blue >= 85) & (blue <= 125) & (red >= 140) & (red <= 170)
    return skin


def _edges(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    return np.abs(np.gradient(grey, axis=0)) + np.abs(np.gradient(grey, axis=1))


def _mirrored(image: Image.Image, random: Random) -> Image.Image:
    """The piece and its mirror images in a grid of 2 x 2 or 4 x 4."""
    piece = np.asarray(image)
    row = np.concatenate([piece, piece[:, ::-1]], axis=1)
    block = np.concatenate([row, row[::-1]], axis=0)
    return Image.fromarray(np.tile(block, (random.choice((1, 2)),) * 2 + (1,)))


def normal(photograph: Photograph, others: list[Photograph], random: Random) -> tuple[Image.Image, str]:
    """A normal image and its kind.

    The kinds: ``whole`` (the photograph), ``tight`` (the product fills the frame, part of it may be cut off),
    ``ground`` (on another background), ``group`` (several products side by side).
    """
    kind = random.choices(("whole", "tight", "ground", "group"), (2, 3, 6, 1))[0]
    if kind == "whole":
        return photograph.image, kind
    if kind == "tight":
        return _tight(photograph, random), kind
    shown = [photograph] if kind == "ground" else [photograph, *others]
    return _placed(shown, _ground(random, others[0].image), random), kind


def _tight(photograph: Photograph, random: Random) -> Image.Image:
    """Crop to the product, or slightly into it."""
    left, top, right, bottom = photograph.box
    width, height = right - left, bottom - top
    margins = [random.uniform(-0.08, 0.08) for _ in range(4)]
    box = (
        left - margins[0] * width,
        top - margins[1] * height,
        right + margins[2] * width,
        bottom + margins[3] * height,
    )
    image = photograph.image
    if random.random() < 0.5:
        image = _on_ground(image, photograph.mask, random)
    left, top, right, bottom = (round(min(max(edge, 0), SIDE)) for edge in box)
    return image.crop((left, top, right, bottom))


def _placed(shown: list[Photograph], ground: Image.Image, random: Random) -> Image.Image:
    """The products side by side on the background ``ground``."""
    scene = ground.copy()
    slot = SIDE / len(shown)
    for place, photograph in enumerate(shown):
        box = photograph.box
        product = photograph.image.crop(box)
        mask = Image.fromarray((photograph.mask * 255).astype(np.uint8)).crop(box)
        height = round(SIDE * random.uniform(0.55, 1.1))
        width = round(height * product.width / product.height * random.uniform(0.8, 1.2))
        if width > 1.15 * SIDE:
            width, height = SIDE, max(8, round(height * SIDE / width))
        size = (max(width, 8), max(height, 8))
        turn = random.uniform(-30, 30) if random.random() < 0.3 else 0
        product, mask = (
            part.resize(size).rotate(turn, Image.Resampling.BILINEAR, expand=True) for part in (product, mask)
        )
        mask = mask.filter(ImageFilter.GaussianBlur(0.7))
        size = product.size
        centre = (round(slot * (place + 0.5) + random.uniform(-12, 12)), round(SIDE * random.uniform(0.45, 0.55)))
        scene.paste(product, (centre[0] - size[0] // 2, centre[1] - size[1] // 2), mask)
    return scene


def _on_ground(image: Image.Image, mask: np.ndarray, random: Random) -> Image.Image:
    soft = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    return Image.composite(image, _ground(random, image).resize(image.size), soft)


def _ground(random: Random, photograph: Image.Image) -> Image.Image:  # noqa: PLR0911  # one for each kind
    """A background: plain, a gradient, plaster or carpet, planks, tiles, a cloth, or a blurred room."""
    kind = random.choices(("plain", "gradient", "rough", "planks", "tiles", "cloth", "blur"), (4, 3, 3, 2, 1, 2, 2))[0]
    if kind == "plain":
        return Image.new("RGB", (SIDE, SIDE), _colour(random))
    if kind == "gradient":
        mixed = ImageOps.colorize(Image.linear_gradient("L"), _colour(random), _colour(random))
        return mixed.rotate(random.choice((0, 90, 180, 270))).resize((SIDE, SIDE))
    if kind == "rough":
        return _coloured(_noise(random, (1, 1), random.uniform(0.3, 1.6)), random)
    if kind == "planks":
        stretch = random.choice(((12, 1), (1, 12)))
        return _coloured(_noise(random, stretch, random.uniform(0.5, 1.6)), random, warm=True)
    if kind == "tiles":
        return _tiles(random)
    side = random.randint(20, 60)
    left, top = random.randint(60, SIDE - 60 - side), random.randint(60, SIDE - 60 - side)
    piece = photograph.crop((left, top, left + side, top + side))
    if kind == "cloth":
        cloth = _mirrored(piece, random).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return ImageEnhance.Brightness(cloth).enhance(random.uniform(0.5, 1.2))
    return piece.resize((SIDE, SIDE), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(random.uniform(3, 12)))


def _colour(random: Random) -> tuple[int, int, int]:
    """A grey of any brightness, or a colour."""
    value = random.uniform(0, 255)
    spread = random.choice((0, 10, 60))
    red, green, blue = (round(min(max(value + random.uniform(-spread, spread), 0), 255)) for _ in range(3))
    return red, green, blue


def _noise(random: Random, stretch: tuple[int, int], steepness: float) -> np.ndarray:
    """Noise whose power decreases with the frequency, as for natural surfaces; range [0, 1]."""
    spectrum = np.random.default_rng(random.getrandbits(32)).normal(size=(2, SIDE, SIDE))
    rows, columns = np.meshgrid(np.fft.fftfreq(SIDE) * stretch[0], np.fft.fftfreq(SIDE) * stretch[1], indexing="ij")
    radius = np.hypot(rows, columns)
    radius[0, 0] = np.inf
    values = np.fft.ifft2((spectrum[0] + 1j * spectrum[1]) / radius**steepness).real
    low, high = np.quantile(values, (0.01, 0.99))
    noise: np.ndarray = np.clip((values - low) / (high - low), 0, 1)
    return noise


def _coloured(values: np.ndarray, random: Random, *, warm: bool = False) -> Image.Image:
    grey = Image.fromarray((values * 255).astype(np.uint8))
    if warm:
        dark = (random.randint(30, 110), random.randint(20, 70), random.randint(10, 50))
        return ImageOps.colorize(grey, dark, tuple(min(255, channel * 2 + 20) for channel in dark))
    first = np.array(_colour(random))
    second = np.clip(first + np.random.default_rng(random.getrandbits(32)).integers(-70, 71, 3), 0, 255)
    return ImageOps.colorize(grey, tuple(first.tolist()), tuple(second.tolist()))


def _tiles(random: Random) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), _colour(random))
    draw = ImageDraw.Draw(image)
    step, grout = random.randint(25, 90), _colour(random)
    for at in range(random.randint(0, step), SIDE, step):
        draw.line((at, 0, at, SIDE), grout, random.randint(1, 4))
        draw.line((0, at, SIDE, at), grout, random.randint(1, 4))
    return image


def _shaded(image: Image.Image, random: Random) -> Image.Image:
    """Add soft shadows, as of folds or a lamp."""
    light = Image.fromarray((_noise(random, (1, 1), 2.0) * 255).astype(np.uint8)).resize(image.size)
    factor = 1 - random.uniform(0.2, 0.6) * (1 - np.asarray(light, dtype=np.float64)[..., None] / 255)
    return Image.fromarray((np.asarray(image) * factor).astype(np.uint8))


def photographed(image: Image.Image, random: Random, size: int) -> np.ndarray:
    """``image`` as a shop would serve it, scaled to ``size``: the same steps for close-ups and normal images.

    Scaled down to the few pixels of a close-up, or not; scaled up again; sharpened, blurred or neither; with other
    brightness, contrast and colour; compressed as JPEG.

    Args:
        image: RGB.
        random: the source of all random choices.
        size: px, square.

    Returns:
        Pixels, uint8, ``(3, size, size)``.
    """
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    narrow = round(NARROWEST * (SIDE / NARROWEST) ** random.random())
    if narrow < min(image.size):
        image = image.resize((narrow, narrow), random.choice(RESAMPLINGS))
    shown = max(size, 128)
    image = image.resize((shown, shown), random.choice(RESAMPLINGS))
    treated = random.random()
    if treated < 0.3:
        image = image.filter(ImageFilter.UnsharpMask(random.uniform(0.8, 3), random.randint(50, 250), 0))
    elif treated < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 1.5)))
    if random.random() < 0.25:
        image = _shaded(image, random)
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.75, 1.2))
    image = ImageEnhance.Contrast(image).enhance(random.uniform(0.75, 1.2))
    image = ImageEnhance.Color(image).enhance(random.uniform(0.5, 1.3))
    if random.random() < 0.3:
        noise = np.random.default_rng(random.getrandbits(32)).normal(0, random.uniform(2, 10), (shown, shown, 1))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=random.randint(55, 95))
    return to_array(Image.open(buffer).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
