"""Downloads pages that scripts render, with Chromium through scrapy-playwright and the guarding proxy.

Each page is loaded in a new browser context without cookies and cache, and without images, videos and fonts, bounded in
time and bytes. All connections go through `GuardingProxy`. A redirect to another host inside the browser is returned to
Scrapy as a redirect, so that its middlewares check it.

scrapy-playwright and Playwright are the optional extra ``browser``, imported on first use. The module uses their
private methods, so their versions are pinned.
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

BROWSER = "browser"  # key of Request.meta: the BrowserProfile
PAGES_AT_ONCE = 2  # a page takes 100-300 MB of memory
MAX_VISIT_BYTES = 20_000_000  # of a page with everything that it loads, both compressed and decompressed
GROWTH_S = 3.0  # timeout for new elements after a click or a scroll
MAX_SCROLLS = 50
CLOSE_S = 5.0
UNWANTED = {"image", "media", "font", "texttrack", "manifest", "ping"}  # types of requests
REFUSALS = {  # text in an error -> reason
    "net::ERR_CERT": "certificate",
    "net::ERR_TOO_MANY_REDIRECTS": "redirects",
    "BrowserType.launch": "no_browser",
}

ARGUMENTS = (
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # the proxy resolves names
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
    """The meta of a `scrapy.Request` that the browser downloads."""
    return {BROWSER: profile}


class BrowserPages:
    """Downloads pages with a browser, which is started on first use.

    Args:
        crawler: Scrapy's crawler.
        connect_map: host -> (address, port), instead of DNS.
        executable: path of Chromium.
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
        """Close the browser."""
        if self._started:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._handler.close()
            await self._proxy.close()

    async def download_request(self, request: Request) -> Response:
        """Download the page of ``request`` as rendered by its scripts.

        Raises:
            PageRefusedError: the address guard rejected it, or it is too large.
            scrapy.exceptions.DownloadTimeoutError: or another exception of Scrapy, which may be retried.
        """
        from playwright.async_api import Error

        async with self._places:
            await self._start()
            deadline = asyncio.timeout(request.meta["download_timeout"])

            def end_now() -> None:
                with suppress(RuntimeError):  # the timeout has ended already
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
                "proxy": {"server": self._proxy.address},  # without credentials: only visits may connect
                "chromium_sandbox": os.geteuid() != 0,  # not available to root
                "handle_sigint": False,  # the browser ends with this process
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
        answers: list[BrowserResponse] = []  # redirects and the page

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
            if not is_error():  # an error page will not show the awaited elements
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
            # Chromium shows its own error page for a response without a body.
            return Response(request.url, status=answers[-1].status, headers=answers[-1].headers)
        followed = len(inner.meta.get("redirect_urls", ()))
        if followed or urlsplit(response.url).netloc != urlsplit(request.url).netloc:
            # The browser has followed several redirects; each counts for `policy.MAX_REDIRECTS`.
            request.meta["redirect_times"] = request.meta.get("redirect_times", 0) + max(0, followed - 1)
            return Response(request.url, status=302, headers={"Location": response.url})
        response.request = request
        return response

    async def _leave(self, name: str) -> None:
        """Close a visit's browser context with a timeout."""
        wrapper = self._handler.context_wrappers.get(name)
        if wrapper is not None:
            with suppress(Exception):  # it may be closed already, or hang until the browser ends
                async with asyncio.timeout(CLOSE_S):
                    await wrapper.context.close()


async def _show_all(page: "Page", profile: BrowserProfile) -> None:
    """Load the whole page as the profile says: wait for an element, click "load more", scroll to the end."""
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
    """Whether the page gets more elements within `GROWTH_S` after ``action``."""
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
    """Stop the page's scripts, and count the page's characters in an isolated world that they cannot manipulate."""
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
    """Whether a request is unnecessary for reading the page."""
    in_frame = request.is_navigation_request() and request.frame.parent_frame is not None
    return in_frame or request.resource_type in UNWANTED


def _fault(request: Request, visit: Visit) -> str | None:
    return "blocked" if urlsplit(request.url).hostname in visit.blocked else visit.fault


def _scrapy_error(error: Exception, request: Request, visit: Visit) -> Exception:
    text = f"{request.url}: {str(error) or 'not ready in time'}"
    if fault := _fault(request, visit) or next((REFUSALS[said] for said in REFUSALS if said in text), None):
        return PageRefusedError(fault, text)
    return (DownloadTimeoutError if "Timeout" in type(error).__name__ else DownloadFailedError)(text)
