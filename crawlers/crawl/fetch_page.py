"""Fetches a single page without retries, for `atlas crawl try` and for writing profiles.

The rules of a crawl apply: robots.txt, X-Robots-Tag, the address guard, checks of each redirect, bounded body size.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import aiohttp
from web_poet import HttpResponse
from yarl import URL

from atlas_model.core.errors import AtlasError, InputError, RetryError
from crawlers.fetch.client.body import decoded_chunks, read_robots_txt
from crawlers.fetch.client.outcome import FetchRefusedError
from crawlers.fetch.client.robots import Robots
from crawlers.http import content, policy, urls
from crawlers.http.address_guard import ConnectMap
from crawlers.http.endings import looks_truncated
from crawlers.http.policy import MAX_PAGE_BYTES
from crawlers.http.robots_tag import forbidden_directive, meta_values
from crawlers.http.session import GuardedResponse, exact_url, open_session, raw_values, refusal_reason
from crawlers.http.user_agent import robot_name

WHY = {
    "robots": "its robots.txt forbids it",
    "robots_tag": "its X-Robots-Tag or robots meta tag forbids it (crawl.robots_tags of params.yaml)",
    "robots_unreachable": "its robots.txt cannot be fetched, so it is unknown what is allowed; try again later",
    "no_such_host": "its host does not exist, or its name cannot be resolved",
    "unreachable": "its server cannot be connected to; try again later",
    "blocked": "its host has no public address; name it in crawl.connect of params.yaml if it is in your network",
    "bad_http": "its server's response is not valid HTTP; a retry does not help",
    "bad_encoding": "it is not compressed as its Content-Encoding says",
    "truncated": "it is truncated; try again later",
    "too_large": f"it is larger than {MAX_PAGE_BYTES:,} bytes",
    "bad_url": "expected http://... or https://...",
    "redirects": f"it has more than {policy.MAX_REDIRECTS} redirects",
    "bad_redirect": "it redirects to an invalid URL: expected http://... or https://...",
}


def fetch_page(
    url: str, *, connect_map: ConnectMap, user_agent: str, robots_tags: Collection[str], timeout_s: float
) -> HttpResponse:
    """Fetch the page at ``url``, following redirects.

    Args:
        url: http or https URL.
        connect_map: host -> (address, port), instead of DNS; exempt from the address guard.
        user_agent: value of the User-Agent header.
        robots_tags: directives of X-Robots-Tag that forbid a page.
        timeout_s: total timeout (s), including robots.txt and redirects.

    Raises:
        InputError: the page may not be requested, or the URL is invalid.
        RetryError: a transient error: the shop cannot be reached, or is overloaded.
        AtlasError: the response is not a page.
    """
    try:
        return asyncio.run(_fetch(url, connect_map, user_agent, robots_tags, timeout_s))
    except FetchRefusedError as refused:
        status = refused.outcome.status
        # A host that does not exist is more likely misspelt here than missing for a moment.
        kind: type[AtlasError] = RetryError if policy.is_transient(status) and status != "no_such_host" else InputError
        kind = AtlasError if status == "redirects" else kind
        raise kind(f"{url}: {WHY.get(status, status)}") from None
    except TimeoutError:
        raise RetryError(f"{url}: no whole answer within {timeout_s:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if (reason := refusal_reason(error)) is not None:
            detail = f" ({error})" if reason == "bad_http" else ""
            raise InputError(f"{url}: {WHY.get(reason, reason)}{detail}") from None
        raise RetryError(f"{url}: {type(error).__name__}: {str(error)!r}") from None


async def _fetch(
    url: str, connect_map: ConnectMap, user_agent: str, robots_tags: Collection[str], timeout_s: float
) -> HttpResponse:
    headers = {"User-Agent": user_agent, "Accept": "text/html,application/json;q=0.9,*/*;q=0.1"}
    headers["Accept-Encoding"] = content.ACCEPTED
    robot = robot_name(user_agent)
    async with asyncio.timeout(timeout_s), open_session(connect_map, headers=headers) as session:

        async def robots_txt(target: URL) -> bytes | None:
            try:
                return await _get_robots(session, str(target))
            except FetchRefusedError as refused:
                fault = policy.robots_fault(refused.outcome.status)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                fault = refusal_reason(error) or _unconnected(error)
                fault = policy.robots_fault(fault) if fault in policy.SUSPECT_FAULTS else fault
            if fault is not None:
                raise FetchRefusedError(fault)
            return None

        robots = Robots(robots_txt, robot)
        response = await _get(session, _checked(url), robots)
        said = [*response.headers.getall("X-Robots-Tag", []), *meta_values(response.body, robot)]
        if forbidden_directive(said, robot, robots_tags):
            raise FetchRefusedError("robots_tag")
        return response


def _unconnected(error: Exception) -> str:
    """Reason for a missing robots.txt: unknown host, unreachable server, or another error."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no_such_host"
    return "unreachable" if isinstance(error, aiohttp.ClientConnectorError) else "robots_unreachable"


async def _get(session: aiohttp.ClientSession, target: str, robots: Robots) -> HttpResponse:
    async with _follow_redirects(session, target, robots) as (answer, final_url):
        if policy.is_transient_status(answer.status):
            wait_s = policy.retry_after_s(answer.headers.get("Retry-After"))
            later = "later" if wait_s is None else f"in {wait_s:.0f} s"
            raise RetryError(f"{final_url}: HTTP {answer.status}: the shop is busy or broken; try again {later}")
        if answer.status != 200:
            raise AtlasError(f"{final_url}: expected a page, got HTTP {answer.status}")
        body = bytearray()
        async for chunk in decoded_chunks(answer):
            body += chunk
            if len(body) > MAX_PAGE_BYTES:
                raise FetchRefusedError("too_large")
        if answer.end_is_uncertain and looks_truncated(bytes(body), answer.headers.get("Content-Type", "")):
            raise FetchRefusedError("truncated")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers]
        headers = [(name, value) for name, value in headers if name.lower() != "content-encoding"]
        return HttpResponse(final_url, body=bytes(body), status=answer.status, headers=headers)


async def _get_robots(session: aiohttp.ClientSession, target: str) -> bytes:
    async with _follow_redirects(session, target, None) as (answer, _):
        if answer.status != 200:
            raise FetchRefusedError(f"http_{answer.status}")
        return await read_robots_txt(answer)


@asynccontextmanager
async def _follow_redirects(
    session: aiohttp.ClientSession, target: str, robots: Robots | None
) -> AsyncIterator[tuple[GuardedResponse, str]]:
    """The response after all redirects, and its URL."""
    for _ in range(policy.MAX_REDIRECTS + 1):
        if robots is not None:
            await robots.check(URL(target, encoded=True))
        async with session.get(exact_url(target), allow_redirects=False) as answer:
            assert isinstance(answer, GuardedResponse)
            locations = raw_values(answer, b"location") if answer.status in policy.REDIRECT_STATUSES else []
            if not locations:
                yield answer, target
                return
            target = _redirected(target, locations[0])
    raise FetchRefusedError("redirects")


def _checked(url: str) -> str:
    try:
        return urls.request_url(url)
    except ValueError:
        raise FetchRefusedError("bad_url") from None


def _redirected(target: str, location: bytes) -> str:
    try:
        return urls.redirect_target(target, location)
    except ValueError:
        raise FetchRefusedError("bad_redirect") from None
