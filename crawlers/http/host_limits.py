"""Request rates of hosts, and settings for shops that require a browser."""

import time
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


class Pace:
    """The times at which one host may be requested, by its delay and its Retry-After.

    Requests that wait together take their turns one after the other when the wait ends.
    """

    def __init__(self) -> None:
        self._last_at = self._resume_at = float("-inf")  # time.monotonic()

    def postpone(self, wait_s: float) -> None:
        """Allow no request for ``wait_s``; a longer wait remains."""
        self._resume_at = max(self._resume_at, time.monotonic() + wait_s)

    @property
    def pause_s(self) -> float:
        """What is left (s) of the longest `postpone`; not positive: nothing."""
        return self._resume_at - time.monotonic()

    def take(self, delay_s: float) -> float:
        """Take the next turn, at least ``delay_s`` after the last one: 0, or the wait (s) after which to call again."""
        now = time.monotonic()
        wait_s = max(self._resume_at, self._last_at + delay_s) - now
        if wait_s > 0:
            return wait_s
        self._last_at = now
        return 0.0


DEFAULT_PROFILE = HostProfile(delay_s=1.0, concurrency=2, autothrottle=True)
UNLIMITED = HostProfile(delay_s=0.0, concurrency=16, autothrottle=False)

# Hosts with other limits than the default.
PROFILES: Mapping[str, HostProfile] = {
    "shop-a.demo.test": UNLIMITED,
    "shop-b.demo.test": UNLIMITED,
    "shop-c.demo.test": UNLIMITED,
}
