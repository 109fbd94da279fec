"""Ends a crawl when the machine fails (full disk, no memory, too many open files): no page is recorded as failed."""

from scrapy.crawler import Crawler
from scrapy.utils.defer import deferred_from_coro

from atlas_model.core.machine import machine_error

FAULT = "machine_fault"  # statistic: the message


def stop_on_machine_error(crawler: Crawler, error: BaseException) -> None:
    """Close the spider if ``error`` is one of the machine, and keep its message as the statistic `FAULT`."""
    found = machine_error(error)
    if found is None or crawler.stats is None or crawler.stats.get_value(FAULT) is not None:
        return
    crawler.stats.set_value(FAULT, str(found))
    if crawler.engine is not None:
        deferred_from_coro(crawler.engine.close_spider_async(reason=FAULT))
