"""Stage fetch: the pictures of all products, each distinct URL asked for once, each with a status."""

import shutil

from atlas_model.errors import InputError
from atlas_model.params import Params
from atlas_model.records import PRODUCTS, read_table
from crawlers.fetch.collect import write_images, write_refs
from crawlers.fetch.pictures import fetch_pictures
from crawlers.identity import user_agent
from flows.stages import paths
from flows.stages.connections import connections
from flows.stages.entry import main, write_metrics

SPOOLS = paths.WORK / "fetch"  # a folder per snapshot: the same URL may show another picture in the next one


def run(params: Params) -> None:
    """Fetch, then write the image shards and the refs."""
    products = read_table(paths.PRODUCTS, PRODUCTS, "crawl")
    urls = [url for urls in products["image_urls"].to_pylist() for url in urls]
    if not urls:
        raise InputError(f"{paths.PRODUCTS}: expected picture URLs, got {len(products)} products without any")
    with connections(params.crawl) as connect_map:
        pictures = fetch_pictures(
            urls,
            SPOOLS / params.crawl.snapshot,
            connect_map=connect_map,
            user_agent=user_agent(params.crawl.contact),
            **params.fetch.model_dump(exclude={"shard_rows"}),
        )
    write_images(paths.SHARDS, pictures, params.fetch.shard_rows)
    write_refs(paths.REFS, products, pictures.fetched)
    write_metrics("fetch", pictures.report.to_json())
    for spool in SPOOLS.iterdir():  # no older snapshot is asked for again; the demo shop's code may change under one
        if params.crawl.source == "demo" or spool.name != params.crawl.snapshot:
            shutil.rmtree(spool)


if __name__ == "__main__":
    main(run)
