"""Health of a crawl: the share of fields read per shop, compared with the last accepted crawl.

When a shop changes its HTML, a spider does not crash; it continues and finds nothing. This comparison detects that.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

FIELDS = (  # columns of products.parquet
    "title", "price", "currency", "availability", "brand", "gtin", "mpn", "breadcrumb", "details", "image_urls"
)  # fmt: skip
FORBIDDEN = {"robots", "robots_tag"}  # reasons of dropped pages that are not failures

Health = Mapping[str, Mapping[str, Any]]
"""Site -> result of `ShopTally.to_json`."""


@dataclass
class ShopTally:
    """Counts of one shop's pages."""

    asked: str = ""  # digest of the sources; numbers of products are compared only between equal digests
    listing_pages: int = 0
    items: int = 0  # total number of links to products on listing pages
    products: int = 0
    pages: int = 0  # product pages, including failed ones
    read: int = 0  # product pages that were fetched and read, including those without a product
    unreadable: int = 0  # product pages with an unparsable JSON-LD script
    contradicted_labels: int = 0  # products whose breadcrumb contradicts their label
    filled: Counter[str] = field(default_factory=Counter)  # field -> pages that have it
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> pages
    sources: dict[str, Counter[str]] = field(default_factory=dict)  # field -> reader that found it -> products

    def add_page(self, row: Mapping[str, Any] | None, dropped: str | None, *, unreadable: int = 0) -> None:
        """Count a product page.

        Args:
            row: its row of products.parquet; None if it could not be read.
            dropped: reason for which it was discarded, if it was.
            unreadable: number of its unparsable JSON-LD scripts.
        """
        self.pages += 1
        self.unreadable += unreadable > 0
        self.dropped.update([dropped] if dropped else [])
        if row is not None:
            self.read += 1
            self.filled.update(name for name in FIELDS if row[name] not in (None, "", []))

    def add_product(self, row: Mapping[str, Any]) -> None:
        """Count a row of products.parquet."""
        self.products += 1
        for name, source in row["field_sources"]:
            self.sources.setdefault(name, Counter())[source] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts as metrics; a share of nothing is 0."""
        asked = self.pages - sum(self.dropped[reason] for reason in FORBIDDEN)
        return {
            "asked": self.asked,
            "products": self.products,
            "product_pages": self.pages,
            "listing_pages": self.listing_pages,
            "items_per_listing_page": _share(self.items, self.listing_pages),
            "success_rate": _share(self.pages - self.dropped.total(), asked),
            "unreadable_json_ld": self.unreadable,
            "contradicted_labels": self.contradicted_labels,
            "coverage": {name: _share(self.filled[name], self.read) for name in FIELDS},
            "dropped": dict(sorted(self.dropped.items())),
            "field_sources": {name: dict(sorted(found.items())) for name, found in sorted(self.sources.items())},
        }


def coverage_drops(before: Health, now: Health, max_drop: float) -> Iterator[str]:
    """A message for each share, and for the number of products, that fell by more than ``max_drop`` (relative).

    Only shops in both crawls are compared. The number of products is compared if the sources are equal: it is the only
    figure that falls when next pages are no longer found.
    """
    for site in sorted(before.keys() & now.keys()):
        same = before[site].get("asked") == now[site].get("asked")
        had, has = (health[site].get("products", 0) for health in (before, now))
        if same and had - has > max_drop * had:
            yield f"{site}: its products fell from {had} to {has}"
        earlier, later = _shares(before[site]), _shares(now[site])
        for name, share in earlier.items():
            if share - later.get(name, share) > max_drop * share:
                yield f"{site}: {name} fell from {share:.1%} to {later[name]:.1%} of its product pages"


def _shares(shop: Mapping[str, Any]) -> dict[str, float]:
    return {"success rate": shop["success_rate"], **shop["coverage"]}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
