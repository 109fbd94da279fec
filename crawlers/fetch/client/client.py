"""One attempt at one image: robots.txt, a request, its redirects, a bounded body, and what is made of its bytes.

Knows nothing of retries, of other downloads or of where images are kept.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
from yarl import URL

from crawlers.fetch.blobs import DISK_FAULTS
from crawlers.fetch.client.body import Body, decoded
from crawlers.fetch.client.outcome import FetchOutcome, FetchRefusedError, ImageRequest
from crawlers.fetch.client.robots import Robots
from crawlers.http import policy, urls
from crawlers.http.address_guard import ConnectMap
from crawlers.http.robots_tag import forbidden
from crawlers.http.robots_txt import MAX_BYTES as MAX_ROBOTS_BYTES
from crawlers.http.session import asking_for, open_session, raw_values, refusal
from crawlers.http.user_agent import robot_name

# A robots.txt that may forbid us all the same.
UNREADABLE = {"bad_encoding", "bad_http", "decompression_bomb", "headers_too_large"}
CHECKERS = 2  # threads; more of them would not decode more large images at once (see `check`)

Take = Callable[[bytes], FetchOutcome]
"""What is made of an image's bytes; called in a worker thread."""


class Client(AbstractAsyncContextManager["Client"]):
    """An HTTP client for images: no cookies, no passwords, no proxies, public addresses only.

    Args:
        take: decides about the bytes.
        folder: for bodies too large for memory, while they come.
        connect_map: hosts that are looked up there instead of by DNS.
        user_agent: who asks.
        concurrency: downloads at once.
        timeout_s: whole deadline of one attempt, from name lookup to last byte, redirects included.
        max_bytes: a larger body is refused as soon as that is known.
        obey_robots: whether to ask for robots.txt.
        robots_tags: directives of X-Robots-Tag that keep us out.
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
        deadlines = aiohttp.ClientTimeout(total=None)  # ours is one for all redirects
        self._session = open_session(self._connect_map, headers=headers, timeout=deadlines)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        self._checkers.shutdown(cancel_futures=True)

    async def get(self, request: ImageRequest) -> FetchOutcome:
        """Ask for it once; with the validators of an earlier answer, if there are any.

        Raises:
            OSError: there is no room on the disk.
        """
        try:
            target = _usable(lambda: urls.sent(request.url), "bad_url")
            if self._robots is not None:
                await self._robots.wait_for_turn(URL(target, encoded=True))
        except FetchRefusedError as refused:
            return refused.outcome
        async with self._slots:  # also while the image is checked: it bounds the bodies in memory
            with Body(self._folder) as body:
                answer = await self._answer(target, request, body)
                if answer.status != "ok" or answer.unchanged:
                    return answer
                taken = await asyncio.get_running_loop().run_in_executor(
                    self._checkers, lambda: self._take(body.read())
                )
        return answer._replace(image_id=taken.image_id) if taken.status == "ok" else taken

    async def _answer(self, target: str, request: ImageRequest, body: Body) -> FetchOutcome:
        """As `_download`, whatever goes wrong."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._download(target, request, body)
        except FetchRefusedError as refused:
            return refused.outcome
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _outcome_of(error)

    async def _download(self, target: str, request: ImageRequest, body: Body) -> FetchOutcome:
        """The body, and the outcome if it is an image; without a body if it is the one that we have."""
        async with self._asking(target, request) as (response, final_url):
            if response.status == 304 and _validators(request, final_url):
                return FetchOutcome("ok", True, None, *request[2:], unchanged=True)
            if response.status != 200:
                raise _refused(response)
            if forbidden(response.headers.getall("X-Robots-Tag", ()), self._robot, self._robots_tags):
                raise FetchRefusedError("robots_tag")
            await body.fill(response, self._max_bytes)
            etag, last_modified = (policy.validator(response.headers.get(name)) for name in ("ETag", "Last-Modified"))
            return FetchOutcome("ok", True, None, None, final_url, etag, last_modified)

    @asynccontextmanager
    async def _asking(
        self, target: str, request: ImageRequest | None
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, str | None]]:
        """The answer behind all redirects, and where they led; for robots.txt itself ``request`` is None."""
        final_url = None
        for _ in range(policy.MAX_REDIRECTS + 1):
            validators = _validators(request, final_url)
            async with self._session.get(asking_for(target), headers=validators, allow_redirects=False) as response:
                locations = raw_values(response, b"location") if response.status in policy.REDIRECT_STATUSES else []
                if not locations:
                    yield response, final_url
                    return
                target = _usable(partial(urls.location, target, locations[0]), "bad_redirect")
            final_url = target
            if self._robots is not None and request is not None:
                await self._robots.check(URL(target, encoded=True))
        raise FetchRefusedError("bad_redirect")

    async def _get_robots(self, target: URL) -> bytes | None:
        """As `robots.AskFor` says."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._download_robots(target)
        except FetchRefusedError as refused:
            _none_unless_transient(refused.outcome)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            _none_unless_transient(_outcome_of(error))
        return None

    async def _download_robots(self, target: URL) -> bytes:
        async with self._asking(str(target), None) as (response, _):
            if response.status != 200:
                raise _refused(response)
            content = bytearray()
            async for chunk in decoded(response):
                content += chunk
                if len(content) >= MAX_ROBOTS_BYTES:
                    break
            return bytes(content)


def _usable(url: Callable[[], str], status: str) -> str:
    """``url``; refused with ``status`` where it cannot be asked for."""
    try:
        return url()
    except ValueError:
        raise FetchRefusedError(status) from None


def _validators(request: ImageRequest | None, final_url: str | None) -> dict[str, str]:
    """The headers that ask whether the image at ``final_url`` is still the one that came from there."""
    if request is None or request.final_url != final_url:
        return {}
    named = {"If-None-Match": request.etag, "If-Modified-Since": request.last_modified}
    return {name: value for name, value in named.items() if value is not None}


def _refused(response: aiohttp.ClientResponse) -> FetchRefusedError:
    transient = policy.is_transient_status(response.status)
    retry_after_s = policy.retry_after_s(response.headers.get("Retry-After")) if transient else None
    return FetchRefusedError(f"http_{response.status}", retry_after_s=retry_after_s)


def _none_unless_transient(outcome: FetchOutcome) -> None:
    """There is no robots.txt (or none of use); or, with an error, that is not known, or not what it says."""
    if not outcome.permanent or outcome.status in UNREADABLE:
        raise FetchRefusedError("robots_unreachable", retry_after_s=outcome.retry_after_s)


def _outcome_of(error: Exception) -> FetchOutcome:
    if isinstance(error, OSError) and error.errno in DISK_FAULTS:
        raise error
    if refused := refusal(error):
        return FetchOutcome.failed(refused)
    if isinstance(error, TimeoutError):
        return FetchOutcome.failed("timeout")
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchOutcome.failed("truncated")
    if isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientResponseError)):
        return FetchOutcome.failed("unreachable")
    if isinstance(error, ValueError):  # of URLs and of host names that cannot be encoded
        return FetchOutcome.failed("bad_url")
    return FetchOutcome.failed("unreachable")
