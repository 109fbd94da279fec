"""A real HTTP server on loopback whose pages a test writes by hand: what it answers, and what it was asked."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = "shop.test"


@dataclass
class Reply:
    """What the server answers."""

    body: str | bytes = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/html; charset=utf-8"})
    after_s: float = 0


@dataclass
class Shop:
    """A shop on loopback: path -> reply, or a function of how often the path was asked for."""

    pages: dict[str, Reply | Callable[[int], Reply]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    asked_at_s: list[float] = field(default_factory=list)
    headers: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # of each request: path, headers
    port: int = 0

    @property
    def connect_map(self) -> dict[str, tuple[str, int]]:
        return {HOST: ("127.0.0.1", self.port)}

    def reply(self, path: str) -> Reply:
        self.asked[path] += 1
        self.asked_at_s.append(time.monotonic())
        page = self.pages.get(path, Reply("not found", 404))
        return page(self.asked[path]) if callable(page) else page


@contextmanager
def serving(shop: Shop) -> Iterator[Shop]:
    """Serve ``shop`` while the ``with`` block runs; sets its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = shop.reply(self.path)
            shop.headers.append((self.path, dict(self.headers)))
            time.sleep(reply.after_s)
            body = reply.body.encode() if isinstance(reply.body, str) else reply.body
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client was killed
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        shop.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield shop
        finally:
            server.shutdown()
            thread.join()
