"""Stage ``fetch``: downloads each distinct image URL once, or reads each local file once, and records a status."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

from atlas_model.core.errors import InputError
from atlas_model.core.params import CrawlParams, Params
from crawlers.fetch.collect import image_urls, write_images, write_refs
from crawlers.fetch.images import FetchReport, fetch_images
from crawlers.fetch.spool import Spool
from crawlers.files import images as files
from crawlers.files import urls as table_urls
from crawlers.http.user_agent import user_agent
from flows import paths
from flows.parallel import make_parallel_map
from flows.stages.connections import connections
from flows.stages.entry import main, write_metrics

# Of one run: those of a run that was interrupted, and of its rest, differ from those of an undisturbed one.
OF_THIS_RUN = ("spooled", "unchanged", "retries", "seconds", "images_per_s")


def spool_folder(given: CrawlParams) -> Path:
    """Folder of the spool, the downloads in progress: one for all snapshots of a source."""
    return paths.WORK / "fetch" / given.source


def run(params: Params) -> None:
    """Download the images, then write the shards and the refs."""
    of_table = params.crawl.source == "urls"
    wanted = table_urls.requested if of_table else image_urls
    if not any(True for _ in wanted(paths.PRODUCTS)):
        raise InputError(f"{paths.PRODUCTS}: expected products with image URLs, got none")
    runner, workers = params.pipeline.runner, params.pipeline.workers
    spread = (
        make_parallel_map(runner, workers, "fetch") if runner != "threads" else None
    )  # downloads are bound by waiting, not by the CPU
    folder = spool_folder(params.crawl)
    if params.crawl.source == "files":
        _read_files(params, folder)
        return
    with Spool(folder) as spool:
        with connections(params.crawl) as connect_map:
            report = fetch_images(
                wanted(paths.PRODUCTS),
                spool,
                snapshot=params.crawl.snapshot,
                connect_map=connect_map,
                user_agent=user_agent(params.crawl.contact),
                robots_tags=params.crawl.robots_tags,
                parallel_map=spread,
                **params.fetch.model_dump(exclude={"shard_rows"}),
            )
        write_images(paths.SHARDS, spool, params.fetch.shard_rows)
        (table_urls.write_refs if of_table else write_refs)(paths.REFS, paths.PRODUCTS, spool)
        spool.drop_unwanted()
    if of_table:
        statuses = Counter(report.statuses) + table_urls.unrequested(paths.PRODUCTS)
        report = replace(report, statuses=dict(sorted(statuses.items())))
    _report(params, report)
    if params.crawl.source == "demo":  # the demo shop's code may change under one snapshot
        shutil.rmtree(folder)


def _read_files(params: Params, folder: Path) -> None:
    """Read the images of a table and a folder instead of downloading."""
    given = params.crawl.files
    with Spool(folder) as spool:
        report = files.read_all(
            paths.PRODUCTS,
            spool,
            table=given.table,
            images=given.images,
            column=given.columns.image,
            max_bytes=params.fetch.max_bytes,
            max_pixels=params.fetch.max_pixels,
            max_failed_share=params.fetch.max_failed_share,
        )
        write_images(paths.SHARDS, spool, params.fetch.shard_rows)
        files.write_refs(paths.REFS, paths.PRODUCTS, spool)
        spool.drop_unwanted()
    _report(params, report)


def _report(params: Params, report: FetchReport) -> None:
    found = report.to_json()
    write_metrics(
        "fetch",
        {"images": report.images, "dropped": sum(report.statuses.values()) - report.statuses.get("ok", 0)},
        {"snapshot": params.crawl.snapshot} | {key: value for key, value in found.items() if key not in OF_THIS_RUN},
        {key: found[key] for key in OF_THIS_RUN},
    )


if __name__ == "__main__":
    main(run)
