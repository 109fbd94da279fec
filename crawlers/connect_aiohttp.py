"""The one guarded HTTP client: an aiohttp session for pages and pictures that connects only where it may.

It refuses addresses that are not public, certificates that do not fit, and headers without end; it has no cookies,
no proxies, and decompresses nothing. Redirects, sizes of bodies and deadlines are its users' matter. Knows nothing
of what is downloaded.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import LineTooLong
from aiohttp.resolver import DefaultResolver

from crawlers.connect import BlockedAddressError, ConnectMap, is_blocked_literal, is_public

MAX_HEADER_BYTES = 16_384  # one header, or the status line
MAX_HEADERS = 128
MAX_HEADERS_BYTES = 262_144  # all headers; browsers stop there as well


class HeadersTooLargeError(aiohttp.ClientError):
    """A response has more headers than any honest one."""


def open_session(
    connect_map: ConnectMap,
    *,
    headers: Mapping[str, str] | None = None,
    limit: int = 0,
    limit_per_host: int = 0,
    **options: Any,
) -> aiohttp.ClientSession:
    """A guarded session; call it, and close it, in a running event loop.

    Args:
        connect_map: host -> (address, port), instead of DNS; the guard's only exemption.
        headers: of every request.
        limit: connections at once; 0: no limit.
        limit_per_host: likewise, per host.
        options: more of `aiohttp.ClientSession`; a ``response_class`` must be a `GuardedResponse`.
    """
    connector = GuardedConnector(connect_map, limit=limit, limit_per_host=limit_per_host)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        trust_env=False,  # behind a proxy the guard would see the proxy's address only
        auto_decompress=False,  # what is decompressed needs a limit, which its reader knows
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
        **{"response_class": GuardedResponse, **options},
    )


def refusal(error: BaseException | None) -> str | None:
    """``blocked``, ``certificate`` or ``headers_too_large``, if ``error`` came of that: asking again is no use."""
    for cause in _causes(error):
        if isinstance(cause, BlockedAddressError):
            return "blocked"
        if isinstance(cause, aiohttp.ClientConnectorCertificateError):
            return "certificate"
        if isinstance(cause, HeadersTooLargeError):
            return "headers_too_large"
    return None


class GuardedConnector(aiohttp.TCPConnector):
    """Connects to public addresses and to those of the connect map; what was checked is what is connected to.

    Args:
        connect_map: host -> (address, port).
        options: of `aiohttp.TCPConnector`.
    """

    def __init__(self, connect_map: ConnectMap, **options: Any) -> None:
        self._connect_map = connect_map
        super().__init__(resolver=MappedResolver(connect_map), **options)

    async def connect(self, req: aiohttp.ClientRequest, *details: Any, **more: Any) -> aiohttp.connector.Connection:
        """As aiohttp asks for each request; no resolver is asked about IP addresses in URLs, so that is done here.

        Raises:
            aiohttp.ClientConnectorError: of a `BlockedAddressError`.
        """
        host = req.url.host or ""
        if is_blocked_literal(host, self._connect_map):
            fault = BlockedAddressError(f"{host}: expected a public address")
            raise aiohttp.ClientConnectorError(req.connection_key, fault)
        return await super().connect(req, *details, **more)

    async def _resolve_host(
        self, host: str, port: int, traces: Sequence["aiohttp.tracing.Trace"] | None = None
    ) -> list[ResolveResult]:
        # aiohttp asks no resolver about an IP address in a URL, and has no public hook there: a mapped address would be
        # connected to at the URL's own port.
        if host in self._connect_map:
            return [_answer(host, *self._connect_map[host])]
        return await super()._resolve_host(host, port, traces)


class MappedResolver(AbstractResolver):
    """Mapped hosts from the map, others by DNS and only if public; aiohttp connects to the port in the answer.

    Args:
        connect_map: host -> (address, port).
    """

    def __init__(self, connect_map: ConnectMap) -> None:
        self._connect_map = connect_map
        self._dns = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of ``host``.

        Raises:
            BlockedAddressError: it has none that is public.
            OSError: the name cannot be resolved.
        """
        if host in self._connect_map:
            return [_answer(host, *self._connect_map[host])]
        found = await self._dns.resolve(host, port, family)
        public = [answer for answer in found if is_public(answer["host"])]
        if not public:
            raise BlockedAddressError(f"{host}: expected a public address, got {found[0]['host']}")
        return public

    async def close(self) -> None:
        """Let the DNS resolver go."""
        await self._dns.close()


class GuardedResponse(aiohttp.ClientResponse):
    """A response whose headers are bounded all together, too; aiohttp itself bounds each, and their number."""

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """As aiohttp asks for it.

        Raises:
            HeadersTooLargeError: they are more than the limits at the top of this module.
        """
        try:
            await super().start(connection)
        except aiohttp.ClientResponseError as error:
            if any(isinstance(cause, LineTooLong) or "Too many headers" in str(cause) for cause in _causes(error)):
                raise HeadersTooLargeError(str(error)) from error
            raise
        if sum(len(name) + len(value) for name, value in self.raw_headers) > MAX_HEADERS_BYTES:
            raise HeadersTooLargeError(f"{self.url}: expected at most {MAX_HEADERS_BYTES} bytes of headers")
        return self


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from filter(None, [getattr(error, "os_error", None)])
        error = error.__cause__


def _answer(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)
