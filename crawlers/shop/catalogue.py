"""What the demo shop sells, where, and under which URL. The same on every run: it follows from the sample alone.

The addresses of the three shops (``shop-a.demo.test`` and so on, port 80, where nothing really is):

    page        shop-a                  shop-b                         shop-c
    category    /c/shirts               /kategorie/shirts.html         /category/shirts/
    page 2      /c/shirts?p=2           /kategorie/shirts.html?page=2  /category/shirts/page/2/
    product     /p/slim-shirt-10023     /artikel/10023-slim-shirt.html /product/slim-shirt-10023/
    image     /media/10023-1.jpg      /img/10023/1.jpg               /uploads/10023-1.jpg

Every path below ``/internal/`` is forbidden by robots.txt, and each category's first page links to a product
there, as good as any other: it must never stand in the data.

Some products hold what a crawl meets in the world: an image that is gone (404), the very image of another
shop's offer (an exact duplicate, under another URL), the same compressed harder (a near-duplicate). 30 % have a
second view of the garment. 15 % show a close-up of its fabric: `zoomed_urls` is the truth that only the ``zoom``
stage's metric may look at.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from atlas_model.core.errors import MissingError
from atlas_model.data.schemas import read_table
from crawlers.shop.drawing import QUALITY, SOURCE_SIDE, CloseUp, WholeView, find_close_up
from crawlers.shop.wording import BRANDS, CARE, COLOURS, KINDS, MATERIALS, STYLES, Kind

SAMPLE = Path(__file__).resolve().parents[2] / "data/sample.parquet"
SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int32(), nullable=False),  # position in Fashion-MNIST's training file
        pa.field("label", pa.uint8(), nullable=False),  # its class, 0 to 9
        pa.field("served", pa.bool_(), nullable=False),  # by the shop; the others are for zoom_train
        pa.field("pixels", pa.binary(SOURCE_SIDE**2), nullable=False),  # rows of grey values
    ]
)
# `zoom_training.fingerprint` of data/zoom/labelled as it is in git: a filter trained on it is for this shop alone.
LABELLED_FINGERPRINT = "3a2ee06d66306a58d3765185f8450df6163785c7e839b480555c9354397a8b60"
PAGE_SIZE = 48  # products on a category page
ZOOMED_SHARE = 0.15  # of the products
SECOND_VIEW_SHARE = 0.3
DEAD_EVERY = 300  # products
OFFERED_TWICE = (QUALITY, 60) * 4  # per kind, garments that two shops sell: the second one's JPEG quality
FORBIDDEN = "/internal"  # paths below it, by robots.txt
THUMBNAIL = "?w=56"  # after an image's path: a small one, which no crawl should want


@dataclass(frozen=True)
class Shop:
    """One host, and how it writes addresses and prices."""

    host: str
    number_base: int  # of its articles
    currency: str
    rate: int  # its prices per EUR
    category_path: str
    next_path: str  # page 2 and on
    product_path: str
    image_path: str
    does_not_sell: tuple[str, ...] = ()  # slugs


SHOPS = (
    Shop(
        host="shop-a.demo.test",
        number_base=10000,
        currency="EUR",
        rate=1,
        category_path="/c/{slug}",
        next_path="/c/{slug}?p={page}",
        product_path="/p/{name}-{number}",
        image_path="/media/{number}-{position}.jpg",
    ),
    Shop(
        host="shop-b.demo.test",
        number_base=40000,
        currency="CHF",
        rate=1,
        category_path="/kategorie/{slug}.html",
        next_path="/kategorie/{slug}.html?page={page}",
        product_path="/artikel/{number}-{name}.html",
        image_path="/img/{number}/{position}.jpg",
        does_not_sell=("sandals", "coats"),
    ),
    Shop(
        host="shop-c.demo.test",
        number_base=70000,
        currency="INR",
        rate=90,
        category_path="/category/{slug}/",
        next_path="/category/{slug}/page/{page}/",
        product_path="/product/{name}-{number}/",
        image_path="/uploads/{number}-{position}.jpg",
        does_not_sell=("dresses", "bags"),
    ),
)


@dataclass(frozen=True)
class ShopImage:
    """What stands under an image's URL."""

    source: int  # row of the sample
    view: WholeView | CloseUp
    quality: int = QUALITY  # JPEG


@dataclass(frozen=True)
class Product:
    """One offer of one shop. Paths are relative to the host."""

    shop: Shop
    kind: Kind
    number: int
    path: str
    title: str
    brand: str
    price: Decimal
    details: dict[str, str]
    images: dict[str, ShopImage | None]  # path -> image, in the page's order; None: gone

    @property
    def category_path(self) -> str:
        """The first page that lists it, or would."""
        return self.shop.category_path.format(slug=self.kind.slug)

    @property
    def image_urls(self) -> list[str]:
        """Absolute, in the page's order."""
        return [f"http://{self.shop.host}{path}" for path in self.images]


@dataclass(frozen=True)
class Category:
    """One kind in one shop."""

    shop: Shop
    kind: Kind
    products: list[Product]
    forbidden: Product  # below /internal/

    @property
    def pages(self) -> int:
        """How many pages list its products."""
        return -(-len(self.products) // PAGE_SIZE)

    def path(self, page: int) -> str:
        """The address of its ``page`` (the first is 1), relative to the host."""
        pattern = self.shop.category_path if page == 1 else self.shop.next_path
        return pattern.format(slug=self.kind.slug, page=page)


@dataclass(frozen=True)
class Catalogue:
    """Everything the three shops sell."""

    categories: list[Category]
    pixels: UInt8[np.ndarray, "images 28 28"]

    def products(self) -> Iterator[Product]:
        """All offers that a polite crawl finds."""
        for category in self.categories:
            yield from category.products


def category_urls() -> dict[str, dict[Kind, str]]:
    """For each host, the first page of each kind that it sells: what data/sources.csv says."""
    return {
        shop.host: {
            kind: f"http://{shop.host}{shop.category_path.format(slug=kind.slug)}"
            for kind in KINDS
            if kind.slug not in shop.does_not_sell
        }
        for shop in SHOPS
    }


@lru_cache(maxsize=1)
def load_catalogue() -> Catalogue:
    """The catalogue of the sample in data/.

    Raises:
        MissingError: the sample is not there.
    """
    return build_catalogue(SAMPLE)


@lru_cache(maxsize=1)
def zoomed_urls() -> frozenset[str]:
    """The URLs of the close-ups: the truth, for measuring what the pipeline made of them and for nothing else."""
    return frozenset(
        f"http://{product.shop.host}{path}"
        for product in load_catalogue().products()
        for path, image in product.images.items()
        if image is not None and isinstance(image.view, CloseUp)
    )


def build_catalogue(sample: Path) -> Catalogue:
    """Put the images of ``sample`` on offer."""
    if not sample.is_file():
        raise MissingError(f"{sample}: the sample is not there. It is in git; tools/build_sample.py makes it again.")
    table = read_table(sample, SAMPLE_SCHEMA, made_by="tools/build_sample.py")
    flat = np.frombuffer(b"".join(table["pixels"].to_pylist()), dtype=np.uint8)
    pixels = flat.reshape(-1, SOURCE_SIDE, SOURCE_SIDE)
    served = table["served"].to_numpy()
    labels = table["label"].to_numpy()
    categories: list[Category] = []
    for label, kind in enumerate(KINDS):
        sources = np.flatnonzero(served & (labels == label)).tolist()
        categories += _categories(kind, sources, pixels)
    return Catalogue(categories, pixels)


def _categories(kind: Kind, sources: list[int], pixels: UInt8[np.ndarray, "images 28 28"]) -> list[Category]:
    """Hand the images of one kind to the shops that sell it, in turn."""
    close_ups = _close_ups(kind, sources, pixels)
    shops = [shop for shop in SHOPS if kind.slug not in shop.does_not_sell]
    categories = []
    for place, shop in enumerate(shops):
        own = sources[place :: len(shops)]
        products = [_product(shop, kind, source, _gallery(source, close_ups.get(source))) for source in own]
        if place == 0:  # it sells some of the next shop's garments as well
            products += [
                _product(shop, kind, source, [ShopImage(source, WholeView(), quality)])
                for source, quality in zip(sources[1 :: len(shops)], OFFERED_TWICE, strict=False)
            ]
        preview = _product(shop, kind, own[0], [ShopImage(own[0], WholeView())], FORBIDDEN)
        categories.append(Category(shop, kind, products, preview))
    return categories


def _close_ups(kind: Kind, sources: list[int], pixels: UInt8[np.ndarray, "images 28 28"]) -> dict[int, CloseUp]:
    """Close-ups of `ZOOMED_SHARE` of ``sources`` (of fewer, where too few garments are broad enough)."""
    random = Random(f"close-ups {kind.slug}")
    found: dict[int, CloseUp] = {}
    for source in random.sample(sources, len(sources)):
        if len(found) >= ZOOMED_SHARE * len(sources):
            break
        close_up = find_close_up(pixels[source], random)
        if close_up is not None:
            found[source] = close_up
    return found


def _gallery(source: int, close_up: CloseUp | None) -> list[ShopImage | None]:
    """The images of a product, the whole garment first."""
    random = Random(f"gallery {source}")
    images: list[ShopImage | None] = [ShopImage(source, WholeView())]
    if random.random() < SECOND_VIEW_SHARE:
        moved = WholeView(mirrored=True, right=random.choice((-1, 1)), down=random.choice((-1, 0, 1)))
        images.append(ShopImage(source, moved))
    if close_up is not None:
        images.insert(random.randint(1, len(images)), ShopImage(source, close_up))
    if source % DEAD_EVERY == 0:
        images.append(None)
    return images


def _product(shop: Shop, kind: Kind, source: int, images: list[ShopImage | None], prefix: str = "") -> Product:
    """An offer: its words and its price follow from the shop and the image."""
    random = Random(f"{shop.host} {source}{prefix}")
    number = shop.number_base + source
    brand, style, noun = random.choice(BRANDS), random.choice(STYLES), random.choice(kind.nouns)
    title = f"{brand} {style} {noun}"
    if random.random() < 0.3:
        title += f' "{random.choice(COLOURS)}"'
    cents = random.choice((0, 50, 90, 99))
    price = (Decimal(random.randint(9, 249)) + Decimal(cents) / 100) * shop.rate
    name = _url_name(f"{style} {noun}")
    return Product(
        shop=shop,
        kind=kind,
        number=number,
        path=prefix + shop.product_path.format(name=name, number=number),
        title=title,
        brand=brand,
        price=price.quantize(Decimal("0.01")),
        details={
            "Material": random.choice(MATERIALS[kind.breadcrumb[0]]),
            "Colour": random.choice(COLOURS),
            "Care": random.choice(CARE),
        },
        images={
            prefix + shop.image_path.format(number=number, position=position): image
            for position, image in enumerate(images, start=1)
        },
    )


def _url_name(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
