"""Serves images on loopback: nginx for files, and a small server that delays responses or generates many small images.

The latter (``python -m benchmarks.fetching.servers FOLDER LATENCY_S``) responds from memory with one write per image.
It needs a tenth of the CPU of the fastest client, so it does not limit the clients. nginx cannot delay responses.
"""

import asyncio
import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, QUALITY = 600, 800, 30  # about 25 kB each
NGINX_CONF = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; types {{ image/jpeg jpg; }}
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{ listen 127.0.0.1:{port}; root {images}; }}
}}
"""


def make_images(folder: Path, count: int) -> None:
    """Write ``count`` distinct JPEGs to ``folder``, 00000.jpg and so on, unless they exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(list(folder.glob("*.jpg"))), count):
        blots = np.random.default_rng(number).integers(0, 256, (30, 23, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(blots).resize((WIDTH, HEIGHT)).save(data, "JPEG", quality=QUALITY)
        (folder / f"{number:05d}.jpg").write_bytes(data.getvalue())


@contextmanager
def nginx(images: Path, folder: Path) -> Iterator[int]:
    """Serve ``images`` during the ``with`` block; yields the port."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        sys.exit("benchmarks.fetch: expected nginx, found none in PATH. Debian: apt install nginx-light")
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONF.format(folder=folder, port=port, images=images))
    with _running([program, "-c", str(config), "-p", str(folder)], port):
        yield port


@contextmanager
def delaying(images: Path, latency_s: float) -> Iterator[int]:
    """Serve ``images`` with a delay of ``latency_s``; yields the port. Generates small ones: /small/<number>.jpg."""
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.fetching.servers", str(images), str(latency_s), str(port)]
    with _running(command, port):
        yield port


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        sys.exit(f"benchmarks.fetch: {command[0]} did not start on port {port}")
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class _Server(asyncio.Protocol):
    """Responds to each request after the same delay, in order."""

    def __init__(self, images: Path, latency_s: float) -> None:
        self._images, self._latency_s = images, latency_s
        small = io.BytesIO()
        blots = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blots).resize((64, 64)).save(small, "JPEG")
        self._small = small.getvalue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._waiting = transport, b""

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while b"\r\n\r\n" in self._waiting:
            head, _, self._waiting = self._waiting.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            asyncio.get_running_loop().call_later(self._latency_s, self._transport.write, self._answer(path))

    def _answer(self, path: str) -> bytes:
        name = path.partition("?")[0].removeprefix("/")
        if name.startswith("small/"):  # distinct by a comment in front
            body = self._small[:2] + b"\xff\xfe\x00\x12" + name[6:22].encode().ljust(16) + self._small[2:]
        elif (self._images / name).is_file():
            body = (self._images / name).read_bytes()
        else:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def _serve(images: Path, latency_s: float, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: _Server(images, latency_s), "127.0.0.1", port, backlog=512
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
