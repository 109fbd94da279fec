"""Converts the journal to rows of products.parquet, and counts everything that is discarded.

It processes one product at a time, so memory is bounded for a million products.

- Pages with several URLs may be one product (`crawlers.crawl.product_grouping`); the others count as ``duplicate``.
- If several products share a product number (a style number), each gets its URL as product_id, and the number is
  counted in ``shared_numbers``.
- A product in categories with different labels gets the longest category path, or of equally long ones the first in
  sorted order, and is counted in ``two_categories``.
- A product whose breadcrumb contradicts its label (`crawlers.crawl.contradictions`) is kept and counted per shop.
- Every other page that is not in the table is counted with its reason.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from crawlers.crawl.contradictions import ContradictedProducts, Contradictions
from crawlers.crawl.health import ShopTally
from crawlers.crawl.journal import FoundPage, Journal
from crawlers.crawl.pagination import on_site
from crawlers.crawl.product_grouping import Identity
from crawlers.pages.fields.product_urls import product_key, stable_url, without_session
from crawlers.pages.items import Product
from crawlers.pages.shops import shop_of
from crawlers.sources.csv_sources import Source
from crawlers.sources.sitemaps import url_pattern

Row = dict[str, Any]


def ranked(sources: Sequence[Source]) -> list[Source]:
    """Sort the sources by decreasing precedence of their labels; the index of a source is its rank."""
    return sorted(sources, key=lambda source: (-len(source.taxonomy), source.site, source.taxonomy, source.url))


class ProductAggregator:
    """Rows and counts of one crawl; the counts are complete once `rows` is exhausted.

    Args:
        journal: journal of a finished crawl.
        sources: sources of that crawl, as sorted by `ranked`.
    """

    def __init__(self, journal: Journal, sources: Sequence[Source]) -> None:
        self._journal, self._sources = journal, sources
        self._shapes: dict[str, set[tuple[str, str]]] = {}  # site -> URL patterns of its products
        self.shops = {site: ShopTally() for site in sorted({source.site for source in sources})}
        self.dropped: Counter[str] = Counter()  # reason -> product pages
        self.two_categories = 0
        self.contradicted: dict[
            str, ContradictedProducts
        ] = {}  # site -> its products whose breadcrumbs contradict their labels
        self.shared_numbers = 0  # product numbers that several products share

    def rows(self) -> Iterator[Row]:
        """The rows of products.parquet, sorted by product_id."""
        self.dropped.update(reason for _, reason, _ in self._journal.faults("link"))
        contradictions = Contradictions(self._sources)
        for product_id, group in groupby(self._journal.products(self._identify), key=lambda found: found.product_id):
            pages = [(found, self._read(found)) for found in group]
            if product_id is None:
                self.dropped.update(found.dropped or "unreadable" for found, _ in pages)
                continue
            ranks = {rank for found, _ in pages for rank in found.ranks}
            best = self._sources[min(ranks)]
            self.two_categories += len({self._sources[rank].taxonomy for rank in ranks}) > 1
            self.dropped["duplicate"] += len(pages) - 1
            first = pages[0][1]
            assert first is not None  # only what was read has a product_id
            row = first.row(best.site, best.taxonomy) | {"product_id": product_id}
            self.shops[best.site].add_product(row)
            contradictions.add(min(ranks), row["breadcrumb"], row["page_url"])
            yield row
        self.contradicted = contradictions.by_site()
        for site, found in self.contradicted.items():
            self.shops[site].contradicted_labels = found.count
        self.shared_numbers = self._journal.shared_numbers()

    def unlisted_products(self) -> dict[str, list[str]]:
        """Site -> products in its sitemaps that no category lists; only sites with a sitemap."""
        missing: dict[str, set[str]] = {}
        for said in self._journal.sitemaps():
            for url in json.loads(said)["items"]:
                site = next((site for site in self.shops if on_site(url, site)), None)
                if site is not None:
                    known = missing.setdefault(site, set())
                    if self._is_product(url, site) and not self._journal.is_known_url(url):
                        known.add(url)
        return {site: sorted(urls) for site, urls in sorted(missing.items())}

    def _is_product(self, url: str, site: str) -> bool:
        """Whether ``url`` looks like a product's, by the shop's profile or by the URLs of its known products."""
        pattern = shop_of(site).product_url
        return bool(pattern.search(url)) if pattern else url_pattern(url) in self._shapes.get(site, ())

    def _identify(self, said: str, rank: int) -> Identity:
        product = Product.from_json(json.loads(said))
        row = product.row(self._sources[rank].site, ())
        url, title = product.page_url, product.name or ""
        images = [without_session(image) for image in product.images]
        same = [product_key(url, title), title, images, str(product.price), product.sku, product.gtin, product.mpn]
        return Identity(
            number=str(row["product_id"]) if product.sku else None,
            page_url=url,
            stable_name=stable_url(url),
            looks=f"{title}\n{images[0]}",
            same=json.dumps([*same, product.additional_properties]),
        )

    def _read(self, found: FoundPage) -> Product | None:
        """The product on the page, if there is one; updates the shop's counts."""
        product = Product.from_json(json.loads(found.item)) if found.item else None
        self.shops[found.site].add_page(
            None if product is None else product.row(found.site, ()),
            found.dropped,
            unreadable=product.unreadable if product else 0,
        )
        if product is not None and not found.dropped:
            self._journal.add_known_url(product.page_url)
            self._shapes.setdefault(found.site, set()).update(map(url_pattern, (found.url, product.page_url)))
        return product
