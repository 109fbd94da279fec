"""How Scrapy's pages come: its aiohttp download handler, over our guarded session.

Adds what Scrapy leaves out: URLs, headers and bodies are sent and read as all our clients do (`crawlers.http`),
requests are refused by the guard with a reason of their own, and a host that sends Retry-After is left alone for as
long. Knows nothing of what is on a page. The base classes' private methods are used, so Scrapy's version is pinned.
"""

import asyncio
import time
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

from scrapy import Request, Spider
from scrapy.core.downloader.handlers._aiohttp import AiohttpDownloadHandler, _ClientResponse
from scrapy.crawler import Crawler
from scrapy.downloadermiddlewares.redirect import RedirectMiddleware
from scrapy.exceptions import DownloadFailedError, ResponseDataLossError
from scrapy.http import Headers, Response, TextResponse
from scrapy.responsetypes import responsetypes
from scrapy.utils.httpobj import urlparse_cached
from scrapy.utils.ssl import _make_ssl_context

from crawlers.http import content, policy, robots_txt, urls
from crawlers.http.session import ExactRequest, GuardedResponse, asking_for, open_session, refusal
from crawlers.scrapy_app.browser import BROWSER, BrowserPages
from crawlers.scrapy_app.errors import PageRefusedError

CONNECT_MAP = "ATLAS_CONNECT_MAP"  # the Scrapy setting that holds the map
CHROMIUM = "ATLAS_CHROMIUM"  # the Scrapy setting that holds its path, if a shop needs a browser
VERBATIM = "verbatim_url"  # in Request.meta: Scrapy's and aiohttp's own encoding stays out of the URL
UNBOUNDED = "unbounded"  # in Response.flags: no header says where the body ends, so it may be a part of the page


class _Request(ExactRequest):
    """Without the empty body that Scrapy gives each request, and the length of 0 that servers would be told."""

    def update_body_from_data(self, body: Any, *details: Any) -> None:
        super().update_body_from_data(body or None, *details)


class _Response(GuardedResponse, _ClientResponse):
    """Bounded as ours, and with the addresses that Scrapy's wants to know."""


class PageHandler(AiohttpDownloadHandler):
    """Downloads http and https pages; one instance for both."""

    experimental = False  # Scrapy calls its own so; what we need of it is tested
    _of_crawler: ClassVar[WeakKeyDictionary[Crawler, Self]] = WeakKeyDictionary()

    def __init__(self, crawler: Crawler) -> None:
        super(AiohttpDownloadHandler, self).__init__(crawler)  # not its own, which opens a session without a guard
        self._ssl_context = _make_ssl_context(crawler.settings)
        self._connect_map = {host: tuple(where) for host, where in crawler.settings.getdict(CONNECT_MAP).items()}
        self._session = open_session(
            self._connect_map,
            limit=self._pool_size_total,
            limit_per_host=self._pool_size_per_host,
            request_class=_Request,
            response_class=_Response,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),  # Scrapy sets them
        )
        self._browser: BrowserPages | None = None
        self._resume_at: dict[str, float] = {}  # host -> when it may be asked again, on the monotonic clock

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """As Scrapy makes it, once per scheme."""
        return cls._of_crawler.get(crawler) or cls._of_crawler.setdefault(crawler, cls(crawler))

    async def download_request(self, request: Request) -> Response:
        """Ask for one page; redirects are requests of their own.

        Raises:
            PageRefusedError: by the guard.
            scrapy.exceptions.DownloadFailedError: or another of Scrapy's, which it may retry.
        """
        host = urlparse_cached(request).hostname or ""
        await self._wait(host)
        try:
            response = await self._download(request)
        except Exception as error:
            if reason := refusal(error):
                raise PageRefusedError(reason, str(error)) from error
            raise
        if policy.is_transient_status(response.status):
            resume_at = time.monotonic() + (_retry_after_s(response) or 0)
            self._resume_at[host] = max(resume_at, self._resume_at.get(host, 0.0))  # others may have been told more
        return response

    async def _download(self, request: Request) -> Response:
        try:
            if BROWSER in request.meta:
                return await self._in_browser(request)
            request.meta[VERBATIM] = True  # also of robots.txt, which Scrapy asks for
            request.headers.setdefault("Accept-Encoding", content.ACCEPTED)
            asking_for(request.url)
            return self._plain(request, await super().download_request(request))
        except ValueError as error:  # of a host name that cannot be encoded, a status line, a length
            raise DownloadFailedError(str(error)) from error

    @staticmethod
    def _extract_headers(response: _ClientResponse) -> Headers:
        """As they came: aiohttp's texts of what is no UTF-8 are no bytes again."""
        return Headers(response.raw_headers)

    def _plain(self, request: Request, response: Response) -> Response:
        """``response`` without its Content-Encoding.

        Raises:
            PageRefusedError: what came is not fit to be read.
            scrapy.exceptions.ResponseDataLossError: it is not the whole page.
        """
        if "Content-Length" not in response.headers and "Transfer-Encoding" not in response.headers:
            response.flags.append(UNBOUNDED)
        encodings = [value.decode("latin-1") for value in response.headers.getlist("Content-Encoding")]
        if not encodings:
            return response
        if is_robots_txt := bool(request.meta.get("dont_obey_robotstxt")):
            max_bytes = robots_txt.MAX_BYTES
        else:
            max_bytes = request.meta.get("download_maxsize", self._default_maxsize)
        body, fault = content.decoded_as_far(response.body, encodings, max_bytes)
        if is_robots_txt and fault in ("too_large", "truncated") and body:
            fault = None  # of a large one the start is read
        if fault == "truncated":
            raise ResponseDataLossError(f"{request.url}: {encodings}: the body does not end where it should")
        if fault is not None:
            reason = "too_large" if fault == "decompression_bomb" else fault
            raise PageRefusedError(reason, f"{request.url}: {encodings}: {len(response.body)} bytes became {len(body)}")
        headers = response.headers.copy()
        del headers["Content-Encoding"]
        kind = responsetypes.from_args(headers=headers, url=response.url, body=body)
        changes: dict[str, Any] = {"encoding": None} if issubclass(kind, TextResponse) else {}
        return response.replace(cls=kind, headers=headers, body=body, **changes)

    async def _in_browser(self, request: Request) -> Response:
        if self._browser is None:
            self._browser = BrowserPages(self.crawler, self._connect_map, self.crawler.settings[CHROMIUM])
        return await self._browser.download_request(request)

    async def close(self) -> None:
        """As Scrapy closes it, once per scheme."""
        browser, self._browser = self._browser, None
        if browser is not None:
            await browser.close()
        await super().close()

    async def _wait(self, host: str) -> None:
        """Until ``host`` may be asked; who waits holds one of its places, so that nobody else asks."""
        while (wait_s := self._resume_at.get(host, 0.0) - time.monotonic()) > 0:
            if wait_s > policy.MAX_RETRY_AFTER_S:
                raise PageRefusedError("host_down", f"{host} asks to be left alone for {wait_s:.0f} s")
            await asyncio.sleep(wait_s)


class Redirects(RedirectMiddleware):
    """Scrapy's, that goes where the bytes of Location say."""

    def process_response(
        self, request: Request, response: Response, spider: Spider | None = None
    ) -> Request | Response:
        """Follow, or let ``response`` pass; Scrapy gives no spider any more.

        Raises:
            PageRefusedError: it leads nowhere that can be asked for, or comes after too many others.
        """
        headers = response.headers.getlist("Location")
        if not headers or response.status not in policy.REDIRECT_STATUSES or request.meta.get("dont_redirect"):
            return response
        try:
            target = urls.location(request.url, headers[0])
        except ValueError as error:
            return self._refused(request, response, "bad_redirect", str(error))
        if request.meta.get("redirect_times", 0) >= policy.MAX_REDIRECTS:
            return self._refused(request, response, "redirects", f"more than {policy.MAX_REDIRECTS}")
        meta = {**request.meta, VERBATIM: True}
        redirected = self._build_redirect_request(request, response, url=target, meta=meta)
        return self._redirect(redirected, request, response.status)

    @staticmethod
    def _refused(request: Request, response: Response, reason: str, text: str) -> Response:
        if request.meta.get("dont_obey_robotstxt"):
            return response  # of robots.txt: there is none (RFC 9309, 2.3.1.2)
        raise PageRefusedError(reason, f"{request.url}: {text}")


def _retry_after_s(response: Response) -> float | None:
    return policy.retry_after_s((response.headers.get("Retry-After") or b"").decode("latin-1"))
