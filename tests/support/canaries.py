"""Secrets that a test can recognize, the servers that ask for them, and the search for them in all that a run wrote."""

import base64
import json
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from tests.support.prefect_server import DIRECT, PrefectServer

NAMES = (
    *("s3key", "s3secret", "s3token", "web", "ssh", "proxy", "hook", "prefect", "api", "database", "atlas", "shop"),
)
USER = "someone"


def canaries() -> dict[str, str]:
    """A secret by purpose; all are of letters and digits, so that no encoding of URLs changes them."""
    return {name: f"CANARY{name}7f3a9c51e2" for name in NAMES}


def forms(secret: str) -> list[bytes]:
    """How a secret may be written: as it is, and in the header of basic authentication."""
    pairs = [f"{USER}:{secret}", secret]
    return [secret.encode(), *(base64.b64encode(pair.encode()).rstrip(b"=") for pair in pairs)]


@dataclass
class Internet:
    """A proxy with a password, and the hosts behind it: hooks.test (webhooks), web.test and store.test (DVC remotes).

    Attributes:
        secret: password of the proxy and of web.test.
        s3: where requests for store.test go; empty: none.
        refuses: the proxy does not accept the password.
        status: of the answers of hooks.test.
        remote_status: of the answers of the remotes; 0: that of their server.
        asked: the hosts that were asked for.
    """

    secret: dict[str, str]
    s3: str = ""
    refuses: bool = False
    status: int = 200
    remote_status: int = 0
    asked: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    port: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name the proxy."""
        url = f"http://{USER}:{self.secret['proxy']}@127.0.0.1:{self.port}"
        names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
        return {**dict.fromkeys(names, url), "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}

    def answer(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the answer to a request for ``url``."""
        given = headers.get("Proxy-Authorization", "")
        if self.refuses or given.encode() != b"Basic " + basic(self.secret["proxy"]):
            return 407, b"", {}
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        self.asked.append(host)
        if host == "hooks.test":
            return self.status, b"ok", {}
        if self.remote_status:
            return self.remote_status, b"", {}
        if host == "web.test":
            if headers.get("Authorization", "").encode() != b"Basic " + basic(self.secret["web"]):
                return 401, b"", {"WWW-Authenticate": "Basic"}
            if method in ("POST", "PUT"):
                self.stored[parts.path] = body
            return (200, self.stored[parts.path], {}) if parts.path in self.stored else (404, b"", {})
        bucket = host.removesuffix("store.test").rstrip(".")
        path = f"/{bucket}{parts.path}" if bucket else parts.path
        target = f"{self.s3}{path}{f'?{parts.query}' if parts.query else ''}"
        own = {k: v for k, v in headers.items() if k.lower() not in ("host", "proxy-authorization", "content-length")}
        data = body if body or method in ("POST", "PUT") else None
        request = urllib.request.Request(target, method=method, headers=own, data=data)
        try:
            with DIRECT.open(request, timeout=60) as reply:
                return reply.status, reply.read(), dict(reply.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)


def basic(secret: str) -> bytes:
    """The credentials of `USER` for basic authentication."""
    return base64.b64encode(f"{USER}:{secret}".encode())


@contextmanager
def serving_internet(internet: Internet) -> Iterator[Internet]:
    """Serve ``internet`` while the ``with`` block runs; sets its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self._body()
            status, content, headers = internet.answer(self.command, self.path, dict(self.headers), body)
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            whole = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = _do

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        internet.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield internet
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """The command lines and titles of all children that the ``with`` block has, at any depth."""
    seen: set[str] = set()
    ended = threading.Event()
    me = psutil.Process()

    def look() -> None:
        while not ended.wait(0.05):
            for child in me.children(recursive=True):
                with suppress(psutil.Error):
                    seen.update([" ".join(child.cmdline()), child.name()])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def leaks(where: dict[str, bytes], secrets: dict[str, str]) -> list[str]:
    """Where which secret was found: ``place: name``."""
    return sorted(
        f"{place}: {name}"
        for place, content in where.items()
        for name, secret in secrets.items()
        if any(form in content for form in forms(secret))
    )


def files_of(folder: Path, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Every file below ``folder``, with all objects of its git repositories and the content of Parquet files, unpacked.

    Args:
        folder: which is searched.
        without: relative paths of files in which the user has put a secret.
    """
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.is_symlink() or name in without:
            continue
        found[name] = path.read_bytes()
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
            found[f"{name} (rows)"] = repr(rows).encode(errors="replace")
    for repository in folder.rglob(".git"):
        command = ["git", "-C", str(repository.parent), "cat-file", "--batch-all-objects", "--batch"]
        found[f"{repository.relative_to(folder)} (objects)"] = subprocess.run(
            command, capture_output=True, check=True
        ).stdout
    return found


def told_by(server: PrefectServer) -> dict[str, bytes]:
    """What the API of a Prefect server tells of all its runs."""
    kinds = ("flows", "flow_runs", "task_runs", "logs", "artifacts", "deployments", "variables", "block_documents")
    told: dict[str, Any] = {}
    for kind in kinds:
        pages: list[Any] = []
        while page := server.ask(f"/{kind}/filter", {"offset": len(pages), "limit": 200}):
            pages += page
        told[kind] = pages
    told["events"] = server.ask("/events/filter", {"limit": 50, "filter": {"order": "DESC"}})
    told["settings"] = server.ask("/admin/settings")
    return {f"API: {kind}": json.dumps(found).encode() for kind, found in told.items()}
