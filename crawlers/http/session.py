"""The one guarded HTTP client: an aiohttp session for pages and images that connects only where it may.

It refuses addresses that are not public, certificates that do not fit, headers without end, and answers that are no
HTTP (`http.heads`); it has no cookies, no proxies, and decompresses nothing. Redirects, sizes of bodies and deadlines
are its users' matter. Knows nothing of what is downloaded.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import LineTooLong
from aiohttp.resolver import DefaultResolver
from yarl import URL

from crawlers.http.address_guard import BlockedAddressError, ConnectMap, is_blocked_literal, is_public
from crawlers.http.heads import BadHttpError, patient_factory

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
        options: more of `aiohttp.ClientSession`; a ``request_class`` must be an `ExactRequest`, a ``response_class`` a
            `GuardedResponse`.
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
        **{"request_class": ExactRequest, "response_class": GuardedResponse, **options},
    )


_asked: ContextVar[str] = ContextVar("asked", default="")  # of this task: the URL that it asks for next


def asking_for(url: str) -> URL:
    """``url``, which `http.urls.sent` gave, for the next request of this task: it is sent as it stands there."""
    _asked.set(url)
    return URL(url, encoded=True)


class ExactRequest(aiohttp.ClientRequest):
    """A request for a URL that may end in a bare "?", which yarl leaves out."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """As aiohttp asks for it."""
        if _asked.get() == f"{self.url}?":
            self.url: Any = _BareQuery(self.url)
        return await super().send(conn)


class _BareQuery:
    """A URL with an empty query."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self.raw_path_qs = f"{url.raw_path}?"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._url, name)


def refusal(error: BaseException | None) -> str | None:
    """``blocked``, ``certificate``, ``headers_too_large`` or ``bad_http``, if ``error`` came of that.

    Asking again is no use.
    """
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
    """Connects to public addresses and to those of the connect map; what was checked is what is connected to.

    Args:
        connect_map: host -> (address, port).
        options: of `aiohttp.TCPConnector`.
    """

    def __init__(self, connect_map: ConnectMap, **options: Any) -> None:
        self._connect_map = connect_map
        super().__init__(resolver=MappedResolver(connect_map), **options)
        patient_factory(self)

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
    """A response whose headers are bounded all together, too; aiohttp itself bounds each, and their number.

    `raw_headers` holds them as they came; the texts of `headers` are what aiohttp makes of bytes that are no UTF-8.
    """

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """As aiohttp asks for it.

        Raises:
            HeadersTooLargeError: they are more than the limits at the top of this module.
            BadHttpError: it is no answer in HTTP.
        """
        try:
            await super().start(connection)
        except aiohttp.ClientResponseError as error:
            if any(isinstance(cause, LineTooLong) or "Too many headers" in str(cause) for cause in _causes(error)):
                raise HeadersTooLargeError(str(error)) from error
            raise BadHttpError(f"{self.url}: the server's answer is no valid HTTP: {error.message}") from error
        if sum(len(name) + len(value) for name, value in self.raw_headers) > MAX_HEADERS_BYTES:
            raise HeadersTooLargeError(f"{self.url}: expected at most {MAX_HEADERS_BYTES} bytes of headers")
        return self


def raw_values(response: aiohttp.ClientResponse, name: bytes) -> list[bytes]:
    """The values of the headers called ``name`` (in lower case), as they came."""
    return [value for key, value in response.raw_headers if key.lower() == name]


def encodings(response: aiohttp.ClientResponse) -> list[str]:
    """The values of its Content-Encoding headers."""
    return [value.decode("latin-1") for value in raw_values(response, b"content-encoding")]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from filter(None, [getattr(error, "os_error", None)])
        error = error.__cause__


def _answer(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)
