"""Stage ``crawl``: from categories of shops, a manifest or a table of local images to data/raw/products.parquet."""

import json
import shutil
import subprocess
from dataclasses import asdict

from atlas_model.files import replacing
from atlas_model.params import CrawlParams, Params
from atlas_model.progress import say
from atlas_model.records import PRODUCTS as SCHEMA
from atlas_model.records import write_table
from crawlers.crawl import crawl
from crawlers.files.entries import Columns
from crawlers.files.products import write_products
from crawlers.health import Health
from crawlers.identity import user_agent
from crawlers.manifest import read_manifest_products
from crawlers.sources import read_sources
from flows.stages.connections import connections
from flows.stages.entry import main, write_metrics
from flows.stages.paths import METRICS, PRODUCTS, SNAPSHOTS, WORK


def run(params: Params) -> None:
    """Write the products and their counts; keep a copy under the snapshot's name, for reports of what changed."""
    if params.crawl.source == "manifest":
        products = read_manifest_products(params.crawl.manifest)
        write_table(PRODUCTS, products, SCHEMA)
        write_metrics("crawl", {"products": products.num_rows, "by_site": {"manifest": products.num_rows}})
    elif params.crawl.source == "files":
        given = params.crawl.files
        counts = write_products(
            PRODUCTS,
            table=given.table,
            images=given.images,
            separator=given.separator,
            columns=Columns(**given.columns.model_dump()),
        )
        for warning in counts.warnings:
            say(f"warning: {given.table}: {warning}")
        write_metrics("crawl", counts.to_json())
    else:
        _crawl(params.crawl)
    with replacing(SNAPSHOTS / f"{params.crawl.snapshot}.parquet") as temporary:
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
            robots_tags=params.robots_tags,
            check_sitemaps=params.sitemaps == "check",
            browser=params.browser,
            baseline=_committed_health(),
            max_coverage_drop=params.max_coverage_drop,
        )
    write_metrics("crawl", asdict(result))
    if params.source == "demo":  # the shop is this code: what another version of it showed is no memory of this one
        shutil.rmtree(folder)


def _committed_health() -> Health | None:
    """The shops' health as of git's HEAD: DVC removes a stage's metrics before it runs it."""
    command = ["git", "show", f"HEAD:./{METRICS}/crawl.json"]
    try:
        shown = subprocess.run(command, capture_output=True, check=True).stdout
        health: Health | None = json.loads(shown).get("shops")
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None  # no git, no such file yet
    return health


if __name__ == "__main__":
    main(run)
