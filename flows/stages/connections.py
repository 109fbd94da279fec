"""Maps the hosts of a crawl to addresses: those of crawl.connect, and the demo shop, which runs meanwhile."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from atlas_model.core.params import CrawlParams
from crawlers.http.address_guard import ConnectMap
from crawlers.shop.process import running_shop


@contextmanager
def connections(given: CrawlParams) -> Iterator[ConnectMap]:
    """The connect map for ``given``; with the source demo, the demo shop runs during the ``with`` block.

    Raises:
        RetryError: the demo shop did not start.
    """
    hosts: AbstractContextManager[ConnectMap] = running_shop() if given.source == "demo" else nullcontext({})
    with hosts as shop:
        yield {**given.connect_map, **shop}
