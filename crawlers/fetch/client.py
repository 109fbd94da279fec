"""One attempt at one picture: a request, its redirects, a bounded body, and the check that it is a picture.

Knows nothing of retries, of other downloads or of files.
"""

import asyncio
import hashlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from atlas_model.errors import PictureError
from atlas_model.images import PictureInfo, probe
from crawlers.connect import BlockedAddressError, ConnectMap, is_blocked_literal
from crawlers.connect_aiohttp import MappedResolver

MAX_REDIRECTS = 10
REDIRECTS = {301, 302, 303, 307, 308}
PASSING_STATUSES = {408, 425, 429}  # and all of 5xx: the same request may succeed later
LATER_MAX_S = 60.0  # a server's Retry-After is honoured up to this


@dataclass(frozen=True)
class Outcome:
    """What became of a URL.

    ``status`` is ``ok``; ``http_<code>``; ``bad_url`` (not http or https, or no URL at all); ``bad_redirect`` (a
    redirect to such a one, or too many); ``blocked`` (the host has no public address); ``timeout``;
    ``unreachable`` (no usable answer); ``truncated``, ``too_large``, ``empty``, ``not_an_image``,
    ``too_many_pixels`` (what came is no picture that we take); or ``given_up`` (see `download`).
    """

    status: str
    lasting: bool  # asking again would give the same
    retry_after_s: float = 0.0
    data: bytes = b""
    image_id: str | None = None  # sha256 of data, hex; this and what is below: only where status is ok
    info: PictureInfo | None = None


class _RefusedError(Exception):
    """The attempt ends here, with this outcome."""

    def __init__(self, status: str, *, lasting: bool = True, retry_after_s: float = 0.0) -> None:
        super().__init__(status)
        self.outcome = Outcome(status, lasting, retry_after_s)


class Client(AbstractAsyncContextManager["Client"]):
    """An HTTP client for pictures: no cookies, no proxies, public addresses only.

    Args:
        connect_map: hosts that are looked up there instead of by DNS.
        user_agent: who asks.
        timeout_s: whole deadline of one attempt, from name lookup to last byte, redirects included.
        max_bytes: a larger body is refused as soon as that is known.
        max_pixels: a larger picture is refused by its header.
    """

    def __init__(
        self, *, connect_map: ConnectMap, user_agent: str, timeout_s: float, max_bytes: int, max_pixels: int
    ) -> None:
        self._connect_map, self._user_agent, self._timeout_s = connect_map, user_agent, timeout_s
        self._max_bytes, self._max_pixels = max_bytes, max_pixels

    async def __aenter__(self) -> "Client":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=MappedResolver(self._connect_map)),  # `download` limits
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, url: str) -> Outcome:
        """Ask for ``url`` once."""
        try:
            async with asyncio.timeout(self._timeout_s):
                data = await self._download(url)
        except _RefusedError as refusal:
            return refusal.outcome
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _outcome_of(error)
        return await asyncio.to_thread(_inspect, data, self._max_pixels)

    async def _download(self, url: str) -> bytes:
        target = self._checked(url, None, "bad_url")
        for _ in range(MAX_REDIRECTS + 1):
            async with self._session.get(target, allow_redirects=False) as response:
                if response.status in REDIRECTS and "Location" in response.headers:
                    target = self._checked(response.headers["Location"], target, "bad_redirect")
                    continue
                if response.status != 200:
                    passing = response.status in PASSING_STATUSES or response.status >= 500
                    raise _RefusedError(
                        f"http_{response.status}",
                        lasting=not passing,
                        retry_after_s=_seconds(response.headers.get("Retry-After", "")),
                    )
                return await self._body(response)
        raise _RefusedError("bad_redirect")

    def _checked(self, url: str, base: URL | None, status: str) -> URL:
        try:
            target = URL(url.strip()) if base is None else base.join(URL(url.strip()))
            usable = target.scheme in ("http", "https") and target.host
        except ValueError:
            usable = False
        if not usable:
            raise _RefusedError(status)
        if is_blocked_literal(target.host or "", self._connect_map):
            raise _RefusedError("blocked")
        return target

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if (response.content_length or 0) > self._max_bytes:
            raise _RefusedError("too_large")
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > self._max_bytes:
                raise _RefusedError("too_large")
        return bytes(data)


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(getattr(error, "os_error", None), BlockedAddressError):
        return Outcome("blocked", lasting=True)
    if isinstance(error, TimeoutError):
        return Outcome("timeout", lasting=False)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Outcome("truncated", lasting=False)
    if isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientResponseError)):
        return Outcome("unreachable", lasting=False)
    if isinstance(error, ValueError):  # of URLs and of host names that cannot be encoded
        return Outcome("bad_url", lasting=True)
    return Outcome("unreachable", lasting=False)


def _inspect(data: bytes, max_pixels: int) -> Outcome:
    try:
        info = probe(data, max_pixels)
    except PictureError as error:
        return Outcome(error.status, lasting=True)
    return Outcome("ok", lasting=True, data=data, image_id=hashlib.sha256(data).hexdigest(), info=info)


def _seconds(retry_after: str) -> float:
    """The header's delay; its other form, a date, is rare and counts as none: the usual delay is taken then."""
    return min(float(retry_after), LATER_MAX_S) if retry_after.isascii() and retry_after.isdigit() else 0.0
