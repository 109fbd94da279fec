"""Servers on loopback with responses that a test defines, and records of their requests.

`serving` sends valid HTTP; `raw_serving` sends arbitrary bytes.
"""

import gzip
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

HOST = "shop.test"


@dataclass
class Reply:
    """A response of the server."""

    body: str | bytes = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/html; charset=utf-8"})
    after_s: float = 0


@dataclass
class Shop:
    """A shop on loopback: path -> reply, or a function of the number of requests for the path."""

    pages: dict[str, Any] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    asked_at_s: list[float] = field(default_factory=list)
    headers: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # of each request: path, headers
    sent: Counter[str] = field(default_factory=Counter)  # bodies of successful replies: path -> number
    conditional: bool = False  # whether a request with the ETag of the reply gets 304, without a body
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
            if shop.conditional and reply.headers.get("ETag", "") == self.headers.get("If-None-Match"):
                reply = Reply(status=304)
            shop.sent[self.path] += reply.status == 200
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


Answer = bytes | Callable[[socket.socket, threading.Event], None]
"""What a `RawServer` sends: bytes, or a function that does so itself and heeds the event, which is set at the end."""


@dataclass
class RawServer:
    """Sends raw bytes, HTTP or not: path -> answer. Each answer ends the connection."""

    answers: dict[str, Answer] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    requests: list[bytes] = field(default_factory=list)  # received request heads
    port: int = 0

    def asked(self, path: str) -> int:
        return sum(request.split(b" ")[1:2] == [path.encode()] for request in self.requests)


@contextmanager
def raw_serving(server: RawServer) -> Iterator[RawServer]:
    """Serve ``server`` while the ``with`` block runs; sets its port."""
    ended = threading.Event()

    def serve(plain: socket.socket) -> None:
        with (
            suppress(OSError),  # the client is expected to close the connection
            plain,
            server.tls.wrap_socket(plain, server_side=True) if server.tls else plain as client,
        ):
            exchange(client)

    def exchange(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := client.recv(65536)):
                return
            head += data
        server.requests.append(head)
        answer = server.answers.get(head.split(b" ")[1].decode(), response(b"not found", status="404 Not Found"))
        if callable(answer):
            answer(client, ended)
        else:
            client.sendall(answer)

    def accept() -> None:
        with suppress(OSError):  # closed below
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        server.port = listener.getsockname()[1]
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)  # unblocks accept
            thread.join()


def response(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP response; ``length`` overrides Content-Length, and -1 omits it."""
    claimed = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    lines += [f"Content-Length: {claimed}"] if claimed >= 0 else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def endless(head: bytes, chunk: bytes = b"x" * 65536) -> Answer:
    """Sends ``head``, then ``chunk`` repeatedly without end."""

    def send(client: socket.socket, ended: threading.Event) -> None:
        client.sendall(head)
        while not ended.is_set():
            client.sendall(chunk)

    return send


def dripping(head: bytes, every_s: float = 0.2) -> Answer:
    """Sends ``head``, then one byte at a time."""

    def send(client: socket.socket, ended: threading.Event) -> None:
        client.sendall(head)
        while not ended.wait(every_s):
            client.sendall(b"x")

    return send


def self_signed(host: str, folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A TLS context of a server for ``host``, and its self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate, private = folder / f"{host}.crt", folder / f"{host}.key"
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    return context, certificate


@cache
def gzip_bomb(size: int, layers: int = 1) -> bytes:
    """Gzip data that decompress to ``size`` zeros, a multiple of a million."""
    zeros, count = bytes(1_000_000), size // 1_000_000
    packer = zlib.compressobj(9, wbits=31)
    first, next_one = (packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    checksum = 0
    for _ in range(count):
        checksum = zlib.crc32(zeros, checksum)
    # After a full flush equal zeros compress to equal bytes, so one million is compressed once and repeated.
    end_of_stream = b"\x03\x00" + struct.pack("<II", checksum, size % 2**32)
    data = first + next_one * (count - 1) + end_of_stream
    for _ in range(layers - 1):
        data = gzip.compress(data)
    return data
