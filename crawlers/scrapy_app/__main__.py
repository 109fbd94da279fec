"""``python -m crawlers.scrapy_app``: the crawling process; reads a `CrawlJob` from stdin, writes journal and report.

It is a separate process because Twisted's reactor cannot be started twice in one process.
"""

import logging
import sys
from typing import TYPE_CHECKING

from atlas_model.core.errors import AtlasError, MachineError
from atlas_model.core.machine import machine_errors
from atlas_model.core.processes import die_with_parent
from atlas_model.core.progress import Progress

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from crawlers.crawl.job import CrawlJob


def run(job: "CrawlJob") -> None:
    """Run the crawl, and write the report."""
    from scrapy import signals
    from scrapy.crawler import AsyncCrawlerProcess

    from crawlers.crawl.job import CrawlReport
    from crawlers.crawl.journal import Journal
    from crawlers.crawl.reader_digests import reader_of
    from crawlers.scrapy_app.catalogue_spider import CatalogueSpider
    from crawlers.scrapy_app.machine_stop import FAULT, stop_on_machine_error
    from crawlers.scrapy_app.settings import scrapy_settings

    settings = scrapy_settings(
        hosts=sorted({source.site for source in job.sources}),
        profiles=job.profiles,
        connect_map=job.connect_map,
        user_agent=job.user_agent,
        max_attempts=job.max_attempts,
        timeout_s=job.timeout_s,
        robots_tags=job.robots_tags,
        browser=job.browser,
        log_file=str(job.log),
    )
    process = AsyncCrawlerProcess(settings)
    crawler = process.create_crawler(CatalogueSpider)

    def on_spider_error(failure: "Failure") -> None:
        if failure.value is not None:
            stop_on_machine_error(crawler, failure.value)

    crawler.signals.connect(on_spider_error, signals.spider_error)
    with Journal(job.journal) as journal, Progress("crawl", unit="products") as progress:
        journal.begin(job.snapshot, job.readers.values(), again=job.again)
        journal.delete_outdated(lambda url: reader_of(url, job.readers))
        progress.advance(journal.count_products_read())
        crawling = process.crawl(crawler, job=job, journal=journal, progress=progress)
        process.start()
        if crawling.done() and not crawling.cancelled() and (error := crawling.exception()) is not None:
            raise error  # it could not start
        if crawler.stats is not None and (fault := crawler.stats.get_value(FAULT)):
            raise MachineError(fault)
    spider, stats = crawler.spider, crawler.stats
    assert isinstance(spider, CatalogueSpider)
    assert stats is not None
    CrawlReport(
        finished=stats.get_value("finish_reason") == "finished",
        counts=dict(sorted(spider.counts.items())),
        walk_ends=dict(sorted(spider.walk_ends.items())),
        category_faults=sorted(spider.category_faults),
        sitemap_faults=sorted(spider.sitemap_faults),
        listed={site: dict(counts) for site, counts in spider.listed.items()},
        retries=stats.get_value("retry/count", 0),
        errors=stats.get_value("spider_exceptions/count", 0),
    ).save(job.report)


def main() -> int:
    """Run the job on stdin; returns the exit code."""
    die_with_parent()  # before the imports below, which take a second
    logging.raiseExceptions = False  # if its log cannot be written, the journal cannot either, which is reported
    from crawlers.crawl.job import CrawlJob

    try:
        with machine_errors():
            run(CrawlJob.from_json(sys.stdin.read()))
    except AtlasError as error:
        sys.stdout.write(str(error))  # the parent reports it
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
