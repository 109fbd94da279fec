"""Scrapy middlewares for robots.txt, X-Robots-Tag, offsite redirects, backoff of retries, and request rates.

They use private methods of Scrapy's classes, so Scrapy's version is pinned.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Self

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler
from scrapy.downloadermiddlewares.offsite import OffsiteMiddleware
from scrapy.downloadermiddlewares.retry import RetryMiddleware
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest, StopDownload
from scrapy.extensions.throttle import AutoThrottle
from scrapy.http import Response, TextResponse
from scrapy.settings import BaseSettings
from scrapy.utils.httpobj import urlparse_cached

from crawlers.http import policy, robots_tag, robots_txt
from crawlers.http.host_limits import DEFAULT_PROFILE, HostProfile
from crawlers.http.user_agent import robot_name
from crawlers.scrapy_app.errors import PageRefusedError

PROFILES = "ATLAS_PROFILES"  # Scrapy setting: host -> HostProfile
ROBOTS_TXT = "dont_obey_robotstxt"  # key of Request.meta, set by Scrapy for robots.txt itself
ROBOTS_BYTES = "robots_bytes"  # key of Request.meta: received bytes of robots.txt
ROBOTS_TAGS = "ATLAS_ROBOTS_TAGS"  # Scrapy setting: directives of X-Robots-Tag that forbid a page
LINKS_ONLY = "links_only"  # key of Request.meta for listings and sitemaps, which are read for their links only


class StrictOffsite(OffsiteMiddleware):
    """Rejects redirects to other hosts with an exception, so that the request's errback can count them."""

    def request_scheduled(self, request: Request, spider: Any) -> None:
        """Do nothing; `process_request` checks the request."""

    def process_request(self, request: Request, spider: Spider | None = None) -> None:
        """Return if ``request`` is allowed; raise otherwise. Scrapy passes no spider any more."""
        if request.meta.get(ROBOTS_TXT):  # it applies to this host even if another host serves it (RFC 9309, 2.3.1.2)
            return
        try:
            super().process_request(request)
        except IgnoreRequest as error:
            raise PageRefusedError("offsite", str(error)) from None


class StrictRobots(RobotsTxtMiddleware):
    """robots.txt by RFC 9309: if it cannot be fetched, everything is forbidden; Scrapy would allow everything."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._robot = robot_name(crawler.settings["USER_AGENT"])
        self._robotstxt_useragent = self._robot
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # netloc -> lock
        self._faults: dict[str, tuple[str, str]] = {}  # netloc -> reason and text of a failed robots.txt
        crawler.signals.connect(self._received, signal=signals.bytes_received)

    async def process_request(self, request: Request, spider: Spider | None = None) -> None:
        """Return if ``request`` is allowed; raise otherwise. Scrapy passes no spider any more."""
        if request.meta.get(ROBOTS_TXT):
            request.meta["download_maxsize"] = 0  # `_received` stops at the limit instead
            request.meta[ROBOTS_BYTES] = 0  # a retry has the meta of the attempt before
        await super().process_request(request)

    async def robot_parser(self, request: Request) -> Any:
        """The parsed robots.txt, under a lock because Scrapy 2.19 resumes only two of several waiting requests."""
        async with self._asking[urlparse_cached(request).netloc]:
            return await super().robot_parser(request)

    def _received(self, data: bytes, request: Request) -> None:
        if request.meta.get(ROBOTS_TXT):
            request.meta.pop("download_maxsize", None)  # from here on it would apply to decompression
            request.meta[ROBOTS_BYTES] = request.meta.get(ROBOTS_BYTES, 0) + len(data)
            if request.meta[ROBOTS_BYTES] > robots_txt.MAX_BYTES:
                raise StopDownload(fail=False)

    async def _parse_robots(self, response: Response, netloc: str, request: Request) -> None:
        reason = f"http_{response.status}"
        if "Location" in response.headers and response.status in policy.REDIRECT_STATUSES:
            reason = "redirects"
        if fault := policy.robots_fault(reason):
            self._faults[netloc] = fault, f"{netloc}/robots.txt: HTTP {response.status}"
        said = response.body if response.status == 200 else b""  # "not found" in so many words is no rule
        response = response.replace(body=robots_txt.rules_for(said, self._robot).encode())
        await super()._parse_robots(response, netloc, request)

    def _robots_error(self, exc: Exception, netloc: str) -> None:
        reason = "host_down"
        if isinstance(exc, PageRefusedError):  # an unreadable robots.txt may forbid the page
            reason = exc.reason if exc.reason in policy.FIXABLE_FAULTS | {"host_down"} else "robots_unreachable"
        self._faults[netloc] = reason, f"{netloc}/robots.txt: {exc}"
        super()._robots_error(exc, netloc)

    def process_request_2(self, rp: Any, request: Request) -> None:
        """Return if ``request`` is allowed; raise otherwise."""
        netloc = urlparse_cached(request).netloc
        if netloc in self._faults:
            raise PageRefusedError(*self._faults[netloc])
        try:
            super().process_request_2(rp, request)
        except IgnoreRequest as error:
            raise PageRefusedError("robots", f"{request.url}: {error}") from None


class RobotsTags:
    """Drops pages that robots may not use, by X-Robots-Tag or by a meta tag."""

    def __init__(self, crawler: Crawler) -> None:
        self._robot = robot_name(crawler.settings["USER_AGENT"])
        self._unwanted = frozenset(crawler.settings.getlist(ROBOTS_TAGS))

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Called by Scrapy."""
        return cls(crawler)

    def process_response(self, request: Request, response: Response) -> Response:
        """Return ``response`` if it is allowed; raise otherwise."""
        if response.status >= 400 or request.meta.get(ROBOTS_TXT):
            return response  # error pages often have "noindex", which refers to the error page
        # Listings and sitemaps often have "noindex"; they are read for their links only and not stored.
        unwanted = self._unwanted - {"noindex"} if request.meta.get(LINKS_ONLY) else self._unwanted
        values = [value.decode("latin-1") for value in response.headers.getlist("X-Robots-Tag")]
        if unwanted and isinstance(response, TextResponse):
            values += robots_tag.meta_values(response.body, self._robot)
        if found := robots_tag.forbidden_directive(values, self._robot, unwanted):
            raise PageRefusedError("robots_tag", f"{response.url}: {found}")
        return response


class BackoffRetry(RetryMiddleware):
    """Retries with exponential backoff (`PageHandler` observes Retry-After), and gives up hosts that are down."""

    def __init__(self, settings: BaseSettings) -> None:
        super().__init__(settings)
        self._profiles = _profiles(settings)
        self._failures: Counter[str] = Counter()  # host -> pages that failed since its last response

    def process_request(self, request: Request) -> None:
        """Reject requests to a host that is down."""
        if self._failures[_host(request)] >= policy.MAX_PAGE_FAILURES:
            raise PageRefusedError(
                "host_down", f"{_host(request)} has failed {policy.MAX_PAGE_FAILURES} times in a row"
            )

    # Scrapy awaits coroutines, but the types of its own methods are not asynchronous.
    async def process_response(  # type: ignore[override]
        self, request: Request, response: Response
    ) -> Request | Response:
        """Wait before a retry, if there is one."""
        result = super().process_response(request, response)
        if isinstance(result, Request):
            await asyncio.sleep(self._wait_s(request))
        else:
            self._count(request, failed=policy.is_transient_status(response.status))
        return result

    async def process_exception(  # type: ignore[override]  # see above
        self, request: Request, exception: Exception
    ) -> Request | Response | None:
        """Like `process_response`, for a request without a response."""
        result = super().process_exception(request, exception)
        if isinstance(result, Request):
            await asyncio.sleep(self._wait_s(request))
        elif isinstance(exception, self.exceptions_to_retry):
            self._count(request, failed=True)
        return result

    def _wait_s(self, request: Request) -> float:
        delay_s = self._profiles.get(_host(request), DEFAULT_PROFILE).delay_s
        return policy.backoff_s(delay_s, request.meta.get("retry_times", 0) + 1)

    def _count(self, request: Request, *, failed: bool) -> None:
        host = _host(request)
        self._failures[host] = self._failures[host] + 1 if failed else 0


class HostThrottle(AutoThrottle):
    """AutoThrottle for hosts whose profile enables it, never faster than the profile and robots.txt allow."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._profiles = _profiles(crawler.settings)
        self._crawl_delay_s: dict[str, float] = {}
        crawler.signals.connect(self._robots_parsed, signal=signals.robots_parsed)

    def _robots_parsed(self, robotparser: Any, request: Request) -> None:
        delay_s = robotparser.crawl_delay(self.crawler.settings["USER_AGENT"])
        if delay_s is None:
            return
        host, downloader = _host(request), self.crawler.engine.downloader
        self._crawl_delay_s[host] = delay_s = max(0.0, min(delay_s, policy.MAX_CRAWL_DELAY_S))
        future = downloader.per_slot_settings.setdefault(host, {})  # applies when the slot is created again
        future["delay"] = max(future.get("delay", downloader._delay), delay_s)
        future["jitter"] = 0.0  # it would shorten what the shop asks for
        if slot := downloader.slots.get(host):
            slot.delay, slot.jitter = max(slot.delay, delay_s), 0.0

    def _response_downloaded(self, response: Response, request: Request, spider: Any) -> None:
        host = _host(request)
        profile = self._profiles.get(host, DEFAULT_PROFILE)
        if profile.autothrottle:
            self.mindelay = max(profile.delay_s, self._crawl_delay_s.get(host, 0.0))
            super()._response_downloaded(response, request, spider)


def _host(request: Request) -> str:
    return urlparse_cached(request).hostname or ""


def _profiles(settings: BaseSettings) -> Mapping[str, HostProfile]:
    return settings.getdict(PROFILES)
