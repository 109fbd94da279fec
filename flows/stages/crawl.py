"""Stage ``crawl``: from categories of shops (or a manifest) to data/raw/products.parquet."""

from dataclasses import asdict

from atlas_model.params import CrawlParams, Params
from atlas_model.records import PRODUCTS as SCHEMA
from atlas_model.records import write_table
from crawlers.crawl import crawl
from crawlers.identity import user_agent
from crawlers.manifest import read_manifest_products
from crawlers.sources import read_sources
from flows.stages.connections import connections
from flows.stages.entry import main, write_metrics
from flows.stages.paths import PRODUCTS, WORK


def run(params: Params) -> None:
    """Write the products and their counts."""
    if params.crawl.source == "manifest":
        products = read_manifest_products(params.crawl.manifest)
        write_table(PRODUCTS, products, SCHEMA)
        write_metrics("crawl", {"products": products.num_rows, "by_site": {"manifest": products.num_rows}})
    else:
        _crawl(params.crawl)


def _crawl(params: CrawlParams) -> None:
    sources = read_sources(params.sources)
    with connections(params) as connect_map:
        result = crawl(
            sources,
            output=PRODUCTS,
            folder=WORK / "crawl" / params.snapshot,
            user_agent=user_agent(params.contact),
            connect_map=connect_map,
            max_pages_per_category=params.max_pages_per_category,
            max_attempts=params.max_attempts,
            timeout_s=params.timeout_s,
        )
    write_metrics("crawl", asdict(result))


if __name__ == "__main__":
    main(run)
