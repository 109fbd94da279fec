"""Scrapy's manners, where they fall short: strange hosts, what robots are asked, waiting before a retry, pace.

Knows nothing of pages. The base classes' private methods are used, so Scrapy's version is pinned.
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
from crawlers.http.host_limits import POLITE, HostProfile
from crawlers.http.user_agent import robot_name
from crawlers.scrapy_app.errors import PageRefusedError

PROFILES = "ATLAS_PROFILES"  # the Scrapy setting that holds a HostProfile per host
ROBOTS_TXT = "dont_obey_robotstxt"  # in Request.meta, by Scrapy: it is robots.txt itself
ROBOTS_BYTES = "robots_bytes"  # in Request.meta: of robots.txt, so far
ROBOTS_TAGS = "ATLAS_ROBOTS_TAGS"  # the Scrapy setting that holds the directives that keep us out of a page
LINKS_ONLY = "links_only"  # in Request.meta of pages that are read for their links: lists of products, sitemaps


class LoudOffsite(OffsiteMiddleware):
    """Redirects to other hosts are refused where the request's errback hears of it, not where they vanish."""

    def request_scheduled(self, request: Request, spider: Any) -> None:
        """Nothing yet: `process_request` refuses."""

    def process_request(self, request: Request, spider: Spider | None = None) -> None:
        """Let ``request`` pass, or raise; Scrapy gives no spider any more."""
        if request.meta.get(ROBOTS_TXT):  # it counts for this host also where another one serves it (RFC 9309, 2.3.1.2)
            return
        try:
            super().process_request(request)
        except IgnoreRequest as error:
            raise PageRefusedError("offsite", str(error)) from None


class StrictRobots(RobotsTxtMiddleware):
    """robots.txt as in RFC 9309: one that cannot be had forbids everything; Scrapy would allow everything."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._robot = robot_name(crawler.settings["USER_AGENT"])
        self._robotstxt_useragent = self._robot
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by netloc
        self._faults: dict[str, tuple[str, str]] = {}  # netloc -> why it is unknown what is allowed: reason, text
        crawler.signals.connect(self._received, signal=signals.bytes_received)

    async def process_request(self, request: Request, spider: Spider | None = None) -> None:
        """Let ``request`` pass, or raise; Scrapy gives no spider any more."""
        if request.meta.get(ROBOTS_TXT):  # it is robots.txt itself
            request.meta["download_maxsize"] = 0  # of a large one the start is read: `_received`
        await super().process_request(request)

    async def robot_parser(self, request: Request) -> Any:
        """What robots.txt says; in Scrapy 2.19 only two of those who wait for it together are told."""
        async with self._asking[urlparse_cached(request).netloc]:
            return await super().robot_parser(request)

    def _received(self, data: bytes, request: Request) -> None:
        if request.meta.get(ROBOTS_TXT):
            request.meta.pop("download_maxsize", None)  # from here on it would be that of decompression
            request.meta[ROBOTS_BYTES] = request.meta.get(ROBOTS_BYTES, 0) + len(data)
            if request.meta[ROBOTS_BYTES] > robots_txt.MAX_BYTES:
                raise StopDownload(fail=False)

    async def _parse_robots(self, response: Response, netloc: str, request: Request) -> None:
        if policy.is_transient_status(response.status):
            self._faults[netloc] = "robots_unreachable", f"{netloc}/robots.txt: HTTP {response.status}"
        said = response.body if response.status == 200 else b""  # "not found" in so many words is no rule
        response = response.replace(body=robots_txt.for_us(said, self._robot).encode())
        await super()._parse_robots(response, netloc, request)

    def _robots_error(self, exc: Exception, netloc: str) -> None:
        reason = "host_down"
        if isinstance(exc, PageRefusedError):  # one that cannot be read may forbid us all the same
            reason = exc.reason if policy.is_asked_again(exc.reason) else "robots_unreachable"
        self._faults[netloc] = reason, f"{netloc}/robots.txt: {exc}"
        super()._robots_error(exc, netloc)

    def process_request_2(self, rp: Any, request: Request) -> None:
        """Let ``request`` pass, or raise."""
        netloc = urlparse_cached(request).netloc
        if netloc in self._faults:
            raise PageRefusedError(*self._faults[netloc])
        try:
            super().process_request_2(rp, request)
        except IgnoreRequest as error:
            raise PageRefusedError("robots", f"{request.url}: {error}") from None


class RobotsTags:
    """Drops pages that ask robots to keep out, in X-Robots-Tag or in a meta tag."""

    def __init__(self, crawler: Crawler) -> None:
        self._robot = robot_name(crawler.settings["USER_AGENT"])
        self._unwanted = frozenset(crawler.settings.getlist(ROBOTS_TAGS))

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """As Scrapy makes it."""
        return cls(crawler)

    def process_response(self, request: Request, response: Response) -> Response:
        """Let ``response`` pass, or raise."""
        if response.status >= 400 or request.meta.get(ROBOTS_TXT):
            return response  # error pages often say "noindex", and mean themselves
        # Lists of products and sitemaps are often kept out of indexes, and are in none of ours.
        unwanted = self._unwanted - {"noindex"} if request.meta.get(LINKS_ONLY) else self._unwanted
        values = [value.decode("latin-1") for value in response.headers.getlist("X-Robots-Tag")]
        if unwanted and isinstance(response, TextResponse):
            values += robots_tag.meta_values(response.body, self._robot)
        if found := robots_tag.forbidden(values, self._robot, unwanted):
            raise PageRefusedError("robots_tag", f"{response.url}: {found}")
        return response


class PatientRetry(RetryMiddleware):
    """Retries after a wait that doubles each time (or more: `PageHandler`); gives a dead host up as a whole."""

    def __init__(self, settings: BaseSettings) -> None:
        super().__init__(settings)
        self._profiles = _profiles(settings)
        self._failures: Counter[str] = Counter()  # host -> pages given up since its last answer

    def process_request(self, request: Request) -> None:
        """Refuse what would only fail again."""
        if self._failures[_host(request)] >= policy.MAX_PAGE_FAILURES:
            raise PageRefusedError(
                "host_down", f"{_host(request)} has failed {policy.MAX_PAGE_FAILURES} times in a row"
            )

    # Scrapy awaits what is a coroutine, which the types of its own methods do not say.
    async def process_response(  # type: ignore[override]
        self, request: Request, response: Response
    ) -> Request | Response:
        """Wait before the request is tried again, if it is to be."""
        result = super().process_response(request, response)
        if isinstance(result, Request):
            await asyncio.sleep(self._wait_s(request))
        else:
            self._count(request, failed=policy.is_transient_status(response.status))
        return result

    async def process_exception(  # type: ignore[override]  # see above
        self, request: Request, exception: Exception
    ) -> Request | Response | None:
        """As `process_response`, where no response came."""
        result = super().process_exception(request, exception)
        if isinstance(result, Request):
            await asyncio.sleep(self._wait_s(request))
        elif isinstance(exception, self.exceptions_to_retry):
            self._count(request, failed=True)
        return result

    def _wait_s(self, request: Request) -> float:
        delay_s = self._profiles.get(_host(request), POLITE).delay_s
        return policy.backoff_s(delay_s, request.meta.get("retry_times", 0) + 1)

    def _count(self, request: Request, *, failed: bool) -> None:
        host = _host(request)
        self._failures[host] = self._failures[host] + 1 if failed else 0


class HostThrottle(AutoThrottle):
    """AutoThrottle for the hosts whose profile asks for it, never faster than the profile or robots.txt allows."""

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
        future = downloader.per_slot_settings.setdefault(host, {})  # for when the slot is made anew
        future["delay"] = max(future.get("delay", downloader._delay), delay_s)
        if host in downloader.slots:
            downloader.slots[host].delay = max(downloader.slots[host].delay, delay_s)

    def _response_downloaded(self, response: Response, request: Request, spider: Any) -> None:
        host = _host(request)
        profile = self._profiles.get(host, POLITE)
        if profile.autothrottle:
            self.mindelay = max(profile.delay_s, self._crawl_delay_s.get(host, 0.0))
            super()._response_downloaded(response, request, spider)


def _host(request: Request) -> str:
    return urlparse_cached(request).hostname or ""


def _profiles(settings: BaseSettings) -> Mapping[str, HostProfile]:
    return settings.getdict(PROFILES)
