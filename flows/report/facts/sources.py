"""What each shop gave and lost, from its product pages to the splits."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atlas_model.split.names import SPLITS

MOST_SHOPS = 30  # with a column of their own; the others are added up
OTHERS = "other shops"


@dataclass(frozen=True)
class Shop:
    """What a shop, or all of them together, gave and lost. Counts of images count each image of each product."""

    site: str  # host; "files" and "manifest" for those sources
    pages: int | None  # product pages found; None: the source has none
    dropped_pages: Mapping[str, int]  # reason -> product pages
    products: int
    without_images: int  # of these products
    listed: int  # image URLs of the products
    discarded: Mapping[str, int]  # reason -> images, those that were not fetched too
    splits: Mapping[str, int]  # split -> images
    coverage: Mapping[str, float] = field(default_factory=dict)  # field of a product -> share of products with it

    @property
    def kept(self) -> int:
        """Images in the splits."""
        return sum(self.splits.values())


@dataclass(frozen=True)
class Sources:
    """All shops."""

    kind: str  # demo, shops, manifest, files
    snapshot: str
    listings: int | None  # category pages read; None: the source has none
    total: Shop
    shops: tuple[Shop, ...]  # those with the most products first
    notes: tuple[str, ...]  # what else the crawl counted
    requests: Mapping[str, int]  # status -> image URLs


def collect_sources(
    *,
    kind: str,
    snapshot: str,
    crawled: Mapping[str, Any],
    fetched: Mapping[str, Any],
    reviews: Mapping[str, Any] | None,
    products: Sequence[tuple[str, str]],
    listed: Iterable[str],
    discarded: Iterable[tuple[str, str]],
    splits: Iterable[tuple[str, str]],
) -> Sources:
    """Count per shop.

    Args:
        kind: crawl.source.
        snapshot: crawl.snapshot.
        crawled: reports/crawl/metrics.json.
        fetched: reports/fetch/metrics.json.
        reviews: the key of that name in reports/split/metrics.json; None: there were no decisions of reviewers.
        products: id and site.
        listed: the product id of each image URL.
        discarded: product id and reason of each discarded image.
        splits: product id and split of each image in the splits.
    """
    site_of = dict(products)
    of_site = Counter(site_of.values())
    images: Counter[str] = Counter()
    with_images: defaultdict[str, set[str]] = defaultdict(set)
    for product in listed:
        images[site_of[product]] += 1
        with_images[site_of[product]].add(product)
    lost: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for product, reason in discarded:
        lost[site_of[product]][reason] += 1
    kept: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for product, split in splits:
        kept[site_of[product]][split] += 1
    health = crawled.get("shops") or {}

    def shop(site: str) -> Shop:
        of_pages = health.get(site) or {}
        return Shop(
            site,
            of_pages.get("product_pages"),
            dict(of_pages.get("dropped") or {}),
            of_site[site],
            of_site[site] - len(with_images[site]),
            images[site],
            _ordered(lost[site]),
            {split: kept[site][split] for split in SPLITS},
            dict(of_pages.get("coverage") or {}),
        )

    shops = [shop(site) for site in sorted(set(of_site) | set(health), key=lambda site: (-of_site[site], site))]
    if len(shops) > MOST_SHOPS:
        shops = [*shops[: MOST_SHOPS - 1], added_up(f"{len(shops) - MOST_SHOPS + 1} {OTHERS}", shops[MOST_SHOPS - 1 :])]
    total = added_up("all", shops)
    pages, dropped = crawled.get("product_pages"), crawled.get("dropped") or {}
    total = Shop(**{**vars(total), "pages": pages, "dropped_pages": _ordered(Counter(dropped))})
    return Sources(
        kind,
        snapshot,
        crawled.get("listing_pages"),
        total,
        tuple(shops),
        (*_notes(crawled), *_review_notes(reviews)),
        _ordered(Counter(fetched.get("statuses") or {})),
    )


def added_up(site: str, shops: Sequence[Shop]) -> Shop:
    """The sum of ``shops``."""

    def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for each in counts:
            found.update(each)
        return _ordered(found)

    pages = [each.pages for each in shops if each.pages is not None]
    splits = total(each.splits for each in shops)
    return Shop(
        site,
        sum(pages) if pages else None,
        total(each.dropped_pages for each in shops),
        sum(each.products for each in shops),
        sum(each.without_images for each in shops),
        sum(each.listed for each in shops),
        total(each.discarded for each in shops),
        {split: splits.get(split, 0) for split in SPLITS},
    )


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """The largest counts first."""
    return dict(sorted(((key, n) for key, n in counts.items() if n), key=lambda item: (-item[1], item[0])))


def _notes(crawled: Mapping[str, Any]) -> Iterable[str]:
    """Other counts of the crawl, as sentences."""
    for key, text in (
        ("two_categories", "products are listed in several categories."),
        ("shared_numbers", "product numbers belong to several products, as style numbers do."),
        ("without_title", "products have no title."),
        ("images_with_two_categories", "images belong to products of two categories; the split uses none of them."),
    ):
        if crawled.get(key):
            yield f"{crawled[key]:,} {text}"
    for key, text in (
        ("category_faults", "category pages could not be read"),
        ("sitemap_faults", "sitemaps could not be fetched"),
        ("never_met", "products are in the sitemaps, but no category lists them"),
        ("discarded_fields", "fields of the table have a wrong type and were not used"),
        ("left_out_files", "files in the image folders are no images by their names"),
    ):
        counts = {name: count for name, count in (crawled.get(key) or {}).items() if count}
        if counts:
            listed = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
            yield f"{sum(counts.values()):,} {text}: {listed}."


def _review_notes(reviews: Mapping[str, Any] | None) -> Iterable[str]:
    """The decisions of reviewers, as sentences."""
    for key, name in (("categories", "categories"), ("zoom", "close-ups")):
        counts = (reviews or {}).get(key) or {}
        if counts:
            listed = ", ".join(f"{effect.replace('_', ' ')} {count:,}" for effect, count in counts.items())
            yield f"{sum(counts.values()):,} decisions of reviewers on {name}: {listed}."
