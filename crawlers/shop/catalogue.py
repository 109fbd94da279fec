"""Products and URLs of the three demo shops, derived deterministically from the sample in data/.

URLs of the shops (hosts ``shop-a.demo.test`` and so on, port 80, on which nothing listens):

    page        shop-a                  shop-b                         shop-c
    category    /c/shirts               /kategorie/shirts.html         /category/shirts/
    page 2      /c/shirts?p=2           /kategorie/shirts.html?page=2  /category/shirts/page/2/
    product     /p/slim-shirt-10023     /artikel/10023-slim-shirt.html /product/slim-shirt-10023/
    image       /media/10023-1.jpg      /img/10023/1.jpg               /uploads/10023-1.jpg

robots.txt forbids every path below ``/internal/``. The first page of each category links to a valid product there,
which must never be in the data.

Some products have the defects of real shops: a missing image (404), the image of another shop's product (an exact
duplicate under another URL), or that image compressed more (a near-duplicate). 30 % have a second view of the garment,
and 15 % a close-up of its fabric. `zoomed_urls` is the ground truth, for the metrics of the stage ``zoom`` only.
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
        pa.field("label", pa.uint8(), nullable=False),  # class, 0 to 9
        pa.field("served", pa.bool_(), nullable=False),  # False: used by zoom_train, not served by a shop
        pa.field("pixels", pa.binary(SOURCE_SIDE**2), nullable=False),  # grey values, row by row
    ]
)
# Fingerprint of data/zoom/labelled as it is in git; a zoom filter trained on it suits the demo shops only.
LABELLED_FINGERPRINT = "3a2ee06d66306a58d3765185f8450df6163785c7e839b480555c9354397a8b60"
PAGE_SIZE = 48  # products on a category page
ZOOMED_SHARE = 0.15  # share of products with a close-up
SECOND_VIEW_SHARE = 0.3  # share of products with a second view
DEAD_EVERY = 300  # one of so many products has a missing image
OFFERED_TWICE = (QUALITY, 60) * 4  # JPEG quality in the second shop, for each garment of a kind that two shops sell
FORBIDDEN = "/internal"  # robots.txt forbids paths below it
THUMBNAIL = "?w=56"  # appended to an image's path for a thumbnail, which a crawl should not use


@dataclass(frozen=True)
class DemoShop:
    """One demo shop: host, URL patterns and currency."""

    host: str
    number_base: int  # added to the sample's row to get a product number
    currency: str
    rate: int  # units of the currency per EUR
    category_path: str
    next_path: str  # from page 2 on
    product_path: str
    image_path: str
    does_not_sell: tuple[str, ...] = ()  # slugs of kinds


SHOPS = (
    DemoShop(
        host="shop-a.demo.test",
        number_base=10000,
        currency="EUR",
        rate=1,
        category_path="/c/{slug}",
        next_path="/c/{slug}?p={page}",
        product_path="/p/{name}-{number}",
        image_path="/media/{number}-{position}.jpg",
    ),
    DemoShop(
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
    DemoShop(
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
    """How an image is drawn."""

    source: int  # row of the sample
    view: WholeView | CloseUp
    quality: int = QUALITY  # JPEG


@dataclass(frozen=True)
class DemoProduct:
    """A product of one shop. Paths are relative to the host."""

    shop: DemoShop
    kind: Kind
    number: int
    path: str
    title: str
    brand: str
    price: Decimal
    details: dict[str, str]
    images: dict[str, ShopImage | None]  # path -> image, in page order; None: missing

    @property
    def category_path(self) -> str:
        """The first page of its category."""
        return self.shop.category_path.format(slug=self.kind.slug)

    @property
    def image_urls(self) -> list[str]:
        """Absolute image URLs, in page order."""
        return [f"http://{self.shop.host}{path}" for path in self.images]


@dataclass(frozen=True)
class DemoCategory:
    """The products of one kind in one shop."""

    shop: DemoShop
    kind: Kind
    products: list[DemoProduct]
    forbidden: DemoProduct  # below /internal/

    @property
    def pages(self) -> int:
        """Number of pages that list its products."""
        return -(-len(self.products) // PAGE_SIZE)

    def path(self, page: int) -> str:
        """The path of page number ``page`` (from 1)."""
        pattern = self.shop.category_path if page == 1 else self.shop.next_path
        return pattern.format(slug=self.kind.slug, page=page)


@dataclass(frozen=True)
class DemoCatalogue:
    """The products of all three shops, and the sample's pixels."""

    categories: list[DemoCategory]
    pixels: UInt8[np.ndarray, "images 28 28"]

    def products(self) -> Iterator[DemoProduct]:
        """All products that robots.txt allows to crawl."""
        for category in self.categories:
            yield from category.products


def category_urls() -> dict[str, dict[Kind, str]]:
    """Host -> kind -> URL of its first category page: the content of data/sources.csv."""
    return {
        shop.host: {
            kind: f"http://{shop.host}{shop.category_path.format(slug=kind.slug)}"
            for kind in KINDS
            if kind.slug not in shop.does_not_sell
        }
        for shop in SHOPS
    }


@lru_cache(maxsize=1)
def load_catalogue() -> DemoCatalogue:
    """Build the catalogue from the sample in data/.

    Raises:
        MissingError: the sample is missing.
    """
    return build_catalogue(SAMPLE)


@lru_cache(maxsize=1)
def zoomed_urls() -> frozenset[str]:
    """The URLs of all close-ups: ground truth for metrics only."""
    return frozenset(
        f"http://{product.shop.host}{path}"
        for product in load_catalogue().products()
        for path, image in product.images.items()
        if image is not None and isinstance(image.view, CloseUp)
    )


def build_catalogue(sample: Path) -> DemoCatalogue:
    """Build the catalogue from the images in ``sample``."""
    if not sample.is_file():
        raise MissingError(f"{sample}: the sample is missing. Restore it from git, or run tools/build_sample.py.")
    table = read_table(sample, SAMPLE_SCHEMA, made_by="tools/build_sample.py")
    flat = np.frombuffer(b"".join(table["pixels"].to_pylist()), dtype=np.uint8)
    pixels = flat.reshape(-1, SOURCE_SIDE, SOURCE_SIDE)
    served = table["served"].to_numpy()
    labels = table["label"].to_numpy()
    categories: list[DemoCategory] = []
    for label, kind in enumerate(KINDS):
        sources = np.flatnonzero(served & (labels == label)).tolist()
        categories += _categories(kind, sources, pixels)
    return DemoCatalogue(categories, pixels)


def _categories(kind: Kind, sources: list[int], pixels: UInt8[np.ndarray, "images 28 28"]) -> list[DemoCategory]:
    """Distribute the images of one kind to the shops that sell it, round robin."""
    close_ups = _close_ups(kind, sources, pixels)
    shops = [shop for shop in SHOPS if kind.slug not in shop.does_not_sell]
    categories = []
    for place, shop in enumerate(shops):
        own = sources[place :: len(shops)]
        products = [_product(shop, kind, source, _gallery(source, close_ups.get(source))) for source in own]
        if place == 0:  # the first shop also sells some garments of the second
            products += [
                _product(shop, kind, source, [ShopImage(source, WholeView(), quality)])
                for source, quality in zip(sources[1 :: len(shops)], OFFERED_TWICE, strict=False)
            ]
        preview = _product(shop, kind, own[0], [ShopImage(own[0], WholeView())], FORBIDDEN)
        categories.append(DemoCategory(shop, kind, products, preview))
    return categories


def _close_ups(kind: Kind, sources: list[int], pixels: UInt8[np.ndarray, "images 28 28"]) -> dict[int, CloseUp]:
    """Close-ups for `ZOOMED_SHARE` of ``sources``, or for fewer if too few garments are broad enough."""
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


def _product(shop: DemoShop, kind: Kind, source: int, images: list[ShopImage | None], prefix: str = "") -> DemoProduct:
    """A product; texts and price are seeded by the shop and the image."""
    random = Random(f"{shop.host} {source}{prefix}")
    number = shop.number_base + source
    brand, style, noun = random.choice(BRANDS), random.choice(STYLES), random.choice(kind.nouns)
    title = f"{brand} {style} {noun}"
    if random.random() < 0.3:
        title += f' "{random.choice(COLOURS)}"'
    cents = random.choice((0, 50, 90, 99))
    price = (Decimal(random.randint(9, 249)) + Decimal(cents) / 100) * shop.rate
    name = _url_name(f"{style} {noun}")
    return DemoProduct(
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
