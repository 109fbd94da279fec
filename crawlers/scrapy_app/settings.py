"""Scrapy's settings for a crawl. Knows nothing of what is crawled."""

from collections.abc import Iterable, Mapping
from typing import Any

from scrapy.downloadermiddlewares.offsite import OffsiteMiddleware
from scrapy.downloadermiddlewares.redirect import RedirectMiddleware
from scrapy.downloadermiddlewares.retry import RetryMiddleware
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.dupefilters import BaseDupeFilter
from scrapy.extensions.throttle import AutoThrottle

from crawlers.http.address_guard import ConnectMap
from crawlers.http.host_limits import POLITE, HostProfile
from crawlers.http.policy import MAX_PAGE_BYTES, MAX_REDIRECTS, TRANSIENT_STATUSES
from crawlers.scrapy_app.download_handler import CHROMIUM, CONNECT_MAP, PageHandler, Redirects
from crawlers.scrapy_app.politeness import (
    PROFILES,
    ROBOTS_TAGS,
    HostThrottle,
    LoudOffsite,
    PatientRetry,
    RobotsTags,
    StrictRobots,
)


def scrapy_settings(
    *,
    hosts: Iterable[str],
    profiles: Mapping[str, HostProfile],
    connect_map: ConnectMap,
    user_agent: str,
    max_attempts: int,
    timeout_s: float,
    robots_tags: Iterable[str],
    browser: str | None,
    log_file: str,
) -> dict[str, Any]:
    """What differs from Scrapy's defaults.

    Args:
        hosts: the sources' hosts.
        profiles: how fast to ask them; `POLITE` where there is none.
        connect_map: host -> (address, port), instead of DNS.
        user_agent: who we are.
        max_attempts: per page, the first one included.
        timeout_s: whole deadline of one attempt.
        robots_tags: directives of X-Robots-Tag that keep us out, such as "noindex".
        browser: path of Chromium, if a shop needs a browser.
        log_file: where Scrapy's own lines go.
    """
    slots = dict.fromkeys(hosts, POLITE) | dict(profiles)
    return {
        "ROBOTSTXT_OBEY": True,
        "USER_AGENT": user_agent,
        "RETRY_TIMES": max_attempts - 1,
        "RETRY_HTTP_CODES": sorted(TRANSIENT_STATUSES),
        "DOWNLOAD_TIMEOUT": timeout_s,
        "DOWNLOAD_MAXSIZE": MAX_PAGE_BYTES,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "DOWNLOAD_HANDLERS": dict.fromkeys(("data", "file", "ftp", "s3"))
        | dict.fromkeys(("http", "https"), PageHandler),
        "DOWNLOAD_DELAY": POLITE.delay_s,
        # Each host has its slot; this one is also the number of connections per host that are kept open.
        "CONCURRENT_REQUESTS_PER_DOMAIN": max(profile.concurrency for profile in slots.values()),
        "DOWNLOAD_SLOTS": {host: _slot(profile) for host, profile in slots.items()},
        "CONCURRENT_REQUESTS": 32,
        "CONCURRENT_ITEMS": 8,  # Scrapy starts that many tasks per callback
        "AUTOTHROTTLE_ENABLED": True,  # per host: `politeness.HostThrottle`
        "AUTOTHROTTLE_START_DELAY": POLITE.delay_s,
        "DOWNLOADER_MIDDLEWARES": {
            OffsiteMiddleware: None,
            LoudOffsite: 50,
            RobotsTxtMiddleware: None,
            StrictRobots: 100,
            RetryMiddleware: None,
            RobotsTags: 540,
            PatientRetry: 550,
            RedirectMiddleware: None,
            Redirects: 600,
        },
        "EXTENSIONS": {AutoThrottle: None, HostThrottle: 0},
        "COMPRESSION_ENABLED": False,  # the handler undoes encodings
        PROFILES: profiles,
        CONNECT_MAP: connect_map,
        CHROMIUM: browser,
        ROBOTS_TAGS: sorted(robots_tags),
        "HTTPPROXY_ENABLED": False,  # behind a proxy the guard against private addresses would see the proxy's only
        "COOKIES_ENABLED": False,  # their middleware fetches the list of public suffixes from the network
        "METAREFRESH_ENABLED": False,
        "REFERER_ENABLED": False,
        "REDIRECT_MAX_TIMES": MAX_REDIRECTS,
        "URLLENGTH_LIMIT": 0,  # `pages.values.MAX_URL` is ours; this one would drop requests unheard
        "DUPEFILTER_CLASS": BaseDupeFilter,  # the spider knows what it has asked for
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "LOG_LEVEL": "INFO",
        "LOG_FILE": log_file,
        "LOG_FILE_APPEND": False,
    }


def _slot(profile: HostProfile) -> dict[str, float]:
    return {"delay": profile.delay_s, "concurrency": profile.concurrency, "jitter": 0.5}
