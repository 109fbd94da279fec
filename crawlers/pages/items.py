"""What the pages of a shop say, and the row of products.parquet that a product page becomes.

Names are those of zyte-common-items, in snake case. Knows nothing of pages or of the label.
"""

from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Self
from urllib.parse import urlsplit

from atlas_model.taxonomy.tree import CategoryPath
from crawlers.http.urls import sent
from crawlers.pages.fields.product_urls import without_session

COLUMNS = {  # of products.parquet, where their names are not those of zyte-common-items
    "name": "title",
    "breadcrumbs": "breadcrumb",
    "additional_properties": "details",
    "images": "image_urls",
}


@dataclass(frozen=True)
class Listing:
    """A page of a category, read."""

    items: list[str]  # product pages, absolute, each once
    next_page: str | None = None  # absolute; may be a JSON endpoint
    sub_categories: list[str] = field(default_factory=list)  # categories below this one, absolute; for information
    unreadable: int = 0  # scripts of JSON-LD on the page that could not be read
    field_sources: dict[str, str] = field(default_factory=dict)  # field -> where on the page it stood


@dataclass(frozen=True)
class Product:
    """One product page, read. What the page does not say is None or empty."""

    url: str  # of the page, after redirects
    canonical_url: str | None  # as the page names it
    name: str | None
    sku: str | None  # the shop's own number
    price: Decimal | None
    currency: str | None  # ISO 4217
    breadcrumbs: list[str]
    additional_properties: dict[str, str]
    images: list[str]  # absolute URLs, each once
    availability: str | None = None  # InStock, OutOfStock, PreOrder
    brand: str | None = None
    gtin: str | None = None  # digits, as the page has them
    mpn: str | None = None  # the maker's number
    unreadable: int = 0  # scripts of JSON-LD on the page that could not be read
    field_sources: dict[str, str] = field(default_factory=dict)  # field -> json-ld, microdata, opengraph, css, ...

    @property
    def missing(self) -> str | None:
        """Why this is no product for us, or None if it is one."""
        if not self.name:
            return "no_title"
        return None if self.images else "no_image"

    @property
    def page_url(self) -> str:
        """The canonical URL, if it is one of the same host, and not its home page, as which many a theme names all.

        A page cannot speak for another shop. Without the id of a session, which is the visitor's.
        """
        canonical = urlsplit(self.canonical_url or "")
        is_page = canonical.path.strip("/") or canonical.query
        is_own = is_page and _origin(self.canonical_url) == _origin(self.url)
        return without_session((self.canonical_url if is_own else None) or self.url)

    def row(self, site: str, taxonomy: CategoryPath) -> dict[str, Any]:
        """As a row of `records.PRODUCTS`."""
        return {
            "product_id": f"{site}:{self.sku}" if self.sku else self.page_url,
            "site": site,
            "page_url": self.page_url,
            "title": self.name,
            "price": self.price,
            "currency": self.currency if self.price is not None else None,
            "availability": self.availability,
            "brand": self.brand,
            "gtin": self.gtin,
            "mpn": self.mpn,
            "breadcrumb": self.breadcrumbs,
            "taxonomy": list(taxonomy),
            "details": list(self.additional_properties.items()),
            "image_urls": self.images,
            "split_hint": None,
            "field_sources": sorted((COLUMNS.get(name, name), source) for name, source in self.field_sources.items()),
        }

    def to_json(self) -> dict[str, Any]:
        """As plain values, for `from_json`."""
        return asdict(self) | {"price": None if self.price is None else str(self.price)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Undo `to_json`."""
        return cls(**value | {"price": None if value["price"] is None else Decimal(value["price"])})


def _origin(url: str | None) -> str | None:
    """Host and port, however they are spelt."""
    try:
        return urlsplit(sent(url or "")).netloc
    except ValueError:
        return None
