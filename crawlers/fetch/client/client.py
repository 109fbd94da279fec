"""HTTP client that makes one attempt at one image: robots.txt, request, redirects, body, validation."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
from yarl import URL

from crawlers.fetch.blobs import DISK_FAULTS
from crawlers.fetch.client.body import Body, decoded_chunks
from crawlers.fetch.client.outcome import FetchOutcome, FetchRefusedError, ImageRequest
from crawlers.fetch.client.robots import Robots
from crawlers.http import policy, urls
from crawlers.http.address_guard import ConnectMap
from crawlers.http.robots_tag import forbidden_directive
from crawlers.http.robots_txt import MAX_BYTES as MAX_ROBOTS_BYTES
from crawlers.http.session import exact_url, open_session, raw_values, refusal_reason
from crawlers.http.user_agent import robot_name

# Errors after which robots.txt is unknown; it may forbid the URL.
UNREADABLE = {"bad_encoding", "bad_http", "decompression_bomb", "headers_too_large"}
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
    ) -> None:
        self._take, self._folder = take, folder
        self._connect_map, self._user_agent = connect_map, user_agent
        self._robot = robot_name(user_agent)
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        self._robots = Robots(self._get_robots, self._robot) if obey_robots else None
        self._robots_tags = robots_tags
        self._slots = asyncio.Semaphore(concurrency)
        self._checkers = ThreadPoolExecutor(CHECKERS, "check")

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
            if self._robots is not None:
                await self._robots.wait_for_turn(URL(target, encoded=True))
        except FetchRefusedError as refused:
            return refused.outcome
        async with self._slots:  # held while the image is checked too, which bounds the bodies in memory
            with Body(self._folder) as body:
                answer = await self._answer(target, request, body)
                if answer.status != "ok" or answer.unchanged:
                    return answer
                taken = await asyncio.get_running_loop().run_in_executor(
                    self._checkers, lambda: self._take(body.read())
                )
        return answer._replace(image_id=taken.image_id) if taken.status == "ok" else taken

    async def _answer(self, target: str, request: ImageRequest, body: Body) -> FetchOutcome:
        """Like `_download`, with exceptions converted to outcomes."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._download(target, request, body)
        except FetchRefusedError as refused:
            return refused.outcome
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _outcome_of(error)

    async def _download(self, target: str, request: ImageRequest, body: Body) -> FetchOutcome:
        """Download the image into ``body``; returns the outcome for a valid image, without a body after a 304."""
        async with self._follow_redirects(target, request) as (response, final_url):
            if response.status == 304 and _validators(request, final_url):
                return FetchOutcome("ok", True, None, *request[2:], unchanged=True)
            if response.status != 200:
                raise _refused(response)
            if forbidden_directive(response.headers.getall("X-Robots-Tag", ()), self._robot, self._robots_tags):
                raise FetchRefusedError("robots_tag")
            await body.fill(response, self._max_bytes)
            etag, last_modified = (policy.validator(response.headers.get(name)) for name in ("ETag", "Last-Modified"))
            return FetchOutcome("ok", True, None, None, final_url, etag, last_modified)

    @asynccontextmanager
    async def _follow_redirects(
        self, target: str, request: ImageRequest | None
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, str | None]]:
        """The response after all redirects, and its URL if there were any; ``request`` is None for robots.txt."""
        final_url = None
        for _ in range(policy.MAX_REDIRECTS + 1):
            validators = _validators(request, final_url)
            async with self._session.get(exact_url(target), headers=validators, allow_redirects=False) as response:
                locations = raw_values(response, b"location") if response.status in policy.REDIRECT_STATUSES else []
                if not locations:
                    yield response, final_url
                    return
                target = _usable(partial(urls.redirect_target, target, locations[0]), "bad_redirect")
            final_url = target
            if self._robots is not None and request is not None:
                await self._robots.check(URL(target, encoded=True))
        raise FetchRefusedError("bad_redirect")

    async def _get_robots(self, target: URL) -> bytes | None:
        """See `robots.FetchRobots`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._download_robots(target)
        except FetchRefusedError as refused:
            _none_unless_transient(refused.outcome)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            _none_unless_transient(_outcome_of(error))
        return None

    async def _download_robots(self, target: URL) -> bytes:
        async with self._follow_redirects(str(target), None) as (response, _):
            if response.status != 200:
                raise _refused(response)
            content = bytearray()
            async for chunk in decoded_chunks(response):
                content += chunk
                if len(content) >= MAX_ROBOTS_BYTES:
                    break
            return bytes(content)


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
    transient = policy.is_transient_status(response.status)
    retry_after_s = policy.retry_after_s(response.headers.get("Retry-After")) if transient else None
    return FetchRefusedError(f"http_{response.status}", retry_after_s=retry_after_s)


def _none_unless_transient(outcome: FetchOutcome) -> None:
    """Return if there is no usable robots.txt; raise if that is unknown."""
    if not outcome.permanent or outcome.status in UNREADABLE:
        raise FetchRefusedError("robots_unreachable", retry_after_s=outcome.retry_after_s)


def _outcome_of(error: Exception) -> FetchOutcome:
    if isinstance(error, OSError) and error.errno in DISK_FAULTS:
        raise error
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
