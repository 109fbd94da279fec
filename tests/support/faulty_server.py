"""A Prefect server whose process a test kills, stops and restarts, and a proxy before it that answers wrongly.

A flow that is given the URL of the `Proxy` sees its faults; one that is given the URL of the server sees those of its
process. Each server has a database of its own.
"""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from tests.support.waiting import TIMEOUT_S

PROGRAM = """
import sys
from atlas_model.core.processes import die_with_parent
die_with_parent()
import uvicorn
uvicorn.run("prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=int(sys.argv[1]),
            log_level="error", timeout_graceful_shutdown=1)
"""


class FaultyServer:
    """A Prefect server on a port that stays the same, and its process.

    Args:
        folder: of its database and log.
        database: an empty database to start from, which saves the seconds of its creation; None: create it.
    """

    def __init__(self, folder: Path, database: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if database is not None:
            (folder / "prefect.db").write_bytes(database.read_bytes())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self.folder, self.log, self.database = folder, folder / "server.log", folder / "prefect.db"
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True, **more: str) -> None:
        """Start the process, with ``more`` in its environment."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.port)],
                env={**os.environ, "PREFECT_HOME": str(self.folder), "PREFECT_UI_ENABLED": "false", **more},
                stdout=output,
                stderr=output,
            )
        if wait:
            self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            assert self.process is not None and self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            with suppress(requests.RequestException):
                if requests.get(f"{self.url}/health", timeout=10).ok:
                    return
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the process, as a machine that runs out of memory does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stop the process: the kernel accepts connections for it, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stopped process go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def fill_disk(self) -> None:
        """From now on the process can write nothing beyond the size that its database has: a full disk."""
        assert self.process is not None
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (1, 1))

    def close(self) -> None:
        """End the process."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def faulty_server(folder: Path, database: Path | None = None) -> Iterator[FaultyServer]:
    """A started `FaultyServer`, which ends with the ``with`` block."""
    server = FaultyServer(folder, database)
    try:
        server.start()
        yield server
    finally:
        server.close()


class Proxy:
    """Passes connections on to a server until `answer` is set: then it answers each request itself.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        self.answer: bytes | None = None
        self.asked: Counter[str] = Counter()  # requests that it answered itself, by path
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def set(self, answer: bytes | None) -> None:
        """Answer every request with these bytes from now on, and close the connections that were passed on."""
        self.answer = answer
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        """Accept nothing any more."""
        self.set(b"")
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=[client], daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.answer is not None:
                head = b""
                while b"\r\n\r\n" not in head:
                    more = client.recv(1 << 16)
                    if not more:
                        return
                    head += more
                self.asked[head.split(b" ", 2)[1].decode()] += 1
                client.sendall(self.answer)
                client.shutdown(socket.SHUT_WR)
                with suppress(OSError):
                    client.settimeout(2)
                    while client.recv(1 << 16):
                        pass
                return
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                self._open += [client, server]
                back = threading.Thread(target=_copy, args=[server, client], daemon=True)
                back.start()
                _copy(client, server)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(server: FaultyServer) -> Iterator[Proxy]:
    """A `Proxy` of ``server``."""
    found = Proxy(server.port)
    try:
        yield found
    finally:
        found.close()


def http(status: str, body: bytes, *headers: str) -> bytes:
    """A whole HTTP response."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body
