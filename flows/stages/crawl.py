"""Stage ``crawl``: writes data/raw/products.parquet from shops, a manifest, or a table of local images or URLs."""

import csv
import io
import shutil
from dataclasses import asdict
from typing import Any

from atlas_model.core.checksums import replacing_with_checksum
from atlas_model.core.files import write_text
from atlas_model.core.params import CrawlParams, Params
from atlas_model.core.progress import say
from atlas_model.data.csv_cells import for_cell, from_cell
from atlas_model.data.schemas import PRODUCTS as SCHEMA
from atlas_model.data.schemas import write_table
from crawlers.crawl.health import FIELDS, Health
from crawlers.crawl.run import crawl
from crawlers.files.entries import Columns
from crawlers.files.products import write_products
from crawlers.http.user_agent import user_agent
from crawlers.sources.csv_sources import read_sources
from crawlers.sources.manifest import read_manifest_products
from flows.dvc.ended_stages import ended_unrecorded
from flows.git import content_at
from flows.paths import PLOTS, PRODUCTS, SNAPSHOTS, WORK
from flows.stages.connections import connections
from flows.stages.entry import main, write_metrics

HEALTH = PLOTS / "crawl/health.csv"  # in git: what the next crawl is compared with, also in a new clone
OF_THIS_RUN = ("seconds", "listing_pages", "product_pages", "reused_pages", "variants", "retries")
HEALTH_COLUMNS = ("shop", "asked", "products", "success_rate", *FIELDS)


def run(params: Params) -> None:
    """Write the products and their counts, and a copy of the products as the snapshot, for later comparisons."""
    if params.crawl.source == "manifest":
        products = read_manifest_products(params.crawl.manifest)
        write_table(PRODUCTS, products, SCHEMA)
        _report({"products": products.num_rows, "by_site": {"manifest": products.num_rows}, "dropped": {}})
    elif params.crawl.source in ("files", "urls"):
        given = params.crawl.files
        counts = write_products(
            PRODUCTS,
            table=given.table,
            images=given.images,
            separator=given.separator,
            columns=Columns(**given.columns.names),
            urls=params.crawl.source == "urls",
        )
        for warning in counts.warnings:
            say(f"warning: {given.table}: {warning}")
        _report(counts.to_json())
    else:
        _crawl(params.crawl)
    with replacing_with_checksum(SNAPSHOTS / f"{params.crawl.snapshot}.parquet") as temporary:
        shutil.copyfile(PRODUCTS, temporary)


def _crawl(params: CrawlParams) -> None:
    folder = WORK / "crawl" / params.source
    sources = read_sources(params.sources)
    with connections(params) as connect_map:
        result = crawl(
            sources,
            output=PRODUCTS,
            folder=folder,
            user_agent=user_agent(params.contact),
            connect_map=connect_map,
            max_pages_per_category=params.max_pages_per_category,
            max_attempts=params.max_attempts,
            timeout_s=params.timeout_s,
            snapshot=params.snapshot,
            again=not ended_unrecorded("crawl"),
            robots_tags=params.robots_tags,
            check_sitemaps=params.sitemaps == "check",
            browser=params.browser,
            baseline=_committed_health(),
            max_coverage_drop=params.max_coverage_drop,
            max_failed_share=params.max_failed_share,
        )
    figures = asdict(result)
    # What this run did differs from that of an undisturbed run, if it was interrupted: no output may depend on it.
    run = {name: figures.pop(name) for name in OF_THIS_RUN}
    if reused := sum(run["reused_pages"].values()):
        say(f"crawl: {reused} pages were unchanged since the last crawl")
    if run["variants"]:
        say(f"crawl: {run['variants']} product pages were not requested: they differ from another only in their query")
    totals = {name: sum(shop[name] for shop in result.shops.values()) for name in ("listing_pages", "product_pages")}
    _report(totals | figures, result.shops, run)
    if params.source == "demo":  # pages of the demo shop may come from another version of its code
        shutil.rmtree(folder)


def _report(figures: dict[str, Any], shops: Health | None = None, timings: dict[str, Any] | None = None) -> None:
    """Write the metrics, and the table of the health of each shop, which is empty if no shop was crawled."""
    write_metrics(
        "crawl", {"products": figures["products"], "dropped": sum(figures["dropped"].values())}, figures, timings
    )
    text = io.StringIO()
    table = csv.DictWriter(text, HEALTH_COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(
        {"shop": for_cell(shop), **health, **health["coverage"]} for shop, health in sorted((shops or {}).items())
    )
    write_text(HEALTH, text.getvalue())


def _committed_health() -> Health | None:
    """The health of the shops in git's HEAD; DVC removes the file in the workspace before it runs the stage."""
    committed = content_at("HEAD", HEALTH)
    if committed is None:
        return None
    try:
        return {from_cell(row.pop("shop")): _health(row) for row in csv.DictReader(io.StringIO(committed.decode()))}
    except (ValueError, TypeError, KeyError):
        return None  # it is damaged


def _health(row: dict[str, str]) -> dict[str, Any]:
    asked, products, success_rate = row.pop("asked"), int(row.pop("products")), float(row.pop("success_rate"))
    coverage = {name: float(share) for name, share in row.items()}
    return {"asked": asked, "products": products, "success_rate": success_rate, "coverage": coverage}


if __name__ == "__main__":
    main(run)
