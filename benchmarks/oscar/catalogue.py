"""Generates the catalogue of the shop: the same each time, and as irregular as real catalogues. Does not use Django."""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from PIL import Image, ImageDraw

TREE = {  # two of the names are also words of the pages around them
    "Clothing & Shoes": {
        "Women": ["Dresses", "Jackets & Coats", "Knitwear"],
        "Men": ["Shirts", "Trousers", "Sneakers"],
        "Kids": ["T-Shirts", "Rompers", 'Sizes "0-3"'],
    },
    "Home": {
        "Kitchen": ["Pots & Pans", "Knives", "Mugs"],
        "Living room": ["Sofas", "Lamps", "Rugs < 2 m"],
        "Garden": ["Chairs", "Tools", "Next to nothing"],
    },
    "Bücher & Spiele": {
        "Märchen": ["Für Kinder", "Für Große", "Hörbücher"],
        "Brettspiele": ["Würfel", "Karten", "Puzzles"],
        "Crème de la crème": ["Français", "Español", "Ελληνικά"],
    },
}
# Products of the leaves, in turns; one more comes from the leaf before, and Oscar shows 20 on a page. Sizes whose last
# page holds what it should: of some others Haystack's Whoosh backend repeats a few products and leaves others out (its
# issue 1664).
SIZES = (24, 19, 44, 4, 20, 29, 21, 39, 23)
QUALITIES = (
    "Plain",
    "Brushed",
    "Little",
    "Old-Fashioned",
    "Grüne",
    "Extra Light",
    "No. 5",
    "Nº 12",
    "100 %",
    "Señor's",
)
THINGS = (
    "Companion",
    "Evening",
    "Weekender",
    "Classic",
    "Überraschung",
    "Journey",
    "Café",
    "Straße",
    "Original",
    "Set",
)
ODD = (
    "{} & Sons",
    "{} <limited>",
    'The "{}" Edition',
    "{} - £5 off & more",
    "Tom's {} | Two in One",
    "{} © + ½ Price™",
)
LONG = "with everything that one could wish for, made by hand from the finest materials, in many colours and sizes"
COLOURS = ("red", "blue", "green", "off-white")
FORMATS = ((900, 1200, "JPEG"), (1200, 900, "JPEG"), (320, 300, "JPEG"), (700, 700, "PNG"))


@dataclass(frozen=True)
class Article:
    """A product. Each variant has a price; without a price it cannot be bought."""

    number: int
    title: str
    category: tuple[str, ...]
    also_in: tuple[str, ...] | None
    prices: list[Decimal | None]  # one per variant; of a plain product one
    stock: int
    images: int

    @property
    def description(self) -> str:
        """A description with a price that is not that of the product."""
        return f"<p>{self.title.split()[0]} {LONG}.</p><p>Recommended retail price: £{1000 + self.number}.99</p>"


def leaves() -> list[tuple[str, ...]]:
    """The paths of the categories with products."""
    return [(top, middle, leaf) for top, below in TREE.items() for middle, names in below.items() for leaf in names]


@cache
def articles() -> list[Article]:
    """All products, category by category."""
    paths = leaves()
    made: list[Article] = []
    for index, path in enumerate(paths):
        next_leaf = paths[(index + 1) % len(paths)]
        for position in range(SIZES[index % len(SIZES)]):
            made.append(_article(len(made), path, next_leaf if position == 0 else None))
    return made


def _article(number: int, category: tuple[str, ...], also_in: tuple[str, ...] | None) -> Article:
    chance = random.Random(number)
    title = f"{chance.choice(QUALITIES)} {category[-1]} {chance.choice(THINGS)} {number}"
    if number % 11 == 3:
        title = ODD[number % len(ODD)].format(title)
    if number % 7 == 2:
        title = f"{title}, {LONG}"
    prices: list[Decimal | None] = [_price(chance) for _ in range(3 if number % 9 == 4 else 1)]
    if number % 97 == 50:
        prices = [None]
    if number % 211 == 100:
        prices = [Decimal("0.00")]
    return Article(
        number=number,
        title=title,
        category=category,
        also_in=also_in,
        prices=prices,
        stock=0 if number % 8 == 6 else 10,
        images=0 if number % 20 == 10 else 1 if number % 5 == 1 else chance.randint(2, 5),
    )


def _price(chance: random.Random) -> Decimal:
    cents = chance.choice((99, 1250, 4999, 129900, 1234567))
    return Decimal(cents + chance.randrange(500)) / 100


def images(article: Article) -> Iterator[tuple[str, bytes]]:
    """File names and contents, all distinct."""
    for position in range(article.images):
        chance = random.Random(f"{article.number}/{position}")
        width, height, kind = FORMATS[0 if chance.random() < 0.8 else chance.randrange(len(FORMATS))]
        image = Image.new("RGB", (width, height), _colour(chance))
        draw = ImageDraw.Draw(image)
        for _ in range(12):
            left, top = chance.randrange(width), chance.randrange(height)
            draw.ellipse((left, top, left + chance.randrange(width), top + chance.randrange(height)), _colour(chance))
        file = io.BytesIO()
        image.save(file, kind)
        yield f"{article.number}-{position}.{'jpg' if kind == 'JPEG' else 'png'}", file.getvalue()


def _colour(chance: random.Random) -> tuple[int, int, int]:
    return chance.randrange(256), chance.randrange(256), chance.randrange(256)
