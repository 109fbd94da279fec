"""Scrapy download handler over the guarded aiohttp session, and the redirect middleware.

It extends Scrapy's own aiohttp handler: URLs, headers and bodies are handled by `crawlers.http` as in all clients,
rejected requests get their own reason, and Retry-After is observed per host. It uses private methods of Scrapy's
classes, so Scrapy's version is pinned.
"""

import asyncio
from collections import defaultdict
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
from crawlers.http.endings import looks_truncated
from crawlers.http.host_limits import Pace
from crawlers.http.session import ExactRequest, GuardedResponse, exact_url, open_session, refusal_reason
from crawlers.scrapy_app.browser import BROWSER, BrowserPages
from crawlers.scrapy_app.errors import PageRefusedError
from crawlers.scrapy_app.machine_stop import stop_on_machine_error
from crawlers.scrapy_app.politeness import ROBOTS_BYTES, ROBOTS_TXT

CONNECT_MAP = "ATLAS_CONNECT_MAP"  # Scrapy setting: the connect map
CHROMIUM = "ATLAS_CHROMIUM"  # Scrapy setting: path of Chromium, if a shop requires a browser
UNCERTAIN_END = "uncertain_end"  # in Response.flags: see `GuardedResponse.end_is_uncertain`
VERBATIM = "verbatim_url"  # key of Request.meta: Scrapy and aiohttp do not re-encode the URL


class _Request(ExactRequest):
    """A request without the empty body that Scrapy adds, which would send Content-Length: 0."""

    def update_body_from_data(self, body: Any, *details: Any) -> None:
        super().update_body_from_data(body or None, *details)


class _Response(GuardedResponse, _ClientResponse):
    """A guarded response with the addresses that Scrapy's handler reads."""


class PageHandler(AiohttpDownloadHandler):
    """Downloads http and https pages; one instance for both schemes."""

    experimental = False  # Scrapy marks its base class so; the used parts are tested
    _of_crawler: ClassVar[WeakKeyDictionary[Crawler, Self]] = WeakKeyDictionary()

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        super(AiohttpDownloadHandler, self).__init__(crawler)  # skips a constructor that opens an unguarded session
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
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)  # by host

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Called by Scrapy, once per scheme."""
        return cls._of_crawler.get(crawler) or cls._of_crawler.setdefault(crawler, cls(crawler))

    async def download_request(self, request: Request) -> Response:
        """Send one request; redirects are separate requests.

        Raises:
            PageRefusedError: the request or the response is rejected.
            scrapy.exceptions.DownloadFailedError: or another exception of Scrapy, which may be retried.
        """
        host = urlparse_cached(request).hostname or ""
        await self._wait(host)
        try:
            response = await self._download(request)
        except Exception as error:
            stop_on_machine_error(self._crawler, error)
            if reason := refusal_reason(error):
                raise PageRefusedError(reason, str(error)) from error
            raise
        if policy.is_transient_status(response.status):
            self._paces[host].postpone(_retry_after_s(response) or 0)
        return response

    async def _download(self, request: Request) -> Response:
        try:
            if BROWSER in request.meta:
                return await self._in_browser(request)
            request.meta[VERBATIM] = True  # also for robots.txt, which Scrapy requests
            request.headers.setdefault("Accept-Encoding", content.ACCEPTED)
            exact_url(request.url)
            return self._plain(request, await super().download_request(request))
        except ValueError as error:  # invalid host name, status line or length
            raise DownloadFailedError(str(error)) from error

    async def _read_response(self, response: _ClientResponse, request: Request) -> Response:
        result = await super()._read_response(response, request)
        assert isinstance(response, GuardedResponse)
        if request.meta.get(ROBOTS_TXT) and response.has_surplus and not _is_long_robots_txt(request):
            raise ResponseDataLossError(f"{request.url}: it goes on after its stated length")
        if response.end_is_uncertain:
            result.flags.append(UNCERTAIN_END)
        return result

    @staticmethod
    def _extract_headers(response: _ClientResponse) -> Headers:
        """The exact bytes of the headers; aiohttp's texts lose bytes that are not UTF-8."""
        return Headers(response.raw_headers)

    def _plain(self, request: Request, response: Response) -> Response:
        """``response`` with its Content-Encoding removed and its body decompressed.

        Raises:
            PageRefusedError: the body cannot be decompressed, or is too large.
            scrapy.exceptions.ResponseDataLossError: the body is truncated.
        """
        encodings = [value.decode("latin-1") for value in response.headers.getlist("Content-Encoding")]
        if not encodings or response.status != 200:  # what an error says is not read
            return self._whole(request, response)
        if request.meta.get(ROBOTS_TXT):
            max_bytes = robots_txt.MAX_BYTES
        else:
            max_bytes = request.meta.get("download_maxsize", self._default_maxsize)
        body, fault = content.decode_partially(response.body, encodings, max_bytes)
        if request.meta.get(ROBOTS_TXT) and fault == "too_large":
            fault = None
        if _is_long_robots_txt(request) and fault == "truncated" and body:
            fault = None  # the start of a large robots.txt is used
        if fault == "truncated":
            raise ResponseDataLossError(f"{request.url}: {encodings}: the body is truncated")
        if fault is not None:
            reason = "too_large" if fault == "decompression_bomb" else fault
            raise PageRefusedError(reason, f"{request.url}: {encodings}: {len(response.body)} bytes became {len(body)}")
        headers = response.headers.copy()
        del headers["Content-Encoding"]
        kind = responsetypes.from_args(headers=headers, url=response.url, body=body)
        changes: dict[str, Any] = {"encoding": None} if issubclass(kind, TextResponse) else {}
        return self._whole(request, response.replace(cls=kind, headers=headers, body=body, **changes))

    @staticmethod
    def _whole(request: Request, response: Response) -> Response:
        if request.meta.get(ROBOTS_TXT) or not 200 <= response.status < 300:
            return response
        if response.status != 200:  # Scrapy would read it as a page
            raise PageRefusedError(f"http_{response.status}", f"{request.url}: expected a page")
        kind = (response.headers.get("Content-Type") or b"").decode("latin-1")
        if not response.body.strip():
            raise ResponseDataLossError(f"{request.url}: the body is empty")
        if UNCERTAIN_END in response.flags and looks_truncated(response.body, kind):
            raise ResponseDataLossError(f"{request.url}: no header proves its length, and it has no end")
        return response

    async def _in_browser(self, request: Request) -> Response:
        if self._browser is None:
            self._browser = BrowserPages(self.crawler, self._connect_map, self.crawler.settings[CHROMIUM])
        return await self._browser.download_request(request)

    async def close(self) -> None:
        """Called by Scrapy, once per scheme."""
        browser, self._browser = self._browser, None
        if browser is not None:
            await browser.close()
        await super().close()

    async def _wait(self, host: str) -> None:
        """Wait until ``host`` may be requested; waiting requests occupy its concurrency slots.

        Scrapy's slot has kept the delay already, except between requests that wait here for the same Retry-After.
        """
        pace = self._paces[host]
        slot = self.crawler.engine.downloader.slots.get(host)
        delay_s = slot.delay * (1 - slot.jitter) if slot else 0.0
        while (wait_s := pace.take(delay_s)) > 0:
            if pace.pause_s > policy.MAX_RETRY_AFTER_S:
                raise PageRefusedError("host_down", f"{host} sent Retry-After: {pace.pause_s:.0f} s")
            await asyncio.sleep(wait_s)


class GuardedRedirects(RedirectMiddleware):
    """Redirect middleware that uses the exact bytes of Location and the limits of `policy`."""

    def process_response(
        self, request: Request, response: Response, spider: Spider | None = None
    ) -> Request | Response:
        """Return a request for the redirect's target, or ``response`` if it is not a redirect; Scrapy passes no spider.

        Raises:
            PageRefusedError: the target is invalid, or there were too many redirects.
        """
        headers = response.headers.getlist("Location")
        if not headers or response.status not in policy.REDIRECT_STATUSES or request.meta.get("dont_redirect"):
            return response
        try:
            target = urls.redirect_target(request.url, headers[0])
        except ValueError as error:
            return self._refused(request, response, "bad_redirect", str(error))
        if request.meta.get("redirect_times", 0) >= policy.MAX_REDIRECTS:
            return self._refused(request, response, "redirects", f"more than {policy.MAX_REDIRECTS}")
        meta = {**request.meta, VERBATIM: True}
        redirected = self._build_redirect_request(request, response, url=target, meta=meta)
        return self._redirect(redirected, request, response.status)

    @staticmethod
    def _refused(request: Request, response: Response, reason: str, text: str) -> Response:
        if request.meta.get(ROBOTS_TXT):
            return response  # for robots.txt this means that there is none (RFC 9309, 2.3.1.2)
        raise PageRefusedError(reason, f"{request.url}: {text}")


def _is_long_robots_txt(request: Request) -> bool:
    """Whether only the start of a large robots.txt was received."""
    return bool(request.meta.get(ROBOTS_TXT)) and request.meta.get(ROBOTS_BYTES, 0) > robots_txt.MAX_BYTES


def _retry_after_s(response: Response) -> float | None:
    return policy.retry_after_s((response.headers.get("Retry-After") or b"").decode("latin-1"))
