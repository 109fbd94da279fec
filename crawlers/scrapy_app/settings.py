"""Scrapy settings of a crawl."""

from collections.abc import Iterable, Mapping
from typing import Any

from scrapy.downloadermiddlewares.offsite import OffsiteMiddleware
from scrapy.downloadermiddlewares.redirect import RedirectMiddleware
from scrapy.downloadermiddlewares.retry import RetryMiddleware
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.dupefilters import BaseDupeFilter
from scrapy.extensions.throttle import AutoThrottle

from crawlers.http.address_guard import ConnectMap
from crawlers.http.host_limits import DEFAULT_PROFILE, HostProfile
from crawlers.http.policy import MAX_PAGE_BYTES, MAX_REDIRECTS, TRANSIENT_STATUSES
from crawlers.scrapy_app.download_handler import CHROMIUM, CONNECT_MAP, GuardedRedirects, PageHandler
from crawlers.scrapy_app.politeness import (
    PROFILES,
    ROBOTS_TAGS,
    BackoffRetry,
    HostThrottle,
    RobotsTags,
    StrictOffsite,
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
    """The settings that differ from Scrapy's defaults.

    Args:
        hosts: hosts of the sources.
        profiles: host -> request limits; `DEFAULT_PROFILE` for other hosts.
        connect_map: host -> (address, port), instead of DNS.
        user_agent: value of the User-Agent header.
        max_attempts: attempts per page, including the first.
        timeout_s: timeout (s) of one attempt.
        robots_tags: directives of X-Robots-Tag that forbid a page, such as "noindex".
        browser: path of Chromium, if a shop requires a browser.
        log_file: path of Scrapy's log.
    """
    slots = dict.fromkeys(hosts, DEFAULT_PROFILE) | dict(profiles)
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
        "DOWNLOAD_DELAY": DEFAULT_PROFILE.delay_s,
        # Each host has its own slot; this is also the number of connections per host that are kept open.
        "CONCURRENT_REQUESTS_PER_DOMAIN": max(profile.concurrency for profile in slots.values()),
        "DOWNLOAD_SLOTS": {host: _slot(profile) for host, profile in slots.items()},
        "CONCURRENT_REQUESTS": 32,
        "CONCURRENT_ITEMS": 8,  # number of tasks that Scrapy starts per callback
        "AUTOTHROTTLE_ENABLED": True,  # per host: `politeness.HostThrottle`
        "AUTOTHROTTLE_START_DELAY": DEFAULT_PROFILE.delay_s,
        "DOWNLOADER_MIDDLEWARES": {
            OffsiteMiddleware: None,
            StrictOffsite: 50,
            RobotsTxtMiddleware: None,
            StrictRobots: 100,
            RetryMiddleware: None,
            RobotsTags: 540,
            BackoffRetry: 550,
            RedirectMiddleware: None,
            GuardedRedirects: 600,
        },
        "EXTENSIONS": {AutoThrottle: None, HostThrottle: 0},
        "COMPRESSION_ENABLED": False,  # the download handler decompresses
        PROFILES: profiles,
        CONNECT_MAP: connect_map,
        CHROMIUM: browser,
        ROBOTS_TAGS: sorted(robots_tags),
        "HTTPPROXY_ENABLED": False,  # with a proxy, the address guard would check the proxy's address only
        "COOKIES_ENABLED": False,  # the middleware would download the public suffix list
        "METAREFRESH_ENABLED": False,
        "REFERER_ENABLED": False,
        "REDIRECT_MAX_TIMES": MAX_REDIRECTS,
        "URLLENGTH_LIMIT": 0,  # `pages.text.values.MAX_URL` applies; this one would drop requests without a reason
        "DUPEFILTER_CLASS": BaseDupeFilter,  # the spider itself avoids duplicate requests
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "LOG_LEVEL": "INFO",
        "LOG_FILE": log_file,
        "LOG_FILE_APPEND": False,
    }


def _slot(profile: HostProfile) -> dict[str, float]:
    return {"delay": profile.delay_s, "concurrency": profile.concurrency, "jitter": 0.5}
