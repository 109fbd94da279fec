"""Request rates of hosts, and settings for shops that require a browser."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HostProfile:
    """Request limits of one host; a Crawl-delay in its robots.txt may lower the rate further."""

    delay_s: float  # between two requests, with a jitter of half of it; also the base of the backoff of retries
    concurrency: int  # concurrent requests
    autothrottle: bool  # longer delays while the host responds slowly


@dataclass(frozen=True)
class BrowserProfile:
    """Browser settings for a shop whose pages are rendered by scripts."""

    wait_for: str | None  # CSS selector; the page counts as loaded when it matches
    load_more: str | None  # CSS selector of the button that loads more products
    max_clicks: int  # limit of clicks on that button
    scroll: bool  # whether to scroll to the end, for shops that load more products there


DEFAULT_PROFILE = HostProfile(delay_s=1.0, concurrency=2, autothrottle=True)
UNLIMITED = HostProfile(delay_s=0.0, concurrency=16, autothrottle=False)

# Hosts with other limits than the default.
PROFILES: Mapping[str, HostProfile] = {
    "shop-a.demo.test": UNLIMITED,
    "shop-b.demo.test": UNLIMITED,
    "shop-c.demo.test": UNLIMITED,
}
