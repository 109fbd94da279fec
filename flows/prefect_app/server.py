"""Runs a Prefect server for the project as a child process, with its settings, port, database and health check.

The parent does not import Prefect, which takes seconds; the child does. The parent holds the listening socket, so it
knows whether the port is free before it starts the child. If the server ends, it is restarted on the same socket:
requests in the meantime wait instead of being refused.

``python -m flows.prefect_app.server FD`` is the child: it serves on the inherited socket FD.
"""

import errno
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Self

import requests

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.processes import die_with_parent
from atlas_model.core.progress import say
from flows.paths import REPORT

if TYPE_CHECKING:
    from fastapi import FastAPI

HOST = "127.0.0.1"
START_TIMEOUT_S = 900.0  # creating a database takes about 15 s on two idle cores, and minutes on busy ones
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1
HEALTH = "/api/health"
REPORT_PATH = "/atlas/report"
REPORT_URL = "ATLAS_REPORT_URL"  # environment variable for the runs of `make up`: where the server serves the report
REPORT_HEADERS = {  # the report contains texts of shops: its scripts must not act as pages of this server
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'unsafe-inline' data:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
CLOSE_TIMEOUT_S = 2  # for open connections and websockets at shutdown
EVENT_DAYS = 7  # at most: there are many events, and only automations use them
HEAVY_EVENTS = ("prefect.artifact-collection.created", "prefect.artifact-collection.updated")  # contain whole images
HEAVY_EVENT_S = 3600
DATABASE_URL = "PREFECT_API_DATABASE_CONNECTION_URL"
DRIVERS = {  # scheme of a database URL -> scheme with the driver that Prefect needs
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
QUIET = {  # no telemetry
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
}


class Server:
    """The server of one project: its socket, its process, its log.

    Args:
        folder: for its log, and for its database unless ``environment`` has a database URL.
        port: to listen on; 0: any free port.
        retention_days: after which completed runs are deleted with their logs and artifacts.
        environment: of the process; its settings of Prefect have precedence.

    Raises:
        InputError: the port is in use, or Prefect does not support the database URL.
    """

    def __init__(self, folder: Path, port: int, retention_days: int, environment: Mapping[str, str]) -> None:
        self._socket = _listen(port)
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}"
        self.log = folder / "server.log"
        self.log.unlink(missing_ok=True)
        self._environment = {
            **server_settings(folder, self.url, retention_days),
            **environment,
            "PREFECT_API_URL": f"{self.url}/api",
            DATABASE_URL: database_url(folder, environment.get(DATABASE_URL)),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._health_request = HTTPConnection(*self._socket.getsockname())
        self._responded = False  # since it was started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process, which ends with the calling thread."""
        self._request_health()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.prefect_app.server", str(self._socket.fileno())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._socket.fileno()],
                process_group=0,  # ignores Ctrl-C: it is stopped after the ends of the runs are reported
            )

    def restart_if_ended(self) -> None:
        """Restart the process if it has ended; to be called regularly.

        Raises:
            AtlasError: it ended before its first response.
        """
        assert self._process is not None
        responded = self._has_responded()
        if (exit_code := self._process.poll()) is not None:
            if not responded:
                raise AtlasError(f"the Prefect server ended, and cannot be restarted: {self._last_error()}")
            say(f"warning: the Prefect server ended (exit code {exit_code}): restarting it")
            self.start()

    def wait_until_healthy(self) -> None:
        """Wait until it responds.

        Raises:
            AtlasError: it ended, or does not respond in time; the text has the last error in its log.
        """
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._has_responded():
            if self._process.poll() is not None:
                raise AtlasError(f"the Prefect server did not start: {self._last_error()}")
            if time.monotonic() > deadline:
                raise AtlasError(f"the Prefect server does not respond at {self.url}: {self._last_error()}")
            time.sleep(POLL_S)

    def _request_health(self) -> None:
        """Send a health request, which waits in the socket until the process is ready."""
        self._health_request.close()
        self._health_request.request("GET", HEALTH)
        self._responded = False

    def _has_responded(self) -> bool:
        if not self._responded and select.select([self._health_request.sock], [], [], 0)[0]:
            try:
                self._responded = self._health_request.getresponse().status == HTTPStatus.OK
            except (OSError, HTTPException):  # it ended meanwhile
                self._request_health()
        return self._responded

    def stop(self) -> None:
        """Stop the process and close the port."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._health_request.close()
        self._socket.close()

    def _last_error(self) -> str:
        said = self.log.read_text(encoding="utf-8", errors="replace")
        errors = re.findall(r"^[\w.]+(?:Error|Exception)\b.*", said, re.MULTILINE) or said.strip().splitlines()
        return f"{errors[-1] if errors else 'no output'}\nSee its log: {self.log}"


def server_settings(folder: Path, url: str, retention_days: int) -> dict[str, str]:
    """Settings of the server: allowed origins, logging, retention.

    Prefect's services that delete old runs are disabled by default.
    """
    return {
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Otherwise pages of other sites in the same browser could send requests.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{url},{url.replace(HOST, 'localhost')}",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": f"{retention_days * 24 * 3600}",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": json.dumps(
            dict.fromkeys(HEAVY_EVENTS, HEAVY_EVENT_S)
        ),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{min(retention_days, EVENT_DAYS)}D",
        "PREFECT_HOME": str(folder),
    }


def database_url(folder: Path, given: str | None) -> str:
    """The database URL: ``given`` with the driver that Prefect needs, else SQLite in ``folder``.

    Raises:
        InputError: ``given`` is neither PostgreSQL nor SQLite. (The text does not contain it: it may hold a password.)
    """
    if not given:
        if "?" in str(folder):
            raise InputError(
                f"{folder}: expected a folder without a question mark in its path, which ends the URL of a SQLite "
                f"database. Rename it, or name another database in {DATABASE_URL}"
            )
        return f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
    scheme, separator, rest = given.partition("://")
    if not separator or scheme not in DRIVERS:
        raise InputError(
            f"{DATABASE_URL}: expected postgresql://user:password@host/database or sqlite:////path/to/file, got "
            f"{f'one of {scheme}' if separator else 'no URL'}. Correct it, or unset it to use SQLite in {folder}"
        )
    return f"{DRIVERS[scheme]}://{rest}"


def is_healthy(url: str, timeout_s: float) -> bool:
    """Whether a Prefect server responds at ``url``."""
    with suppress(requests.RequestException), requests.Session() as session:
        session.trust_env = False  # a server of this machine is behind no proxy
        reply = session.get(url + HEALTH, timeout=timeout_s)
        return reply.ok and reply.json() is True
    return False


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port), backlog=128)
    except OSError as error:
        fault = error.strerror
        if error.errno == errno.EADDRINUSE:
            prefect = is_healthy(f"http://{HOST}:{port}", timeout_s=5)
            fault = f"{'a Prefect server of another project' if prefect else 'another program'} uses it"
        raise InputError(
            f"cannot listen on port {port} of {HOST}: {fault}. Choose another port: make up PORT=4201"
        ) from error


def app_with_report() -> "FastAPI":
    """Prefect's application, which also serves the report of the last run at `REPORT_PATH`."""
    from prefect.server.api.server import create_app
    from starlette.responses import FileResponse, PlainTextResponse, Response
    from starlette.routing import Route

    report = REPORT.absolute()

    async def serve_report(_request: object) -> Response:
        if not report.is_file():
            return PlainTextResponse(f"There is no report yet: {REPORT} is written by the stage report.", 404)
        return FileResponse(report, media_type="text/html", headers=REPORT_HEADERS)

    app = create_app()
    app.router.routes.insert(0, Route(REPORT_PATH, serve_report))  # before the UI, which answers every path
    return app


def _main() -> None:
    die_with_parent()
    import uvicorn

    config = uvicorn.Config(
        "flows.prefect_app.server:app_with_report",
        factory=True,
        log_level="warning",
        timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    _main()
