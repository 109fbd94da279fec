"""Items read from pages, and the conversion of a product to a row of products.parquet.

Field names are those of zyte-common-items in snake case. The category label is not part of an item.
"""

from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Self
from urllib.parse import urlsplit

from atlas_model.taxonomy.tree import CategoryPath
from crawlers.http.urls import request_url
from crawlers.pages.fields.product_urls import without_session

COLUMNS = {  # field of an item -> column of products.parquet, where the names differ
    "name": "title",
    "breadcrumbs": "breadcrumb",
    "additional_properties": "details",
    "images": "image_urls",
}


@dataclass(frozen=True)
class Listing:
    """Item read from one category page."""

    items: list[str]  # absolute URLs of product pages, without duplicates
    next_page: str | None = None  # absolute URL; may be a JSON endpoint
    sub_categories: list[str] = field(default_factory=list)  # absolute URLs of narrower categories; informative only
    unreadable: int = 0  # JSON-LD scripts that could not be parsed
    field_sources: dict[str, str] = field(default_factory=dict)  # field -> reader that found it


@dataclass(frozen=True)
class Product:
    """Item read from one product page. A field that the page lacks is None or empty."""

    url: str  # of the page, after redirects
    canonical_url: str | None  # from the page's canonical link
    name: str | None
    sku: str | None  # the shop's own product number
    price: Decimal | None
    currency: str | None  # ISO 4217
    breadcrumbs: list[str]
    additional_properties: dict[str, str]
    images: list[str]  # absolute URLs, without duplicates
    availability: str | None = None  # InStock, OutOfStock, PreOrder
    brand: str | None = None
    gtin: str | None = None  # digits, as on the page
    mpn: str | None = None  # manufacturer part number
    unreadable: int = 0  # JSON-LD scripts that could not be parsed
    field_sources: dict[str, str] = field(default_factory=dict)  # field -> json-ld, microdata, opengraph, css, ...

    @property
    def missing(self) -> str | None:
        """Reason for which the product is discarded; None if it is complete."""
        if not self.name:
            return "no_title"
        return None if self.images else "no_image"

    @property
    def page_url(self) -> str:
        """The canonical URL if it is usable, else the page's own URL; without session ids.

        A canonical URL of another host is ignored, because it is untrusted. So is one of the home page, which many
        themes name on every page by mistake.
        """
        canonical = urlsplit(self.canonical_url or "")
        is_page = canonical.path.strip("/") or canonical.query
        is_own = is_page and _origin(self.canonical_url) == _origin(self.url)
        return without_session((self.canonical_url if is_own else None) or self.url)

    def row(self, site: str, taxonomy: CategoryPath) -> dict[str, Any]:
        """The product as a row of products.parquet."""
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
        """The product as JSON values, for `from_json`."""
        return asdict(self) | {"price": None if self.price is None else str(self.price)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Build a product from the result of `to_json`."""
        return cls(**value | {"price": None if value["price"] is None else Decimal(value["price"])})


def _origin(url: str | None) -> str | None:
    """Normalised host and port of ``url``; None if it is invalid."""
    try:
        return urlsplit(request_url(url or "")).netloc
    except ValueError:
        return None
