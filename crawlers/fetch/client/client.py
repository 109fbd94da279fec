"""HTTP client that makes one attempt at one image: robots.txt, request, redirects, body, validation."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
from yarl import URL

from atlas_model.core.machine import check_machine
from atlas_model.core.threads import ThreadPool
from crawlers.fetch.blobs import DISK_FAULTS
from crawlers.fetch.client.body import Body, read_robots_txt
from crawlers.fetch.client.outcome import FetchOutcome, FetchRefusedError, ImageRequest
from crawlers.fetch.client.robots import MAX_ORIGINS, Robots
from crawlers.http import policy, urls
from crawlers.http.address_guard import ConnectMap
from crawlers.http.endings import looks_truncated
from crawlers.http.host_limits import Pace
from crawlers.http.robots_tag import forbidden_directive
from crawlers.http.session import GuardedResponse, exact_url, open_session, raw_values, refusal_reason
from crawlers.http.user_agent import robot_name

CUT = {"not_an_image", "truncated", "empty"}  # what a truncated image may be taken for
CHECKERS = 2  # threads that validate images; large images are decoded one at a time anyway (see `check`)

Take = Callable[[bytes], FetchOutcome]
"""Validates and stores an image's bytes; called in a worker thread."""


class Client(AbstractAsyncContextManager["Client"]):
    """HTTP client for images: no cookies, no passwords, no proxies, public addresses only.

    Args:
        take: validates and stores the bytes.
        folder: folder for temporary files of large bodies.
        connect_map: host -> (address, port), instead of DNS.
        user_agent: value of the User-Agent header.
        concurrency: concurrent downloads.
        timeout_s: timeout (s) of one attempt, from the DNS lookup to the last byte, including redirects.
        max_bytes: limit of a body's size; a larger one is aborted.
        obey_robots: whether to fetch and obey robots.txt.
        robots_tags: directives of X-Robots-Tag that forbid an image.
        patience_s: longest wait (s) for the turn of a host, by its Crawl-delay and Retry-After; beyond it the status
            is given_up.
    """

    def __init__(
        self,
        take: Take,
        folder: Path,
        *,
        connect_map: ConnectMap,
        user_agent: str,
        concurrency: int,
        timeout_s: float,
        max_bytes: int,
        obey_robots: bool,
        robots_tags: Collection[str],
        patience_s: float,
    ) -> None:
        self._paces: dict[str, Pace] = {}  # by host, oldest first
        self._patience_s = patience_s
        self._take, self._folder = take, folder
        self._connect_map, self._user_agent = connect_map, user_agent
        self._robot = robot_name(user_agent)
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        self._robots = Robots(self._get_robots, self._robot) if obey_robots else None
        self._robots_tags = robots_tags
        self._slots = asyncio.Semaphore(concurrency)
        self._checkers = ThreadPool(CHECKERS, "check")

    async def __aenter__(self) -> "Client":
        headers = {"User-Agent": self._user_agent, "Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"}
        deadlines = aiohttp.ClientTimeout(total=None)  # `timeout_s` covers all redirects
        self._session = open_session(self._connect_map, headers=headers, timeout=deadlines)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        self._checkers.shutdown(cancel_futures=True)

    async def get(self, request: ImageRequest) -> FetchOutcome:
        """Make one attempt, as a conditional request if ``request`` has validators.

        Raises:
            OSError: the disk is full.
        """
        try:
            target = _usable(lambda: urls.request_url(request.url), "bad_url")
            url = URL(target, encoded=True)
            delay_s = 0.0 if self._robots is None else await self._robots.check(url)
            while True:
                async with self._slots:  # held while the image is checked too, which bounds the bodies in memory
                    wait_s = self._take_turn(url, delay_s)
                    if not wait_s:
                        return await self._attempt(target, request)
                await asyncio.sleep(wait_s)
        except FetchRefusedError as refused:
            return refused.outcome

    def _pace(self, target: URL) -> Pace:
        host = target.raw_host or ""
        if host not in self._paces:
            if len(self._paces) >= MAX_ORIGINS:
                del self._paces[next(iter(self._paces))]
            self._paces[host] = Pace()
        return self._paces[host]

    def _take_turn(self, target: URL, delay_s: float) -> float:
        """See `Pace.take`, for the host of ``target``."""
        wait_s = self._pace(target).take(delay_s)
        if wait_s > self._patience_s:
            raise FetchRefusedError("given_up")
        return wait_s

    async def _attempt(self, target: str, request: ImageRequest) -> FetchOutcome:
        with Body(self._folder) as body:
            answer, end_is_uncertain = await self._answer(target, request, body)
            if answer.status != "ok" or answer.unchanged:
                return answer

            def take() -> FetchOutcome:
                data = body.read()
                if end_is_uncertain and looks_truncated(data):
                    return FetchOutcome.failed("truncated")
                taken = self._take(data)
                return FetchOutcome.failed("truncated") if end_is_uncertain and taken.status in CUT else taken

            taken = await asyncio.get_running_loop().run_in_executor(self._checkers, take)
        return answer._replace(image_id=taken.image_id) if taken.status == "ok" else taken

    async def _answer(self, target: str, request: ImageRequest, body: Body) -> tuple[FetchOutcome, bool]:
        """Like `_download`, with exceptions converted to outcomes."""
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                return await self._download(target, request, body, deadline)
        except FetchRefusedError as refused:
            return refused.outcome, False
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _outcome_of(error), False

    async def _download(
        self, target: str, request: ImageRequest, body: Body, deadline: asyncio.Timeout
    ) -> tuple[FetchOutcome, bool]:
        """Download the image into ``body``, which stays empty after a 304.

        Returns the outcome for a valid image, and whether the end of the body is uncertain.
        """
        async with self._follow_redirects(target, request, deadline) as (response, final_url):
            if response.status == 304 and _validators(request, final_url):
                return FetchOutcome("ok", True, None, *request[2:], unchanged=True), False
            if response.status != 200:
                raise _refused(response)
            if forbidden_directive(response.headers.getall("X-Robots-Tag", ()), self._robot, self._robots_tags):
                raise FetchRefusedError("robots_tag")
            await body.fill(response, self._max_bytes)
            etag, last_modified = (policy.validator(response.headers.get(name)) for name in ("ETag", "Last-Modified"))
            outcome = FetchOutcome("ok", True, None, None, final_url, etag, last_modified)
            return outcome, response.end_is_uncertain

    @asynccontextmanager
    async def _follow_redirects(
        self, target: str, request: ImageRequest | None, deadline: asyncio.Timeout
    ) -> AsyncIterator[tuple[GuardedResponse, str | None]]:
        """The response after all redirects, and its URL if there were any; ``request`` is None for robots.txt.

        The caller has taken the turn for an image's first request.
        """
        final_url = None
        for hop in range(policy.MAX_REDIRECTS + 1):
            url = URL(target, encoded=True)
            delay_s = 0.0
            if hop and self._robots is not None and request is not None:
                delay_s = await self._robots.check(url)
            while (hop or request is None) and (wait_s := self._take_turn(url, delay_s)):
                deadline.reschedule((deadline.when() or 0.0) + wait_s)
                await asyncio.sleep(wait_s)
            validators = _validators(request, final_url)
            async with self._session.get(exact_url(target), headers=validators, allow_redirects=False) as response:
                assert isinstance(response, GuardedResponse)
                locations = raw_values(response, b"location") if response.status in policy.REDIRECT_STATUSES else []
                if not locations:
                    if pause_s := _retry_after_s(response):
                        self._pace(url).postpone(min(pause_s, policy.MAX_RETRY_AFTER_S))
                    yield response, final_url
                    return
                target = _usable(partial(urls.redirect_target, target, locations[0]), "bad_redirect")
            final_url = target
        raise FetchRefusedError("bad_redirect")

    async def _get_robots(self, target: URL) -> bytes | None:
        """See `robots.FetchRobots`."""
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                return await self._download_robots(target, deadline)
        except FetchRefusedError as refused:
            _raise_unless_missing(refused.outcome)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            _raise_unless_missing(_outcome_of(error))
        return None

    async def _download_robots(self, target: URL, deadline: asyncio.Timeout) -> bytes:
        async with self._follow_redirects(str(target), None, deadline) as (response, _):
            if response.status != 200:
                raise _refused(response)
            return await read_robots_txt(response)


def _usable(url: Callable[[], str], status: str) -> str:
    """The result of ``url``; raises with ``status`` if it cannot be requested."""
    try:
        return url()
    except ValueError:
        raise FetchRefusedError(status) from None


def _validators(request: ImageRequest | None, final_url: str | None) -> dict[str, str]:
    """The headers of a conditional request, if the stored image came from ``final_url``."""
    if request is None or request.final_url != final_url:
        return {}
    named = {"If-None-Match": request.etag, "If-Modified-Since": request.last_modified}
    return {name: value for name, value in named.items() if value is not None}


def _refused(response: aiohttp.ClientResponse) -> FetchRefusedError:
    return FetchRefusedError(f"http_{response.status}", retry_after_s=_retry_after_s(response))


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    transient = policy.is_transient_status(response.status)
    return policy.retry_after_s(response.headers.get("Retry-After")) if transient else None


def _raise_unless_missing(outcome: FetchOutcome) -> None:
    """Return if the host has no robots.txt; raise if that is unknown."""
    if fault := policy.robots_fault(outcome.status):
        raise FetchRefusedError(fault, retry_after_s=outcome.retry_after_s)


def _outcome_of(error: Exception) -> FetchOutcome:
    if isinstance(error, OSError) and error.errno in DISK_FAULTS:
        raise error
    check_machine(error)
    if refused := refusal_reason(error):
        return FetchOutcome.failed(refused)
    if isinstance(error, TimeoutError):
        return FetchOutcome.failed("timeout")
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchOutcome.failed("truncated")
    if isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientResponseError)):
        return FetchOutcome.failed("unreachable")
    if isinstance(error, ValueError):  # URLs and host names that cannot be encoded
        return FetchOutcome.failed("bad_url")
    return FetchOutcome.failed("unreachable")
