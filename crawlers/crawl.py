"""From categories of shops to products.parquet: starts the process that crawls, and settles what it found.

The settling is a pure function of what the shops said: one row per product, sorted, without timestamps.

- A product met under several URLs is one product; the others count as ``duplicate``.
- A product met in categories with different labels gets the most specific one (the longest path), among equals the
  first in sorted order, and is counted as ``two_categories``.
- Everything else that is not in the table is counted with its reason.

While it runs, a crawl's folder holds what it has learnt; a killed crawl goes on from there. The folder belongs to
its sources and to the code that reads pages: with others it starts afresh, and a crawl that ended well leaves none.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from atlas_model.errors import AtlasError, RetryError
from atlas_model.files import write_text
from atlas_model.progress import say
from atlas_model.records import PRODUCTS, write_table
from crawlers.connect import ConnectMap
from crawlers.items import Product
from crawlers.job import TRANSIENT, CrawlJob, CrawlReport, Label
from crawlers.profiles import PROFILES, HostProfile
from crawlers.sources import Source
from crawlers.spool import Record, read_spool

CODE = Path(__file__).resolve().parent
READERS = (CODE / "items.py", *sorted((CODE / "pages").glob("*.py")))  # what a spooled record depends on
MAX_FAILED_SHARE = 0.1  # of a site's products; above it the catalogue is too incomplete to be one
SHOWN = 5  # URLs in an error


@dataclass(frozen=True)
class CrawlResult:
    """A crawl's figures."""

    listing_pages: int
    product_pages: int  # settled now; fewer than products where a killed crawl was resumed
    products: int
    by_site: dict[str, int]  # products
    dropped: dict[str, int]  # reason -> product pages
    two_categories: int  # products
    category_faults: dict[str, int]  # reason -> category pages
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
) -> CrawlResult:
    """Crawl ``sources`` and write the products to ``output``.

    Args:
        sources: category pages and their labels.
        output: Parquet of `records.PRODUCTS`, written whole at the end.
        folder: for work in progress; removed at the end.
        user_agent: who we are.
        connect_map: host -> (address, port), instead of DNS.
        max_pages_per_category: category pages of one source, at most.
        max_attempts: per page, the first one included.
        timeout_s: whole deadline of one attempt.
        profiles: how fast to ask each host; politely where there is none.

    Raises:
        RetryError: a category page, or many products of a shop, could not be asked for. What came is kept.
        AtlasError: no product was found, or the process that crawls failed.
    """
    started = time.monotonic()
    job = CrawlJob(
        sources=list(sources),
        connect_map=connect_map,
        profiles=dict(profiles),
        user_agent=user_agent,
        max_pages_per_category=max_pages_per_category,
        max_attempts=max_attempts,
        timeout_s=timeout_s,
        folder=str(folder),
    )
    _prepare(folder, sources)
    report = _run(job)
    for url, reason in report.category_faults:
        say(f"crawl: category page {url}: {reason}")
    _check_complete(report, folder)
    rows, dropped, two_categories = settle({record["url"]: record for record in read_spool(job.spool)}, report)
    if not rows:
        raise AtlasError(_nothing_found(dropped, report, job.log))
    write_table(output, pa.Table.from_pylist(rows, schema=PRODUCTS), PRODUCTS)
    shutil.rmtree(folder)
    return CrawlResult(
        listing_pages=report.listing_pages,
        product_pages=report.product_pages,
        products=len(rows),
        by_site=_counted(row["site"] for row in rows),
        dropped=dropped,
        two_categories=two_categories,
        category_faults=_counted(reason for _, reason in report.category_faults),
        retries=report.retries,
        seconds=round(time.monotonic() - started, 2),
    )


def settle(spooled: Mapping[str, Record], report: CrawlReport) -> tuple[list[dict[str, Any]], dict[str, int], int]:
    """Decide which product gets which label.

    Args:
        spooled: URL -> what its page said; URLs that no category links to (any more) are left out.
        report: which categories link to it.

    Returns:
        The rows, sorted by product_id; product pages without a row by reason; products met in several categories.
    """
    dropped: Counter[str] = Counter({"offsite": report.offsite} if report.offsite else {})
    pages: dict[str, list[tuple[str, Product, list[Label]]]] = {}  # product_id -> its pages
    for url, labels in sorted(report.links.items()):
        record = spooled.get(url, {"dropped": report.failed.get(url, "not_asked")})
        if "dropped" in record:
            dropped[record["dropped"]] += 1
            continue
        product = Product.from_json(record["product"])
        site, _ = _best(labels)
        pages.setdefault(product.row(site, ())["product_id"], []).append((url, product, labels))
    rows, two_categories = [], 0
    for _, same in sorted(pages.items()):
        labels = [label for _, _, of_page in same for label in of_page]
        two_categories += len({taxonomy for _, taxonomy in labels}) > 1
        dropped["duplicate"] += len(same) - 1
        rows.append(same[0][1].row(*_best(labels)))
    return rows, {reason: count for reason, count in sorted(dropped.items()) if count}, two_categories


def _best(labels: Sequence[Label]) -> Label:
    return min(labels, key=lambda label: (-len(label[1]), label))


def _prepare(folder: Path, sources: Sequence[Source]) -> None:
    """Start afresh unless ``folder`` belongs to a crawl of the same sources by the same code."""
    digest = hashlib.sha256(json.dumps([[one.site, one.taxonomy, one.url] for one in sources]).encode())
    for path in READERS:
        digest.update(path.read_bytes())
    mark = folder / "key.txt"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != digest.hexdigest():
        shutil.rmtree(folder, ignore_errors=True)
        write_text(mark, digest.hexdigest())


def _run(job: CrawlJob) -> CrawlReport:
    job.report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "crawlers.spiders"]
    ended = subprocess.run(command, input=job.to_json(), text=True, check=False)
    if ended.returncode or not job.report.is_file():
        raise AtlasError(f"the process that crawls ended with code {ended.returncode}. Its log: {job.log}")
    report = CrawlReport.load(job.report)
    if report.errors:
        raise AtlasError(f"the spider failed on {report.errors} pages, which is a fault of its code. See {job.log}")
    return report


def _check_complete(report: CrawlReport, folder: Path) -> None:
    """Refuse what is only a part of what the shops have."""
    again = f"What came is kept in {folder}: the same command goes on from there."
    if not report.finished:
        raise RetryError(f"the crawl was interrupted. {again}")
    unasked = [(url, reason) for url, reason in report.category_faults if reason in TRANSIENT]
    if unasked:
        shown = "".join(f"\n  - {url}: {reason}" for url, reason in unasked[:SHOWN])
        raise RetryError(f"{len(unasked)} category pages could not be read, such as{shown}\n{again}")
    listed = _counted(urlsplit(url).hostname for url in report.links)
    failed = Counter(urlsplit(url).hostname for url in report.failed)
    for site, count in failed.items():
        if count > MAX_FAILED_SHARE * listed[site]:
            reasons = ", ".join(sorted({report.failed[url] for url in report.failed if urlsplit(url).hostname == site}))
            raise RetryError(f"{site}: {count} of {listed[site]} product pages failed ({reasons}). {again}")


def _nothing_found(dropped: Mapping[str, int], report: CrawlReport, log: Path) -> str:
    reasons = [f"{count} product pages: {reason}" for reason, count in dropped.items()]
    reasons += [f"{url}: {reason}" for url, reason in report.category_faults[:SHOWN]]
    detail = "".join(f"\n  - {reason}" for reason in reasons)
    return f"the crawl found no product, expected at least one. See {log}{detail}"


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
