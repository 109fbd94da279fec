"""From categories of shops to products.parquet: starts the process that crawls, and judges what it found.

The crawl's folder keeps the journal: a killed crawl goes on from there, and the next one asks the shop only for what
has changed. products.parquet is a pure function of what the shops say now, however the pages came: one row per
product, sorted, without timestamps. It is replaced only by a crawl that is complete and read each shop about as well
as the last one that was accepted.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_model.core.errors import AtlasError, RetryError
from atlas_model.core.files import locked, write_json
from atlas_model.core.progress import say
from atlas_model.data.schemas import PRODUCTS, write_rows
from crawlers.crawl.aggregate import ProductAggregator, Row, ranked
from crawlers.crawl.health import Health, falls
from crawlers.crawl.job import CrawlJob, CrawlReport
from crawlers.crawl.journal import LISTING, PRODUCT, Journal
from crawlers.crawl.pagination import on_site
from crawlers.crawl.reader_digests import readers
from crawlers.crawl.reasons import explained
from crawlers.http.address_guard import ConnectMap
from crawlers.http.chromium import find_browser
from crawlers.http.host_limits import PROFILES, HostProfile
from crawlers.http.policy import is_asked_again
from crawlers.pages.shops import shop_of
from crawlers.sources.csv_sources import Source

HEALTH = "health.json"  # in the folder: that of the last accepted crawl
SHOWN = 5  # URLs in an error or a log


@dataclass(frozen=True)
class CrawlResult:
    """A crawl's figures."""

    listing_pages: int  # settled now; fewer than there are where a killed crawl was resumed
    product_pages: int  # likewise
    reused_pages: dict[str, int]  # of both: not_modified or same_content since they were read
    products: int
    by_site: dict[str, int]  # products
    dropped: dict[str, int]  # reason -> product pages
    variants: int  # product pages not asked for: others differ in the query of their URL only, and say the same
    two_categories: int  # products
    shared_numbers: int  # numbers of shops that stand for several products, such as style numbers
    category_faults: dict[str, int]  # reason -> category pages
    walk_ends: dict[str, int]  # reason -> ways through categories
    never_met: dict[str, int]  # site -> products in its sitemaps to which no category led; sites that have some
    shops: Health
    retries: int
    seconds: float


def crawl(
    sources: Sequence[Source],
    *,
    output: Path,
    folder: Path,
    user_agent: str,
    connect_map: ConnectMap,
    max_pages_per_category: int,
    max_attempts: int,
    timeout_s: float,
    profiles: Mapping[str, HostProfile] = PROFILES,
    snapshot: str = "crawl",
    robots_tags: Collection[str] = (),
    check_sitemaps: bool = False,
    browser: str | None = None,
    baseline: Health | None = None,
    max_coverage_drop: float = 1.0,
    max_failed_share: float = 0.0,
) -> CrawlResult:
    """Crawl ``sources`` and write the products to ``output``.

    Args:
        sources: category pages (or sitemaps) and their labels.
        output: Parquet of `records.PRODUCTS`, written whole at the end.
        folder: for the memory of these shops, and nothing else; losing it costs time only.
        user_agent: who we are.
        connect_map: host -> (address, port), instead of DNS.
        max_pages_per_category: category pages of one source, at most, where the shop's profile does not say.
        max_attempts: per page, the first one included.
        timeout_s: whole deadline of one attempt.
        profiles: how fast to ask each host; as the shop's profile says, or politely, where there is none.
        snapshot: name of this crawl; one of the same name that did not finish is gone on with.
        robots_tags: directives of X-Robots-Tag that keep us out.
        check_sitemaps: whether to look in the shops' sitemaps for products to which no category led.
        browser: path or name of Chromium, for shops whose profile needs one; None: the one in PATH.
        baseline: the shops' health in an earlier crawl, for when the folder has none.
        max_coverage_drop: how much of itself a share of a shop's health, or the number of its products, may lose
            since the last accepted crawl; 1: all.
        max_failed_share: how much of a shop's product pages may be missing for transient reasons.

    Raises:
        InputError: a shop needs a browser, and there is none.
        RetryError: a category page, or too many product pages of a shop, failed for transient reasons. What came is
            kept.
        AtlasError: no product was found, a shop was read worse than before, another crawl is at work in ``folder``,
            or the process that crawls failed.
    """
    started = time.monotonic()
    sources = ranked(sources)
    job = CrawlJob(
        snapshot=snapshot,
        sources=sources,
        readers=readers(robots_tags),
        connect_map=connect_map,
        profiles=_paces(sources) | dict(profiles),
        user_agent=user_agent,
        max_pages_per_category=max_pages_per_category,
        max_attempts=max_attempts,
        timeout_s=timeout_s,
        robots_tags=sorted(robots_tags),
        check_sitemaps=check_sitemaps,
        browser=find_browser(browser) if any(shop_of(source.site).browser for source in sources) else None,
        folder=str(folder),
    )
    with locked(folder, "crawl") as lock:
        report = _run(job, lock)
        for url, reason in report.category_faults:
            say(f"crawl: category page {url}: {explained(reason)}")
        with Journal(job.journal) as journal:
            _check_complete(report, journal, folder, max_failed_share)
            aggregator = ProductAggregator(journal, sources)
            for site, tally in aggregator.shops.items():
                tally.listing_pages, tally.items = report.listed[site]["pages"], report.listed[site]["items"]
                tally.asked = _asked(site, sources, max_pages_per_category)
            accepted = folder / HEALTH
            before = _health_in(accepted) or baseline or {}
            rows = _accepted(aggregator, journal, before, max_coverage_drop, report=report, log=job.log)
            products = write_rows(output, rows, PRODUCTS)
            never_met = aggregator.never_met()
            journal.finish()
        health = {site: tally.to_json() for site, tally in aggregator.shops.items()}
        write_json(accepted, health)
    if aggregator.dropped["duplicate"] > products:
        say(
            f"crawl: {aggregator.dropped['duplicate']} pages count as duplicates of {products} products; is the number "
            "that is read as the article's one of the shop? `atlas crawl try URL` shows it"
        )
    if aggregator.shared_numbers:
        say(
            f"crawl: {aggregator.shared_numbers} numbers that were read as the article's are shared by several "
            "products, which are named by their URLs instead"
        )
    for site, found in aggregator.contradicted.items():
        say(
            f"crawl: {site}: the breadcrumbs of {found.count} of {health[site]['products']} products name another "
            f"category than the one that led to them, such as {found.urls}; `atlas crawl try` shows what is read on a "
            "category page"
        )
    for site, urls in never_met.items():
        if urls:
            say(f"crawl: {site}: {len(urls)} products of its sitemaps are in no category, such as {urls[:SHOWN]}")
    counts = report.counts
    return CrawlResult(
        listing_pages=counts.get(LISTING, 0),
        product_pages=counts.get(PRODUCT, 0),
        reused_pages={name: counts.get(name, 0) for name in ("not_modified", "same_content")},
        products=products,
        by_site={site: shop["products"] for site, shop in health.items() if shop["products"]},
        dropped={reason: count for reason, count in sorted(aggregator.dropped.items()) if count},
        variants=counts.get("variants", 0),
        two_categories=aggregator.two_categories,
        shared_numbers=aggregator.shared_numbers,
        category_faults=_counted(reason for _, reason in report.category_faults),
        walk_ends=report.walk_ends,
        never_met={site: len(urls) for site, urls in never_met.items()},
        shops=health,
        retries=report.retries,
        seconds=round(time.monotonic() - started, 2),
    )


def _asked(site: str, sources: Sequence[Source], max_pages: int) -> str:
    """A digest of what there is to go through at ``site``."""
    urls = sorted(source.url for source in sources if source.site == site)
    return hashlib.sha256(json.dumps([shop_of(site).max_pages or max_pages, urls]).encode()).hexdigest()[:12]


def _health_in(path: Path) -> Health:
    """Nothing where the file is missing or damaged."""
    try:
        health: Health = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return health


def _paces(sources: Sequence[Source]) -> dict[str, HostProfile]:
    paces = {source.site: shop_of(source.site).pace for source in sources}
    return {site: pace for site, pace in paces.items() if pace is not None}


def _run(job: CrawlJob, lock: int) -> CrawlReport:
    job.report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "crawlers.scrapy_app"]
    # The child holds the lock as well: where it outlives us, nobody else comes in.
    ended = subprocess.run(command, input=job.to_json(), text=True, check=False, pass_fds=[lock])
    if ended.returncode or not job.report.is_file():
        raise AtlasError(f"the process that crawls ended with code {ended.returncode}. Its log: {job.log}")
    report = CrawlReport.load(job.report)
    if report.errors:
        raise AtlasError(f"the spider failed on {report.errors} pages, which is a fault of its code. See {job.log}")
    return report


def _check_complete(report: CrawlReport, journal: Journal, folder: Path, max_failed_share: float) -> None:
    """Refuse what is only a part of what the shops have."""
    again = f"What came is kept in {folder}: the same command goes on from there."
    if not report.finished:
        raise RetryError(f"the crawl was interrupted. {again}")
    unasked = [(url, reason) for url, reason in report.category_faults if is_asked_again(reason)]
    if unasked:
        shown = "".join(f"\n  - {url}: {reason}" for url, reason in unasked[:SHOWN])
        raise RetryError(f"{len(unasked)} category pages could not be read, such as{shown}\n{again}")
    listed = journal.found_by_site()
    failed: dict[str, Counter[str]] = {}
    examples: dict[str, str] = {}
    for url, reason, site in journal.faults(PRODUCT):
        assert site is not None  # a product page is asked for where this run was led to it
        failed.setdefault(site, Counter())[reason] += 1
        examples.setdefault(site, url)
    for site, reasons in failed.items():
        count = f"{reasons.total()} of {listed[site]} product pages failed ({', '.join(sorted(reasons))})"
        count = f"{site}: {count}, such as {examples[site]}"
        if reasons.total() > max_failed_share * listed[site]:
            raise RetryError(f"{count}. {again} To go on without them, raise crawl.max_failed_share.")
        say(f"warning: crawl: {count}; their products are missing from this crawl")


def _accepted(
    aggregator: ProductAggregator, journal: Journal, before: Health, max_drop: float, *, report: CrawlReport, log: Path
) -> Iterator[Row]:
    """The rows; an error at their end, before they take the place of the last ones, if they are none to accept."""
    yield from aggregator.rows()
    now = {site: tally.to_json() for site, tally in aggregator.shops.items()}
    if not any(shop["products"] for shop in now.values()):
        journal.invalidate(lambda url: True)
        raise AtlasError(_nothing_found(aggregator.dropped, report, log))
    worse = {site: sentences for site in now if (sentences := list(falls(before, {site: now[site]}, max_drop)))}
    if worse:
        journal.invalidate(lambda url: any(on_site(url, site) for site in worse))
        detail = "".join(f"\n  - {sentence}" for sentences in worse.values() for sentence in sentences)
        raise AtlasError(
            f"shops were read worse than in the last accepted crawl, by more than crawl.max_coverage_drop:{detail}\n"
            "`atlas crawl try URL` shows what is read of a page. Mend the shop's profile in crawlers/pages and run "
            "again: other shops' pages are not asked for twice, this one's that gave nothing are. If the shop is "
            "like that now, raise crawl.max_coverage_drop for one run."
        )


def _nothing_found(dropped: Mapping[str, int], report: CrawlReport, log: Path) -> str:
    reasons = [f"{count} product pages: {explained(reason)}" for reason, count in dropped.items()]
    reasons += [f"{url}: {explained(reason)}" for url, reason in report.category_faults[:SHOWN]]
    detail = "".join(f"\n  - {reason}" for reason in reasons)
    return f"the crawl found no product, expected at least one. See {log}{detail}"


def _counted(values: Iterable[Any]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
