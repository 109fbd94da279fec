"""Runs an application on a socket, until SIGINT or SIGTERM; requests in progress are answered first."""

import asyncio
import errno
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from atlas_model.core.errors import InputError
from flows.web.access import AccessMiddleware, AccessRules, Refuse, plain_refusal

GRACE_S = 20  # for requests in progress, after the signal to stop


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; port 0: a free one.

    Raises:
        InputError: the address is not one of this machine, or the port is in use or not permitted.
    """
    try:
        listening = socket.create_server((host, port), family=_family(host), backlog=1024)
        # Connections inherit it. asyncio does not set it for a socket whose protocol number is 0, as here; then the
        # body of a response waits up to 40 ms for the acknowledgement of its head.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        advice = {
            errno.EADDRINUSE: "Another program listens there. Stop it, or choose another --port",
            errno.EACCES: "Ports below 1024 need privileges. Choose another --port",
        }.get(error.errno or 0, "Choose an address of this machine, such as --host 127.0.0.1")
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror or error}. {advice}") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def url_of(listening: socket.socket, rules: AccessRules) -> str:
    """The URL that opens the first page in a browser.

    It has the token if it was generated. One that the user has set stays out of the output, which may become a log.
    """
    host, port = listening.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not listened on
        host = socket.gethostname()
    token = f"?token={rules.token}" if rules.token_is_new else ""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{token}"


def serve(
    app: ASGIApp,
    listening: socket.socket,
    rules: AccessRules,
    *,
    on_stop: Callable[[], None] | None = None,
    drain_s: float = 0.0,
    refuse: Refuse = plain_refusal,
) -> None:
    """Serve ``app`` under ``rules`` until SIGINT or SIGTERM.

    Args:
        app: the application; its lifespan is run.
        listening: from `listen`.
        rules: from `flows.web.access.access_rules`.
        on_stop: called when the signal arrives, before the last requests are answered.
        drain_s: time after that in which new requests are still accepted; a second Ctrl-C ends it.
        refuse: makes the response to a request that the rules refuse.
    """
    config = uvicorn.Config(
        AccessMiddleware(app, rules, refuse),
        log_config=None,  # warnings and errors go to the handlers of the program
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
    )
    with _ignoring_signals():
        _Server(config, on_stop, drain_s).run(sockets=[listening])


@contextmanager
def _ignoring_signals() -> Iterator[None]:
    """Uvicorn raises the signal again after it has stopped; the program should go on and end with exit code 0."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """A server that says when it begins to stop."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] | None, drain_s: float) -> None:
        super().__init__(config)
        self._on_stop, self._drain_s = on_stop, drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_stop is not None:
            self._on_stop()
        until = time.monotonic() + self._drain_s
        while time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
