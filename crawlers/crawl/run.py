"""Runs a crawl in a child process, checks its result, and writes products.parquet.

The crawl's folder contains the journal. An interrupted crawl resumes from it, and the next crawl requests only pages
that may have changed. products.parquet depends only on the shops' current pages: one row per product, sorted, without
timestamps. It is replaced only if the crawl is complete and read each shop about as well as the last accepted crawl.
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

from atlas_model.core.checksums import read_json_with_checksum, write_json_with_checksum
from atlas_model.core.errors import AtlasError, RetryError
from atlas_model.core.files import locked
from atlas_model.core.machine import check_machine
from atlas_model.core.progress import say
from atlas_model.data.schemas import PRODUCTS, write_rows
from crawlers.crawl.aggregate import ProductAggregator, Row, ranked
from crawlers.crawl.health import Health, coverage_drops
from crawlers.crawl.job import CrawlJob, CrawlReport
from crawlers.crawl.journal import LISTING, PRODUCT, Journal
from crawlers.crawl.pagination import on_site
from crawlers.crawl.reader_digests import reader_digests
from crawlers.crawl.reasons import explained
from crawlers.http.address_guard import ConnectMap
from crawlers.http.chromium import find_browser
from crawlers.http.host_limits import PROFILES, HostProfile
from crawlers.http.policy import is_retried_next_run
from crawlers.pages.shops import shop_of
from crawlers.sources.csv_sources import Source

HEALTH = "health.json"  # in the crawl's folder: health of the last accepted crawl
SHOWN = 5  # URLs in an error or log message


@dataclass(frozen=True)
class CrawlResult:
    """Figures of an accepted crawl."""

    listing_pages: int  # read in this run, without those of an interrupted run that it resumed
    product_pages: int  # likewise
    reused_pages: dict[str, int]  # pages of both kinds that were not_modified, or had the same_content as before
    products: int
    by_site: dict[str, int]  # products
    dropped: dict[str, int]  # reason -> product pages
    variants: int  # product pages not requested: pages whose URLs differ only in the query had the same content
    two_categories: int  # products
    shared_numbers: int  # product numbers that several products share, such as style numbers
    category_faults: dict[str, int]  # reason -> category pages
    sitemap_faults: dict[str, int]  # reason -> sitemaps that could not be fetched
    walk_ends: dict[str, int]  # reason -> sources whose pages ended for it
    never_met: dict[str, int]  # site -> products in its sitemaps that no category lists; sites with a sitemap only
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
    again: bool = True,
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
        output: path of products.parquet, written atomically at the end.
        folder: folder for the journal and the log only; deleting it costs time but no data.
        user_agent: value of the User-Agent header.
        connect_map: host -> (address, port), instead of DNS.
        max_pages_per_category: limit of category pages per source, unless the shop's profile has its own.
        max_attempts: attempts per page, including the first.
        timeout_s: timeout (s) of one attempt.
        profiles: host -> request rate; otherwise the shop's profile or the default rate is used.
        snapshot: name of this crawl; an unfinished crawl of the same name is resumed.
        again: whether a finished crawl of the same name is begun again. False: it is resumed, which requests only pages
            that it does not have, because its result was lost.
        robots_tags: directives of X-Robots-Tag that forbid a page.
        check_sitemaps: whether to search the shops' sitemaps for products that no category lists.
        browser: path or name of Chromium, for shops whose profile requires one; None: the one in PATH.
        baseline: the shops' health in an earlier crawl, used if the folder has none.
        max_coverage_drop: largest accepted relative drop of a shop's shares and of its number of products since the
            last accepted crawl; 1: no check.
        max_failed_share: largest accepted share of a shop's product pages that are missing for transient reasons.

    Raises:
        InputError: a shop requires a browser, and none is installed.
        RetryError: a category page, or too many product pages of a shop, failed for transient reasons. The pages read
            are kept.
        AtlasError: no product was found, a shop was read worse than before, another crawl runs in ``folder``, or the
            crawling process failed.
    """
    started = time.monotonic()
    sources = ranked(sources)
    job = CrawlJob(
        snapshot=snapshot,
        again=again,
        sources=sources,
        readers=reader_digests(robots_tags),
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
        for url, reason in report.sitemap_faults:
            say(f"warning: crawl: sitemap {url}: {explained(reason)}; never_met lacks the products that it names")
        with Journal(job.journal) as journal:
            if journal.was_damaged:  # since the child closed it
                raise RetryError(f"{job.journal}: pages are damaged on disk. The same command requests them again")
            _check_complete(report, journal, folder, max_failed_share)
            aggregator = ProductAggregator(journal, sources)
            for site, tally in aggregator.shops.items():
                tally.listing_pages, tally.items = report.listed[site]["pages"], report.listed[site]["items"]
                tally.asked = _asked(site, sources, max_pages_per_category)
            accepted = folder / HEALTH
            before = _health_in(accepted) or baseline or {}
            rows = _accepted(aggregator, journal, before, max_coverage_drop, report=report, log=job.log)
            products = write_rows(output, rows, PRODUCTS)
            never_met = aggregator.unlisted_products()
            journal.finish()
        health = {site: tally.to_json() for site, tally in aggregator.shops.items()}
        write_json_with_checksum(accepted, health)
    if aggregator.dropped["duplicate"] > products:
        say(
            f"crawl: {aggregator.dropped['duplicate']} pages count as duplicates of {products} products. Check with "
            "`atlas crawl try URL` that the SKU which is read identifies a product"
        )
    if aggregator.shared_numbers:
        say(
            f"crawl: {aggregator.shared_numbers} SKUs are shared by several products, which are identified by their "
            "URLs instead"
        )
    for site, found in aggregator.contradicted.items():
        say(
            f"crawl: {site}: the breadcrumbs of {found.count} of {health[site]['products']} products name another "
            f"category than the one that lists them, such as {found.urls}; `atlas crawl try` shows what is read from "
            "a category page"
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
        sitemap_faults=_counted(reason for _, reason in report.sitemap_faults),
        walk_ends=report.walk_ends,
        never_met={site: len(urls) for site, urls in never_met.items()},
        shops=health,
        retries=report.retries,
        seconds=round(time.monotonic() - started, 2),
    )


def _asked(site: str, sources: Sequence[Source], max_pages: int) -> str:
    """A digest of the sources and page limit of ``site``."""
    urls = sorted(source.url for source in sources if source.site == site)
    return hashlib.sha256(json.dumps([shop_of(site).max_pages or max_pages, urls]).encode()).hexdigest()[:12]


def _health_in(path: Path) -> Health:
    """The health stored at ``path``; empty if the file is missing or damaged."""
    try:
        health: Health = read_json_with_checksum(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        check_machine(error)
        say(f"warning: crawl: {path}: damaged: {error}. The shops are compared with git's last commit instead")
        return {}
    return health


def _paces(sources: Sequence[Source]) -> dict[str, HostProfile]:
    paces = {source.site: shop_of(source.site).pace for source in sources}
    return {site: pace for site, pace in paces.items() if pace is not None}


def _run(job: CrawlJob, lock: int) -> CrawlReport:
    job.report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "crawlers.scrapy_app"]
    # The child inherits the lock, so that the folder stays locked if the child outlives this process.
    ended = subprocess.run(
        command, input=job.to_json(), stdout=subprocess.PIPE, text=True, check=False, pass_fds=[lock]
    )
    if ended.stdout.strip() and ended.returncode:
        raise AtlasError(f"{ended.stdout.strip()}. The log of the crawl: {job.log}")
    if ended.returncode or not job.report.is_file():
        raise AtlasError(f"the crawling process ended with exit code {ended.returncode}. Its log: {job.log}")
    report = CrawlReport.load(job.report)
    if report.errors:
        raise AtlasError(f"the spider raised an exception on {report.errors} pages, a bug in its code. See {job.log}")
    return report


def _check_complete(report: CrawlReport, journal: Journal, folder: Path, max_failed_share: float) -> None:
    """Raise if the crawl was interrupted or too many pages failed."""
    again = f"The pages read are kept in {folder}; the same command resumes from there."
    if not report.finished:
        raise RetryError(f"the crawl was interrupted. {again}")
    unasked = [(url, reason) for url, reason in report.category_faults if is_retried_next_run(reason)]
    if unasked:
        shown = "".join(f"\n  - {url}: {reason}" for url, reason in unasked[:SHOWN])
        raise RetryError(f"{len(unasked)} category pages could not be read, such as{shown}\n{again}")
    listed = journal.found_by_site()
    failed: dict[str, Counter[str]] = {}
    examples: dict[str, str] = {}
    for url, reason, site in journal.faults(PRODUCT):
        assert site is not None  # every requested product page is in the table found
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
    """Yield the rows; raise after the last one, before products.parquet is replaced, if the crawl is rejected."""
    yield from aggregator.rows()
    now = {site: tally.to_json() for site, tally in aggregator.shops.items()}
    if not any(shop["products"] for shop in now.values()):
        journal.invalidate(lambda url: True)
        raise AtlasError(_nothing_found(aggregator.dropped, report, log))
    worse = {
        site: sentences for site in now if (sentences := list(coverage_drops(before, {site: now[site]}, max_drop)))
    }
    if worse:
        journal.invalidate(lambda url: any(on_site(url, site) for site in worse))
        detail = "".join(f"\n  - {sentence}" for sentences in worse.values() for sentence in sentences)
        raise AtlasError(
            f"shops were read worse than in the last accepted crawl, by more than crawl.max_coverage_drop:{detail}\n"
            "`atlas crawl try URL` shows what is read from a page. Correct the shop's profile in crawlers/pages and "
            "run again: only discarded pages of this shop are requested again. If the shop itself has changed, raise "
            "crawl.max_coverage_drop for one run."
        )


def _nothing_found(dropped: Mapping[str, int], report: CrawlReport, log: Path) -> str:
    reasons = [f"{count} product pages: {explained(reason)}" for reason, count in dropped.items()]
    reasons += [f"{url}: {explained(reason)}" for url, reason in report.category_faults[:SHOWN]]
    detail = "".join(f"\n  - {reason}" for reason in reasons)
    return f"the crawl found no product, expected at least one. See {log}{detail}"


def _counted(values: Iterable[Any]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
