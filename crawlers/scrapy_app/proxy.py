"""HTTP proxy on the loopback interface that applies the address guard to all connections of the browser.

Scripts of a page may make the browser connect anywhere, so the browser uses this proxy for all connections and does not
resolve names itself. The proxy accepts plain HTTP requests and CONNECT (for TLS and web sockets), resolves names like
the other clients, and counts the bytes of each visit. It requires credentials, so other processes cannot use it.
"""

import asyncio
import base64
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from crawlers.http.address_guard import BlockedAddressError, ConnectMap
from crawlers.http.session import MAX_HEADERS_BYTES, MappedResolver

CONNECT_S = 10.0  # for name lookup and connection
CHUNK = 65_536
PATH = re.compile(rb"[a-z]+://[^/?#]*([^#]*)", re.IGNORECASE)
OWN_FIELDS = {b"proxy-authorization", b"proxy-connection", b"connection", b"keep-alive"}  # hop-by-hop headers

log = logging.getLogger(__name__)


class Visit:
    """Byte limit, errors and connections of the loading of one page.

    Args:
        max_bytes: limit of received bytes.
        on_fault: called when the limit or that of the headers is exceeded.
    """

    def __init__(self, max_bytes: int, on_fault: Callable[[], object]) -> None:
        self._left, self._on_fault = max_bytes, on_fault
        self.fault: str | None = None  # too_large or headers_too_large
        self.blocked: set[str] = set()  # hosts that the address guard rejected
        self._writers: set[asyncio.StreamWriter] = set()

    def joined(self, writer: asyncio.StreamWriter) -> None:
        """Register a connection, which is closed at the end of the visit."""
        self._writers.add(writer)

    def received(self, count: int) -> None:
        """Count received bytes."""
        self._left -= count
        if self._left < 0:
            self.fail("too_large")

    def fail(self, fault: str) -> None:
        """End the visit with ``fault``."""
        if self.fault is None:
            self.fault = fault
            self.end()
            self._on_fault()

    def end(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.close()


class GuardingProxy:
    """The proxy; call `start` and `close` in the same event loop.

    Args:
        connect_map: host -> (address, port), instead of DNS; exempt from the address guard.
    """

    def __init__(self, connect_map: ConnectMap) -> None:
        self._resolver = MappedResolver(connect_map)
        self._visits: dict[bytes, Visit] = {}  # credentials -> visit
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start listening."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=MAX_HEADERS_BYTES)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"http://{host}:{port}"

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        self._server.close()
        for visit in self._visits.values():
            visit.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resolver.close()

    @contextmanager
    def visit(self, max_bytes: int, on_fault: Callable[[], object]) -> Iterator[tuple[Visit, str, str]]:
        """A `Visit` with its user and password, which are valid during the ``with`` block."""
        user, password = secrets.token_hex(8), secrets.token_hex(16)
        credentials = b"Basic " + base64.b64encode(f"{user}:{password}".encode())
        visit = self._visits[credentials] = Visit(max_bytes, on_fault)
        try:
            yield visit, user, password
        finally:
            del self._visits[credentials]
            visit.end()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection: one request, or a tunnel."""
        try:
            head = await _read_head(reader)
            visit = self._visit_of(head)
            if visit is None:
                writer.write(_answer("407 Proxy Authentication Required", 'Proxy-Authenticate: Basic realm="atlas"'))
            else:
                visit.joined(writer)
                await self._forward(head, reader, writer, visit)
            await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("connection ended: %r", error)
        finally:
            writer.close()

    def _visit_of(self, head: "_Head") -> Visit | None:
        given = head.fields.get(b"proxy-authorization", b"")
        return next((visit for known, visit in self._visits.items() if hmac.compare_digest(known, given)), None)

    async def _forward(
        self, head: "_Head", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, visit: Visit
    ) -> None:
        method, target, _ = head.start.split(b" ", 2)
        tunnel = method == b"CONNECT"
        parts = urlsplit(("//" if tunnel else "") + target.decode("ascii"))
        if not parts.hostname or not (tunnel or parts.scheme == "http"):
            writer.write(_answer("400 Bad Request"))
            return
        try:
            async with asyncio.timeout(CONNECT_S):
                far_reader, far_writer = await self._connect(parts.hostname, parts.port or 80)
        except BlockedAddressError as error:
            log.warning("%s", error)
            visit.blocked.add(parts.hostname)
            writer.write(_answer("403 Forbidden"))
            return
        except OSError as error:
            log.debug("%s: %r", parts.hostname, error)
            writer.write(_answer("502 Bad Gateway"))
            return
        visit.joined(far_writer)
        try:
            if tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await _until_one_ends(_pump(reader, far_writer), _pump(far_reader, writer, visit))
            else:
                written = PATH.match(target)  # the exact text, because joining parsed parts may change it
                path = b"/" + written[1].removeprefix(b"/") if written else b"/"
                far_writer.write(head.rewritten(b" ".join((method, path, b"HTTP/1.1"))))
                body = _pump(reader, far_writer, length=int(head.fields.get(b"content-length", 0)))
                await asyncio.gather(body, _relay_response(far_reader, writer, visit))
        finally:
            far_writer.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        fault: OSError = OSError(f"{host}: no address")
        for answer in await self._resolver.resolve(host, port):  # checks IP addresses too
            try:
                return await asyncio.open_connection(answer["host"], answer["port"], limit=MAX_HEADERS_BYTES)
            except OSError as error:
                fault = error
        raise fault


class _Head:
    """Start line and headers of a request or response."""

    def __init__(self, raw: bytes) -> None:
        self.start, *self._lines = (line.rstrip(b"\r") for line in raw.rstrip(b"\r\n").split(b"\n"))
        self.fields = {name.strip().lower(): value.strip() for name, _, value in map(_split, self._lines)}

    def rewritten(self, start: bytes) -> bytes:
        """The same with another start line, without hop-by-hop headers, and with ``Connection: close``."""
        kept = [line for line in self._lines if _split(line)[0].strip().lower() not in OWN_FIELDS]
        return b"\r\n".join([start, *kept, b"Connection: close", b"", b""])


def _split(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b":")


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    """Read up to the empty line; both CRLF and LF are accepted."""
    lines: list[bytes] = []
    size = 0
    while True:
        line = await reader.readuntil(b"\n")
        size += len(line)
        if size > MAX_HEADERS_BYTES:
            raise asyncio.LimitOverrunError("headers without end", size)
        if line.strip(b"\r\n"):
            lines.append(line)
        elif lines:
            return _Head(b"".join(lines))


async def _relay_response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, visit: Visit) -> None:
    while True:
        try:
            head = await _read_head(reader)
        except asyncio.LimitOverrunError:
            visit.fail("headers_too_large")
            return
        text = head.rewritten(head.start)
        visit.received(len(text))
        if not head.start.partition(b" ")[2].startswith(b"1"):  # 1xx responses are skipped
            break
    writer.write(text)
    await _pump(reader, writer, visit)
    writer.close()  # the server has closed the connection


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    visit: Visit | None = None,
    length: int | None = None,
) -> None:
    """Copy all bytes, or ``length`` of them; ``visit`` counts them."""
    while length is None or length > 0:
        data = await reader.read(CHUNK if length is None else min(CHUNK, length))
        if not data:
            return
        if visit is not None:
            visit.received(len(data))
        if length is not None:
            length -= len(data)
        if not writer.is_closing():
            writer.write(data)
            await writer.drain()


async def _until_one_ends(*copying: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.ensure_future(one) for one in copying]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    with suppress(OSError):
        await asyncio.gather(*tasks, return_exceptions=True)


def _answer(status: str, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Content-Length: 0", "Connection: close", "", ""]).encode()
