"""``python -m crawlers.spiders``: the process that crawls. Takes a `CrawlJob` on stdin, leaves spool and report.

A process of its own, because Twisted's reactor cannot be started twice in one.
"""

import sys

from scrapy.crawler import AsyncCrawlerProcess

from atlas_model.errors import AtlasError
from atlas_model.processes import die_with_parent
from atlas_model.progress import Progress
from crawlers.job import CrawlJob, CrawlReport
from crawlers.settings import scrapy_settings
from crawlers.spiders.catalogue import CatalogueSpider
from crawlers.spool import SpoolWriter


def run(job: CrawlJob) -> None:
    """Crawl, and write the report."""
    settings = scrapy_settings(
        hosts=sorted({source.site for source in job.sources}),
        profiles=job.profiles,
        connect_map=job.connect_map,
        user_agent=job.user_agent,
        max_attempts=job.max_attempts,
        timeout_s=job.timeout_s,
        log_file=str(job.log),
    )
    process = AsyncCrawlerProcess(settings)
    crawler = process.create_crawler(CatalogueSpider)
    with SpoolWriter(job.spool) as spool, Progress("crawl", unit="products") as progress:
        progress.advance(len(spool.urls))
        process.crawl(
            crawler,
            sources=job.sources,
            max_pages_per_category=job.max_pages_per_category,
            spool=spool,
            progress=progress,
        )
        process.start()
    spider, stats = crawler.spider, crawler.stats
    assert isinstance(spider, CatalogueSpider)
    assert stats is not None
    CrawlReport(
        finished=stats.get_value("finish_reason") == "finished",
        links={url: sorted(categories) for url, categories in sorted(spider.links.items())},
        failed=dict(sorted(spider.failed.items())),
        category_faults=sorted(spider.category_faults),
        listing_pages=spider.counts["listing_pages"],
        product_pages=spider.counts["product_pages"],
        offsite=spider.counts["offsite"],
        retries=stats.get_value("retry/count", 0),
        errors=stats.get_value("spider_exceptions/count", 0),
    ).save(job.report)


def main() -> int:
    """Run the job on stdin; the exit code."""
    die_with_parent()
    try:
        run(CrawlJob.from_json(sys.stdin.read()))
    except AtlasError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
