"""Answers of servers that are not quite HTTP/1.1, read as curl and browsers read them.

aiohttp's parser refuses a whole answer for a header name with a space in it, for a Content-Length that comes twice, and
for bytes behind the body. Here the head of an answer that it refuses is written anew and parsed again: fields that are
none are left out, lengths that agree are one. Where they do not agree, nobody can know where the body ends, and the
answer is refused with a text that says so. What comes behind a body is nobody's; its connection is not used again,
so that it cannot be taken for the answer to the next request.

An answer that is as it should be is parsed once, as aiohttp would. Its private methods are used, so its version is
pinned. Knows nothing of bodies but where they end.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

MAX_HEAD_BYTES = 262_144  # of an answer that is to be written anew; browsers stop there as well

_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_STATUS = re.compile(rb"\s*HTTP/(\d)(?:\.(\d))?[ \t]+(\d{3})(?:[ \t]+(.*))?", re.DOTALL)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSENDABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class BadHttpError(aiohttp.ClientError):
    """An answer that is no HTTP, or not such that anybody could know what it says."""


class PatientHandler(ResponseHandler):
    """aiohttp's protocol, whose parser is a `PatientParser`."""

    def set_response_params(self, **params: Any) -> None:
        """As aiohttp calls it before each request."""

        def fresh() -> Any:
            super(PatientHandler, self).set_response_params(**params)
            return self._parser

        patient = PatientParser(fresh, self.force_close)
        self._parser = patient  # type: ignore[assignment]  # in place of aiohttp's own, of which it has what is called


def patient_factory(connector: aiohttp.BaseConnector) -> None:
    """Have the connections of ``connector`` read as this module says."""
    connector._factory = partial(PatientHandler, loop=connector._loop)  # type: ignore[assignment]  # no public way


class PatientParser:
    """A parser of one answer, which gives a head that is refused another chance.

    Args:
        fresh: makes aiohttp's own parser.
        close: has the connection closed after this answer.
    """

    def __init__(self, fresh: Callable[[], Any], close: Callable[[], None]) -> None:
        self._fresh, self._close = fresh, close
        self._parser = fresh()
        self._head: bytearray | None = bytearray()  # as it came; None once it is parsed
        self._refused: Exception | None = None  # what aiohttp's parser has against it
        self._payload: Any = None
        self._over = False  # the body is complete, and more has come

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """As aiohttp's.

        Raises:
            aiohttp.http_exceptions.HttpProcessingError: it cannot be read.
        """
        if self._over:
            return (), False, b""
        if self._head is None:
            return self._feed_body(data)
        if len(self._head) <= MAX_HEAD_BYTES:
            self._head += data
        if self._refused is None:
            try:
                return self._noted(self._parser.feed_data(data))
            except LineTooLong:
                raise
            except BadHttpMessage as error:
                if "Too many headers" in str(error):
                    raise
                self._refused = error
        return self._again()

    def feed_eof(self) -> Any:
        """As aiohttp's."""
        if self._over:
            return None
        if self._refused is not None:
            raise self._refused
        return self._parser.feed_eof()

    def _again(self) -> tuple[Any, bool, bytes]:
        """Parse the head, written anew, and what has come of the body."""
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
        messages, upgraded, _ = self._noted(self._parser.feed_data(mended(head)))
        self._refused = None
        if body and not upgraded:
            more, upgraded, _ = self.feed_data(body)
            messages = [*messages, *more]
        return messages, upgraded, b""

    def _noted(self, found: tuple[Any, bool, bytes]) -> tuple[Any, bool, bytes]:
        messages, _, _ = found
        if messages and messages[-1][0].code >= 200:
            self._head, self._payload = None, messages[-1][1]
        elif messages:
            self._head = bytearray()  # it was interim, the answer is still to come
        return found

    def _feed_body(self, data: bytes) -> tuple[Any, bool, bytes]:
        try:
            return self._parser.feed_data(data)  # type: ignore[no-any-return]  # aiohttp leaves it untyped
        except Exception:
            if self._payload is None or not self._payload.is_eof():
                raise
            self._over = True
            self._close()
            return (), False, b""


def mended(head: bytes) -> bytes:
    """The head of an answer as it should be, for one exchange only.

    Raises:
        BadHttpMessage: that cannot be known.
    """
    lines = _LINE_END.split(head)
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        raise BadHttpMessage(f"expected a status line as in HTTP/1.1 200 OK, got {lines[0][:50]!r}")
    version = b"1.0" if (status[1], status[2]) == (b"1", b"0") else b"1.1"
    reason = _UNSENDABLE.sub(b" ", status[4] or b"").strip()
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t") and fields and line.strip():  # a value that goes on (RFC 9112, 5.2)
            fields[-1] = fields[-1][0], fields[-1][1] + b" " + _value(line)
            continue
        name, colon, value = line.partition(b":")
        if colon and _NAME.fullmatch(name := name.strip()):
            fields.append((name, _value(value)))
    codings = [one.strip().lower() for one in _all(fields, b"transfer-encoding") if one.strip().lower() != b"identity"]
    lengths = set() if codings else {one.strip() for one in _all(fields, b"content-length")}
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        said = b" and ".join(sorted(lengths)).decode("latin-1")[:50]
        raise BadHttpMessage(f"expected one Content-Length, got {said}: nobody can know where the body ends")
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
