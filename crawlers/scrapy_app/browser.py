"""Pages that only a browser can read: Chromium, driven by scrapy-playwright, behind our guarding proxy.

Each page is a visit of its own, without cookies or a cache of earlier ones, and without images, films and fonts. It
is bounded in time and bytes. All connections go through `GuardingProxy`, since the browser can make no others. Where
the browser ends up somewhere else than it was sent, Scrapy is told so as a redirect, and decides whether to follow.

Knows no shop; what a shop needs is in its `BrowserProfile`. scrapy-playwright and Playwright are the optional extra
``browser``, imported only where a page needs them; private methods are used, so their versions are pinned.
"""

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import DownloadFailedError, DownloadTimeoutError
from scrapy.http import Response

from crawlers.http.address_guard import ConnectMap
from crawlers.http.host_limits import BrowserProfile
from crawlers.scrapy_app.errors import PageRefusedError
from crawlers.scrapy_app.proxy import GuardingProxy, Visit

if TYPE_CHECKING:
    from playwright.async_api import CDPSession, Page
    from playwright.async_api import Request as BrowserRequest
    from playwright.async_api import Response as BrowserResponse

BROWSER = "browser"  # in Request.meta: the BrowserProfile
PAGES_AT_ONCE = 2  # a page is 100-300 MB of memory
MAX_VISIT_BYTES = 20_000_000  # of a page with all that it loads; as sent, and again decompressed
GROWTH_S = 3.0  # how long a page may take to show more after a click, or at its end
MAX_SCROLLS = 50
CLOSE_S = 5.0
UNWANTED = {"image", "media", "font", "texttrack", "manifest", "ping"}  # types of requests
REFUSALS = {  # what an error says -> reason
    "net::ERR_CERT": "certificate",
    "net::ERR_TOO_MANY_REDIRECTS": "redirects",
    "BrowserType.launch": "no_browser",
}

ARGUMENTS = (
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # names are the proxy's matter
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-quic",
    "--dns-prefetch-disable",
    "--no-pings",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--js-flags=--max-old-space-size=256",  # MB
)


def request_meta(profile: BrowserProfile) -> dict[str, Any]:
    """The meta of a `scrapy.Request` whose page a browser is to read."""
    return {BROWSER: profile}


class BrowserPages:
    """Downloads pages with a browser, which is started for the first of them.

    Args:
        crawler: Scrapy's.
        connect_map: host -> (address, port), instead of DNS.
        executable: Chromium's path.
    """

    def __init__(self, crawler: Crawler, connect_map: ConnectMap, executable: str) -> None:
        from scrapy_playwright.handler import ScrapyPlaywrightDownloadHandler

        self._max_page_bytes = crawler.settings.getint("DOWNLOAD_MAXSIZE")
        self._user_agent = crawler.settings["USER_AGENT"]
        self._executable = executable
        self._proxy = GuardingProxy(connect_map)
        self._handler = ScrapyPlaywrightDownloadHandler(crawler)
        self._handler.abort_request = _unwanted
        self._places = asyncio.Semaphore(PAGES_AT_ONCE)
        self._starting = asyncio.Lock()
        self._started = False

    async def close(self) -> None:
        """End the browser."""
        if self._started:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._handler.close()
            await self._proxy.close()

    async def download_request(self, request: Request) -> Response:
        """The page at ``request`` as its scripts have made it.

        Raises:
            PageRefusedError: by the guard, or it is too large.
            scrapy.exceptions.DownloadTimeoutError: or another of Scrapy's, which it may retry.
        """
        from playwright.async_api import Error

        async with self._places:
            await self._start()
            deadline = asyncio.timeout(request.meta["download_timeout"])

            def end_now() -> None:
                with suppress(RuntimeError):  # it is over anyway
                    deadline.reschedule(0)

            with self._proxy.visit(MAX_VISIT_BYTES, end_now) as (visit, user, password):
                proxy = {"server": self._proxy.address, "username": user, "password": password}
                try:
                    async with deadline:
                        response = await self._visit(request, visit, proxy)
                except (TimeoutError, Error) as error:
                    raise _scrapy_error(error, request, visit) from error
                finally:
                    await self._leave(user)
                if fault := _fault(request, visit):
                    raise PageRefusedError(fault, request.url)
                return response

    async def _start(self) -> None:
        async with self._starting:
            if self._started:
                return
            await self._proxy.start()
            self._handler.config.launch_options = {
                "executable_path": self._executable,
                "args": ARGUMENTS,
                "proxy": {"server": self._proxy.address},  # shows no secret: what belongs to no visit gets nowhere
                "chromium_sandbox": os.geteuid() != 0,  # root has none
                "handle_sigint": False,  # it ends with us
                "handle_sigterm": False,
                "handle_sighup": False,
            }
            await self._handler._launch()
            self._started = True

    async def _visit(self, request: Request, visit: Visit, proxy: dict[str, str]) -> Response:
        from playwright.async_api import Error
        from scrapy_playwright.page import PageMethod

        profile: BrowserProfile = request.meta[BROWSER]
        sessions: list[CDPSession] = []
        answers: list[BrowserResponse] = []  # the page, and the redirects to it

        def came(answer: "BrowserResponse") -> None:
            if answer.request.is_navigation_request() and answer.frame.parent_frame is None:
                answers.append(answer)

        def is_error() -> bool:
            return bool(answers) and answers[-1].status >= 400

        async def opened(page: "Page", _: Request) -> None:
            page.on("popup", _close)
            page.on("response", came)
            sessions.append(await page.context.new_cdp_session(page))
            sessions[0].on("Network.dataReceived", lambda event: visit.received(event["dataLength"]))
            await sessions[0].send("Network.enable")

        async def ready(page: "Page") -> None:
            if not is_error():  # on whose page nothing that is waited for will come
                await _show_all(page, profile)
            size = await _frozen_size(sessions[0])
            if size > self._max_page_bytes:
                raise PageRefusedError("too_large", f"{request.url}: {size} characters")

        inner = Request(
            request.url,
            headers=request.headers,
            meta={
                "playwright": True,
                "playwright_context": proxy["username"],
                "playwright_context_kwargs": {
                    "proxy": proxy,
                    "user_agent": self._user_agent,
                    "accept_downloads": False,
                    "service_workers": "block",
                },
                "playwright_page_init_callback": opened,
                "playwright_page_methods": [PageMethod(ready)],
                "playwright_page_goto_kwargs": {"wait_until": "domcontentloaded"},
            },
        )
        try:
            response: Response = await self._handler.download_request(inner)
        except Error:
            if not is_error():
                raise
            # It has no body, for which Chromium shows a page of its own.
            return Response(request.url, status=answers[-1].status, headers=answers[-1].headers)
        followed = len(inner.meta.get("redirect_urls", ()))
        if followed or urlsplit(response.url).netloc != urlsplit(request.url).netloc:
            # The browser has followed them at once; `policy.MAX_REDIRECTS` counts each.
            request.meta["redirect_times"] = request.meta.get("redirect_times", 0) + max(0, followed - 1)
            return Response(request.url, status=302, headers={"Location": response.url})
        response.request = request
        return response

    async def _leave(self, name: str) -> None:
        """Close a visit's page, whatever its scripts are doing."""
        wrapper = self._handler.context_wrappers.get(name)
        if wrapper is not None:
            with suppress(Exception):  # it may be closed already, or hang: then the browser ends it
                async with asyncio.timeout(CLOSE_S):
                    await wrapper.context.close()


async def _show_all(page: "Page", profile: BrowserProfile) -> None:
    """Have the page show what it shows to people: wait, press "load more", go to its end."""
    if profile.wait_for:
        await page.wait_for_selector(profile.wait_for, state="attached")
    more = profile.load_more or ""
    for _ in range(profile.max_clicks if more else 0):
        button = page.locator(more).first
        if not await button.is_visible() or not await button.is_enabled():
            break
        if not await _grows(page, button.click()):
            break
    for _ in range(MAX_SCROLLS if profile.scroll else 0):
        if not await _grows(page, page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")):
            break


async def _grows(page: "Page", action: Any) -> bool:
    """Whether the page has more elements some time after ``action``."""
    from playwright.async_api import TimeoutError as NoGrowthError

    before = await page.locator("*").count()
    await action
    try:
        await page.wait_for_function(
            "before => document.getElementsByTagName('*').length > before", arg=before, timeout=GROWTH_S * 1000
        )
    except NoGrowthError:
        return False
    return True


async def _frozen_size(session: "CDPSession") -> int:
    """Stop the page's scripts; the characters of the page, counted where they cannot have tampered with the count."""
    await session.send("Emulation.setScriptExecutionDisabled", {"value": True})
    frame = (await session.send("Page.getFrameTree"))["frameTree"]["frame"]["id"]
    world = await session.send("Page.createIsolatedWorld", {"frameId": frame})
    counted = await session.send(
        "Runtime.evaluate",
        {"expression": "document.documentElement.outerHTML.length", "contextId": world["executionContextId"]},
    )
    return int(counted["result"].get("value", 0))


async def _close(page: "Page") -> None:
    await page.close()


def _unwanted(request: "BrowserRequest") -> bool:
    """Whether a page can be read without this."""
    in_frame = request.is_navigation_request() and request.frame.parent_frame is not None
    return in_frame or request.resource_type in UNWANTED


def _fault(request: Request, visit: Visit) -> str | None:
    return "blocked" if urlsplit(request.url).hostname in visit.blocked else visit.fault


def _scrapy_error(error: Exception, request: Request, visit: Visit) -> Exception:
    text = f"{request.url}: {str(error) or 'not ready in time'}"
    if fault := _fault(request, visit) or next((REFUSALS[said] for said in REFUSALS if said in text), None):
        return PageRefusedError(fault, text)
    return (DownloadTimeoutError if "Timeout" in type(error).__name__ else DownloadFailedError)(text)
