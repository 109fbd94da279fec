"""How well a crawl read each shop, and whether that is worse than last time. Knows neither pages nor where it is kept.

The original project's spiders did not crash when a shop changed its pages: they went on and found nothing. So every
crawl is measured against the last one that was accepted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

FIELDS = (  # of `records.PRODUCTS`
    "title", "price", "currency", "availability", "brand", "gtin", "mpn", "breadcrumb", "details", "image_urls"
)  # fmt: skip
FORBIDDEN = {"robots", "robots_tag"}  # reasons of dropped pages that are no failure

Health = Mapping[str, Mapping[str, Any]]
"""Site -> what `ShopTally.to_json` says of it."""


@dataclass
class ShopTally:
    """Counts of one shop's pages."""

    asked: str = ""  # a digest of what this crawl had to go through; numbers of products compare where it is the same
    listing_pages: int = 0
    items: int = 0  # on them, in all
    products: int = 0
    pages: int = 0  # product pages, whatever came of them
    read: int = 0  # those that came and could be read, products or not
    unreadable: int = 0  # those with a script of JSON-LD that could not be read
    contradicted_labels: int = 0  # products whose breadcrumb names another category than their label
    filled: Counter[str] = field(default_factory=Counter)  # field -> pages that have it
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> pages
    sources: dict[str, Counter[str]] = field(default_factory=dict)  # field -> where it was read -> products

    def add_page(self, row: Mapping[str, Any] | None, dropped: str | None, *, unreadable: int = 0) -> None:
        """A product page: what it says, if it could be read, as a row of `records.PRODUCTS`.

        Args:
            row: see above.
            dropped: why it counts for nothing, if it does.
            unreadable: its scripts of JSON-LD that could not be read.
        """
        self.pages += 1
        self.unreadable += unreadable > 0
        self.dropped.update([dropped] if dropped else [])
        if row is not None:
            self.read += 1
            self.filled.update(name for name in FIELDS if row[name] not in (None, "", []))

    def add_product(self, row: Mapping[str, Any]) -> None:
        """A row of products.parquet."""
        self.products += 1
        for name, source in row["field_sources"]:
            self.sources.setdefault(name, Counter())[source] += 1

    def to_json(self) -> dict[str, Any]:
        """As metrics; shares are 0 where there is nothing that they could be of."""
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


def falls(before: Health, now: Health, max_drop: float) -> Iterator[str]:
    """A sentence for each share of a shop, and for its products, if more than ``max_drop`` of it is lost.

    Of shops in both only. Fewer products count where the same was asked, because a shop whose next pages are no
    longer found reads well.
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
