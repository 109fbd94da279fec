"""A Prefect server of the project's own: a child process that ends with the one that started it.

Knows its settings, port, database and health; nothing of flows or schedules. Imports no Prefect, which takes seconds:
the child does.

The parent holds the listening socket. A server that ended is started again on it: what is asked meanwhile waits,
instead of being refused. So is the port free or not before anything is started.

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
from typing import Self

import requests

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.processes import die_with_parent
from atlas_model.core.progress import say

HOST = "127.0.0.1"
START_TIMEOUT_S = 900.0  # a new database takes some 15 s on two quiet cores, and minutes on busy ones
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1
HEALTH = "/api/health"
CLOSE_TIMEOUT_S = 2  # how long open pages and websockets are waited for at the end
EVENT_DAYS = 7  # at most: events are many, and only there to be reacted to
HEAVY_EVENTS = ("prefect.artifact-collection.created", "prefect.artifact-collection.updated")  # hold whole images
HEAVY_EVENT_S = 3600
DATABASE_URL = "PREFECT_API_DATABASE_CONNECTION_URL"
DRIVERS = {  # what people write -> what Prefect reads
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
QUIET = {  # nothing of this machine is told to anybody
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
}


class Server:
    """The server of one project: its socket, its process, its log.

    Args:
        folder: of its database (if none is named by ``environment``) and its log.
        port: to listen at; 0: any free one.
        retention_days: runs that ended longer ago leave the database, with their logs and artifacts.
        environment: for the process; what it sets of Prefect's is left as it is.

    Raises:
        InputError: the port is taken; the URL of the database is not one that Prefect reads.
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
        self._question = HTTPConnection(*self._socket.getsockname())
        self._answered = False  # since it was started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; the calling thread must outlive it."""
        self._ask()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.prefect_app.server", str(self._socket.fileno())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._socket.fileno()],
                process_group=0,  # deaf to Ctrl-C: it is told how the runs ended, then stopped
            )

    def keep_up(self) -> None:
        """Start it again if it has ended; to be called every now and then.

        Raises:
            AtlasError: it ended before it answered once.
        """
        assert self._process is not None
        answered = self._has_answered()
        if (exit_code := self._process.poll()) is not None:
            if not answered:
                raise AtlasError(f"the Prefect server ended, and does not start again: {self._last_words()}")
            say(f"the Prefect server ended (exit code {exit_code}): starting it again")
            self.start()

    def wait_until_healthy(self) -> None:
        """Wait until it answers.

        Raises:
            AtlasError: it ended, or does not answer in time; the text is the last that it said.
        """
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._has_answered():
            if self._process.poll() is not None:
                raise AtlasError(f"the Prefect server did not start: {self._last_words()}")
            if time.monotonic() > deadline:
                raise AtlasError(f"the Prefect server does not answer at {self.url}: {self._last_words()}")
            time.sleep(POLL_S)

    def _ask(self) -> None:
        """Ask how it is; the question waits in the socket until the process is ready to answer."""
        self._question.close()
        self._question.request("GET", HEALTH)
        self._answered = False

    def _has_answered(self) -> bool:
        if not self._answered and select.select([self._question.sock], [], [], 0)[0]:
            try:
                self._answered = self._question.getresponse().status == HTTPStatus.OK
            except (OSError, HTTPException):  # it ended meanwhile
                self._ask()
        return self._answered

    def stop(self) -> None:
        """End it, and let go of the port."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._question.close()
        self._socket.close()

    def _last_words(self) -> str:
        said = self.log.read_text(encoding="utf-8", errors="replace")
        errors = re.findall(r"^[\w.]+(?:Error|Exception)\b.*", said, re.MULTILINE) or said.strip().splitlines()
        return f"{errors[-1] if errors else 'it said nothing'}\n{self.log} holds all that it said"


def server_settings(folder: Path, url: str, retention_days: int) -> dict[str, str]:
    """The server's own settings: who may ask it, what it says, and when it forgets.

    Prefect's server has services that delete what is old; it leaves those for runs switched off.
    """
    return {
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Pages of other sites, open in the same browser, could otherwise ask and order.
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
    """Where the server keeps its data: ``given`` with the driver that it needs, else SQLite in ``folder``.

    Raises:
        InputError: ``given`` is neither PostgreSQL nor SQLite. (The text does not repeat it: it may hold a password.)
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
            f"{f'one of {scheme}' if separator else 'no URL'}. Mend it, or unset it for SQLite in {folder}"
        )
    return f"{DRIVERS[scheme]}://{rest}"


def is_healthy(url: str, timeout_s: float) -> bool:
    """Whether a Prefect server answers at ``url``; a socket that is listening is waited for."""
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
            fault = f"{'a Prefect server of another project' if prefect else 'another program'} has it"
        raise InputError(
            f"port {port} of {HOST} cannot be listened at: {fault}. Take another: make up PORT=4201"
        ) from error


def _main() -> None:
    die_with_parent()
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        log_level="warning",
        timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    _main()
