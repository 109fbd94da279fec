"""The aiohttp session that pages and images are fetched with.

It rejects non-public addresses, invalid certificates, oversized headers and invalid HTTP (`heads`). It has no cookies
and no proxies, and it does not decompress. The caller handles redirects, the size of bodies, and timeouts.
"""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import LineTooLong
from aiohttp.resolver import DefaultResolver
from yarl import URL

from crawlers.http.address_guard import BlockedAddressError, ConnectMap, is_blocked_literal, is_public
from crawlers.http.heads import BadHttpError, LenientHandler, use_lenient_parser

MAX_HEADER_BYTES = 16_384  # one header, or the status line
MAX_HEADERS = 128
MAX_HEADERS_BYTES = 262_144  # all headers; browsers have the same limit

FRESH_S = 60.0  # for which a host gets new connections, after it closed one that was to be reused


class HeadersTooLargeError(aiohttp.ClientError):
    """The headers of a response exceed the limits of this module."""


def open_session(
    connect_map: ConnectMap,
    *,
    headers: Mapping[str, str] | None = None,
    limit: int = 0,
    limit_per_host: int = 0,
    **options: Any,
) -> aiohttp.ClientSession:
    """Open a guarded session; call it, and close the session, in a running event loop.

    Args:
        connect_map: host -> (address, port), instead of DNS; exempt from the address guard.
        headers: headers of every request.
        limit: concurrent connections; 0: no limit.
        limit_per_host: concurrent connections per host; 0: no limit.
        options: further options of `aiohttp.ClientSession`; a ``request_class`` must be a subclass of `ExactRequest`, a
            ``response_class`` one of `GuardedResponse`.
    """
    connector = GuardedConnector(connect_map, limit=limit, limit_per_host=limit_per_host)
    return aiohttp.ClientSession(
        connector=connector,
        middlewares=(connector.limit_repeats,),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        trust_env=False,  # with a proxy, the guard would check the proxy's address only
        auto_decompress=False,  # `content` decompresses, with a limit
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
        **{"request_class": ExactRequest, "response_class": GuardedResponse, **options},
    )


_requested: ContextVar[str] = ContextVar("requested", default="")  # URL of this task's next request


def exact_url(url: str) -> URL:
    """``url``, a result of `urls.request_url`, for the next request of this task; it is sent without changes."""
    _requested.set(url)
    return URL(url, encoded=True)


class ExactRequest(aiohttp.ClientRequest):
    """A request that keeps a trailing "?" of its URL, which yarl drops."""

    on_reused_connection = False

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Called by aiohttp."""
        self.on_reused_connection = isinstance(conn.protocol, LenientHandler) and conn.protocol.requests > 1
        if _requested.get() == f"{self.url}?":
            self.url: Any = _BareQuery(self.url)
        return await super().send(conn)


class _BareQuery:
    """A URL with an empty query."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self.raw_path_qs = f"{url.raw_path}?"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._url, name)


def refusal_reason(error: BaseException | None) -> str | None:
    """The permanent reason behind ``error``: blocked, certificate, headers_too_large or bad_http; else None."""
    for cause in _causes(error):
        if isinstance(cause, BlockedAddressError):
            return "blocked"
        if isinstance(cause, aiohttp.ClientConnectorCertificateError):
            return "certificate"
        if isinstance(cause, HeadersTooLargeError):
            return "headers_too_large"
        if isinstance(cause, BadHttpError):
            return "bad_http"
    return None


class GuardedConnector(aiohttp.TCPConnector):
    """Connects only to public addresses and to those of the connect map, without a second lookup after the check.

    Args:
        connect_map: host -> (address, port).
        options: of `aiohttp.TCPConnector`.
    """

    def __init__(self, connect_map: ConnectMap, **options: Any) -> None:
        self._connect_map = connect_map
        self._fresh_until: dict[str | None, float] = {}  # host -> time.monotonic() until which it gets new connections
        super().__init__(resolver=MappedResolver(connect_map), **options)
        use_lenient_parser(self)

    async def connect(self, req: aiohttp.ClientRequest, *details: Any, **more: Any) -> aiohttp.connector.Connection:
        """Called by aiohttp; checks IP addresses in URLs, which aiohttp does not pass to the resolver.

        Raises:
            aiohttp.ClientConnectorError: caused by a `BlockedAddressError`.
        """
        host = req.url.host or ""
        if is_blocked_literal(host, self._connect_map):
            fault = BlockedAddressError(f"{host}: expected a public address")
            raise aiohttp.ClientConnectorError(req.connection_key, fault)
        return await super().connect(req, *details, **more)

    async def limit_repeats(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Middleware of aiohttp, which repeats a request at once if its connection is lost before the response.

        That is beyond the attempts and pauses of `policy`, and of use only if the server had closed an idle connection
        (RFC 9112, 9.3.1). So it happens for a reused connection only, after which the host gets new ones for a while.

        Raises:
            aiohttp.ClientConnectionError: the connection was lost.
        """
        try:
            return await send(request)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            if not (isinstance(request, ExactRequest) and request.on_reused_connection):
                raise aiohttp.ClientConnectionError(f"{request.url}: connection lost: {error}") from error
            self._fresh_until[request.url.host] = time.monotonic() + FRESH_S
            raise

    async def _get(
        self, key: "aiohttp.client_reqrep.ConnectionKey", traces: list["aiohttp.tracing.Trace"]
    ) -> aiohttp.connector.Connection | None:
        if time.monotonic() < self._fresh_until.get(key.host, 0.0):
            return None
        self._fresh_until.pop(key.host, None)
        return await super()._get(key, traces)

    async def _resolve_host(
        self, host: str, port: int, traces: Sequence["aiohttp.tracing.Trace"] | None = None
    ) -> list[ResolveResult]:
        # aiohttp does not pass an IP address in a URL to the resolver and has no public hook for it; without this, it
        # would connect to a mapped address at the URL's own port.
        if host in self._connect_map:
            return [_resolved(host, *self._connect_map[host])]
        return await super()._resolve_host(host, port, traces)


class MappedResolver(AbstractResolver):
    """Resolves mapped hosts from the map and others by DNS, public addresses only; the result includes the port.

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
            BlockedAddressError: the host has no public address.
            OSError: the name cannot be resolved.
        """
        if host in self._connect_map:
            return [_resolved(host, *self._connect_map[host])]
        found = await self._dns.resolve(host, port, family)
        public = [answer for answer in found if is_public(answer["host"])]
        if not public:
            raise BlockedAddressError(f"{host}: expected a public address, got {found[0]['host']}")
        return public

    async def close(self) -> None:
        """Close the DNS resolver."""
        await self._dns.close()


class GuardedResponse(aiohttp.ClientResponse):
    """A response whose total header size is bounded too; aiohttp bounds each header and their number.

    Use `raw_headers` for exact bytes; in `headers` aiohttp replaces bytes that are not UTF-8.
    """

    _handler: LenientHandler | None = None  # of the connection, also after its release

    @property
    def end_is_uncertain(self) -> bool:
        """Whether the body, once read, may be truncated: no header states its length, or more than that came."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return False
        return "Content-Length" not in self.headers or self.has_surplus

    @property
    def has_surplus(self) -> bool:
        """Whether more came than the stated length."""
        return self._handler is not None and self._handler.has_surplus

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Called by aiohttp.

        Raises:
            HeadersTooLargeError: the headers exceed the limits of this module.
            BadHttpError: the response is not valid HTTP.
        """
        self._handler = connection.protocol if isinstance(connection.protocol, LenientHandler) else None
        try:
            await super().start(connection)
        except aiohttp.ClientResponseError as error:
            if any(isinstance(cause, LineTooLong) or "Too many headers" in str(cause) for cause in _causes(error)):
                raise HeadersTooLargeError(str(error)) from error
            raise BadHttpError(f"{self.url}: the server's response is not valid HTTP: {error.message}") from error
        if sum(len(name) + len(value) for name, value in self.raw_headers) > MAX_HEADERS_BYTES:
            raise HeadersTooLargeError(f"{self.url}: expected at most {MAX_HEADERS_BYTES} bytes of headers")
        return self


def raw_values(response: aiohttp.ClientResponse, name: bytes) -> list[bytes]:
    """The unchanged values of all headers ``name`` (in lower case)."""
    return [value for key, value in response.raw_headers if key.lower() == name]


def encodings(response: aiohttp.ClientResponse) -> list[str]:
    """The values of the Content-Encoding headers."""
    return [value.decode("latin-1") for value in raw_values(response, b"content-encoding")]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from filter(None, [getattr(error, "os_error", None)])
        error = error.__cause__


def _resolved(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)
