"""Tolerant parsing of HTTP responses that violate HTTP/1.1 in ways that curl and browsers accept.

aiohttp's parser rejects a response for a header name with a space, for a repeated Content-Length, and for data after
the body. Here a rejected header section is repaired and parsed again: invalid fields are dropped, and equal lengths are
merged. If the lengths differ, the end of the body is unknown, and the response is rejected. Data after the body is
ignored, and the connection is closed so that it cannot be read as the next response.

A valid response is parsed once, by aiohttp alone. The module uses private methods of aiohttp, so its version is pinned.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import set_exception
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

MAX_HEAD_BYTES = 262_144  # header section that is repaired; browsers have the same limit

_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_STATUS = re.compile(rb"\s*HTTP/(\d)(?:\.(\d))?[ \t]+(\d{3})(?:[ \t]+(.*))?", re.DOTALL)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSENDABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class BadHttpError(aiohttp.ClientError):
    """The response is not valid HTTP and cannot be repaired."""


class LenientHandler(ResponseHandler):
    """aiohttp's protocol with a `LenientParser`; a connection with unexpected data is not used again."""

    requests = 0  # on this connection
    _lenient: "LenientParser | None" = None  # of the last response, also after the connection is closed

    @property
    def has_surplus(self) -> bool:
        """Whether data other than white space came after the stated end of the last response."""
        return self._lenient is not None and self._lenient.has_surplus

    def is_connected(self) -> bool:
        """Called by aiohttp before it reuses an idle connection; data that came meanwhile answer no request."""
        return super().is_connected() and not self._should_close

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by asyncio; a reset is no end of a body, which aiohttp assumes if no header states the length."""
        if exc is not None and self._payload is not None and not self._payload.is_eof():
            set_exception(self._payload, aiohttp.ClientPayloadError(f"the connection was reset: {exc!r}"), exc)
        super().connection_lost(exc)

    def set_response_params(self, **params: Any) -> None:
        """Called by aiohttp before each request."""

        def fresh() -> Any:
            super(LenientHandler, self).set_response_params(**params)
            return self._parser

        patient = LenientParser(fresh, self.force_close)
        self._lenient = patient
        self.requests += 1
        self._parser = patient  # type: ignore[assignment]  # in place of aiohttp's own, of which it has what is called


def use_lenient_parser(connector: aiohttp.BaseConnector) -> None:
    """Make the connections of ``connector`` use `LenientHandler`."""
    connector._factory = partial(LenientHandler, loop=connector._loop)  # type: ignore[assignment]  # no public way


class LenientParser:
    """Parser of one response that retries a rejected header section after repairing it.

    Args:
        fresh: creates aiohttp's own parser.
        close: closes the connection after this response.
    """

    def __init__(self, fresh: Callable[[], Any], close: Callable[[], None]) -> None:
        self._fresh, self._close = fresh, close
        self._parser = fresh()
        self._head: bytearray | None = bytearray()  # received header section; None once it is parsed
        self._refused: Exception | None = None  # error of aiohttp's parser
        self._payload: Any = None
        self._over = False  # data came after the complete body
        self.has_surplus = False  # other data than white space

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """Same interface as aiohttp's parser.

        Raises:
            aiohttp.http_exceptions.HttpProcessingError: the response cannot be parsed.
        """
        if self._over:
            return self._ignore(data)
        if self._head is None:
            return self._feed_body(data)
        if len(self._head) <= MAX_HEAD_BYTES:
            self._head += data
        if self._refused is None:
            try:
                return self._note_head(self._parser.feed_data(data))
            except LineTooLong:
                raise
            except BadHttpMessage as error:
                if "Too many headers" in str(error):
                    raise
                self._refused = error
        return self._parse_repaired()

    def feed_eof(self) -> Any:
        """Same interface as aiohttp's parser."""
        if self._over:
            return None
        if self._refused is not None:
            raise self._refused
        return self._parser.feed_eof()

    def _parse_repaired(self) -> tuple[Any, bool, bytes]:
        """Parse the repaired header section and the data of the body received so far."""
        assert self._head is not None
        end = _END.search(self._head)
        if end is None:
            start = self._head.lstrip()[:5].upper()
            if len(self._head) > MAX_HEAD_BYTES or not b"HTTP/".startswith(start):
                raise self._refused or BadHttpMessage("no head")
            return (), False, b""
        head, body = bytes(self._head[: end.end()]), bytes(self._head[end.end() :])
        self._close()
        self._parser = self._fresh()
        messages, upgraded, _ = self._note_head(self._parser.feed_data(repaired_head(head)))
        self._refused = None
        if body and not upgraded:
            more, upgraded, _ = self.feed_data(body)
            messages = [*messages, *more]
        return messages, upgraded, b""

    def _note_head(self, found: tuple[Any, bool, bytes]) -> tuple[Any, bool, bytes]:
        messages, upgraded, tail = found
        place = next((place for place, (message, _) in enumerate(messages) if message.code >= 200), None)
        if place is None:
            if messages:
                self._head = bytearray()  # an interim response; the final one follows
            return found
        self._head, self._payload = None, messages[place][1]
        if messages[place + 1 :]:
            self._ignore(b"HTTP")  # a response to no request
        return messages[: place + 1], upgraded, tail

    def _feed_body(self, data: bytes) -> tuple[Any, bool, bytes]:
        if data and self._payload.is_eof():
            return self._ignore(data)
        try:
            messages, upgraded, tail = self._parser.feed_data(data)
        except Exception:
            if not self._payload.is_eof():
                raise
            return self._ignore(b"?")
        if messages:
            return self._ignore(b"HTTP")  # a response to no request
        return messages, upgraded, tail

    def _ignore(self, data: bytes) -> tuple[Any, bool, bytes]:
        """Ignore ``data`` after the body, and use the connection for no other request."""
        self._over = True
        self.has_surplus = self.has_surplus or bool(data.strip())
        self._close()
        return (), False, b""


def repaired_head(head: bytes) -> bytes:
    """A valid header section for ``head``, with ``Connection: close``.

    Raises:
        BadHttpMessage: it cannot be repaired.
    """
    lines = _LINE_END.split(head)
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        raise BadHttpMessage(f"expected a status line such as HTTP/1.1 200 OK, got {lines[0][:50]!r}")
    version = b"1.0" if (status[1], status[2]) == (b"1", b"0") else b"1.1"
    reason = _UNSENDABLE.sub(b" ", status[4] or b"").strip()
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t") and fields and line.strip():  # line folding (RFC 9112, 5.2)
            fields[-1] = fields[-1][0], fields[-1][1] + b" " + _value(line)
            continue
        name, colon, value = line.partition(b":")
        if colon and _NAME.fullmatch(name := name.strip()):
            fields.append((name, _value(value)))
    codings = [one.strip().lower() for one in _all(fields, b"transfer-encoding") if one.strip().lower() != b"identity"]
    lengths = set() if codings else {one.strip() for one in _all(fields, b"content-length")}
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        values = b" and ".join(sorted(lengths)).decode("latin-1")[:50]
        raise BadHttpMessage(f"expected one Content-Length, got {values}: the end of the body is unknown")
    own = (b"transfer-encoding", b"content-length", b"connection", b"keep-alive")
    kept = [(name, value) for name, value in fields if name.lower() not in own]
    kept += [(b"Content-Length", length) for length in lengths]
    kept += [(b"Transfer-Encoding", b", ".join(dict.fromkeys(codings)))] if codings else []
    kept.append((b"Connection", b"close"))
    start = b"HTTP/" + version + b" " + status[3] + b" " + (reason or b"-")
    return b"\r\n".join([start, *(name + b": " + value for name, value in kept), b"", b""])


def _value(raw: bytes) -> bytes:
    return _UNSENDABLE.sub(b" ", raw).strip()


def _all(fields: list[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [one for name, value in fields if name.lower() == wanted for one in value.split(b",")]
