"""ASGI middleware that bounds requests (their number, size and time) and measures them (counts and latency)."""

import asyncio
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.serve.metrics import Metrics
from flows.serve.problems import Problem, busy
from flows.serve.settings import Limits

UNLIMITED = ("/v2/health/", "/metrics")  # answered although the service is busy
OTHER = "other"  # route of requests for unknown paths


@dataclass
class _Body:
    """Counts the bytes of a body as they arrive."""

    size: int = 0


class RequestLimits:
    """The middleware. A refused request gets a problem response."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._requests = self._buffered = 0  # in progress: their number, and the bytes of their bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, body = time.perf_counter(), 500, _Body()

        async def measured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._requests += 1
        self._metrics.in_progress.inc()
        try:
            refused = None if scope["path"].startswith(UNLIMITED) else self._refused(scope)
            if refused is None:
                await self._app(scope, self._bounded(receive, body), measured)
            else:
                await refused.response(scope["path"])(scope, receive, measured)
        finally:
            self._requests -= 1
            self._buffered -= body.size
            self._metrics.in_progress.dec()
            route = getattr(scope.get("route"), "path", OTHER)
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
            method = scope["method"] if route != OTHER else OTHER
            self._metrics.requests.labels(route, method, str(status)).inc()

    def _refused(self, scope: Scope) -> Problem | None:
        """The problem of a request that is refused before its body is read."""
        limits = self._limits
        if self._requests > limits.max_requests:
            self._metrics.errors.labels("busy").inc()
            return busy(f"{limits.max_requests} requests in progress", 1)
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > limits.max_body_bytes:
            self._metrics.errors.labels("too_large").inc()
            return self._too_large(int(length))
        if length.isdigit() and self._buffered + int(length) > limits.max_buffered_bytes:
            self._metrics.errors.labels("busy").inc()
            return busy(f"{self._buffered} bytes of requests in memory", 1)
        return None

    def _bounded(self, receive: Receive, body: _Body) -> Receive:
        deadline = time.monotonic() + self._limits.timeout_s
        is_complete = False

        async def bounded() -> Message:
            nonlocal is_complete
            if is_complete:  # waits for the client to disconnect
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                self._metrics.errors.labels("slow_body").inc()
                raise Problem(
                    408,
                    "slow-body",
                    expected=f"the body within {self._limits.timeout_s:g} s",
                    got=f"{body.size} bytes of it",
                    remedy="Send fewer images in a request, or start the service with a larger --timeout",
                ) from None
            if message["type"] == "http.request":
                is_complete = not message.get("more_body", False)
                size = len(message.get("body", b""))
                body.size += size
                self._buffered += size
                if body.size > self._limits.max_body_bytes:
                    self._metrics.errors.labels("too_large").inc()
                    raise self._too_large(body.size)
                if self._buffered > self._limits.max_buffered_bytes:
                    self._metrics.errors.labels("busy").inc()
                    raise busy(f"{self._buffered} bytes of requests in memory", 1)
            return message

        return bounded

    def _too_large(self, size: int) -> Problem:
        return Problem(
            413,
            "too-large",
            expected=f"a body of at most {self._limits.max_body_bytes} bytes",
            got=f"{size} or more",
            remedy="Send fewer images in a request, or start the service with a larger --max-body-bytes",
        )
