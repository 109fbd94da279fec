"""How fast each host is asked. Knows nothing of pages."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HostProfile:
    """Limits for one host; a crawl-delay in its robots.txt slows it further."""

    delay_s: float  # between two requests, plus or minus half of it at random; also the base of retries' back-off
    concurrency: int  # requests at once
    autothrottle: bool  # longer delays while the host answers slowly


@dataclass(frozen=True)
class BrowserProfile:
    """How a browser reads the pages of a shop that builds them by script."""

    wait_for: str | None  # CSS of what must be there before the page counts as loaded
    load_more: str | None  # CSS of the button that shows more products
    max_clicks: int  # on that button, at most
    scroll: bool  # to the end of the page, for shops that load more products there


POLITE = HostProfile(delay_s=1.0, concurrency=2, autothrottle=True)
UNLIMITED = HostProfile(delay_s=0.0, concurrency=16, autothrottle=False)

# A shop that allows more, or needs less, gets a line here; every other host is asked politely.
PROFILES: Mapping[str, HostProfile] = {
    "shop-a.demo.test": UNLIMITED,
    "shop-b.demo.test": UNLIMITED,
    "shop-c.demo.test": UNLIMITED,
}
