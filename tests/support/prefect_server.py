"""A real Prefect server on a free port, and requests to its API.

The fixture `prefect_server` (conftest) shares one among the tests of a worker: query only runs of the same test.
Workers do not share one, because its database would be locked too often.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.shared_processes import first_in, start

BUSY_TIMEOUT_S = 60
START_TIMEOUT_S = 900  # the first start creates the database: 15 s on idle cores, minutes on a busy machine
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignores proxies that a test has set
PROGRAM = """
import sys
from tests.support.shared_processes import end_with_pytest
end_with_pytest(int(sys.argv[2]))
import uvicorn
uvicorn.run("prefect.server.api.server:create_app", factory=True, fd=int(sys.argv[1]), log_level="error")
"""


@dataclass(frozen=True)
class PrefectServer:
    """A running server: ``url`` is its PREFECT_API_URL, ``log`` its log file."""

    url: str
    log: Path
    headers: dict[str, str] = field(default_factory=dict)  # of each request, such as that with a password

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON response of ``path``: to a POST of ``body``, or to a GET without one."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **self.headers},
        )
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                with DIRECT.open(request, timeout=60) as reply:
                    return json.loads(reply.read() or "null")
            except urllib.error.HTTPError as error:
                with error:  # 503: the database is locked; retry
                    if error.code != 503 or time.monotonic() > deadline:
                        raise
            time.sleep(0.2)

    def flow_run(self, **fields: Any) -> dict[str, Any]:
        """The only flow run whose ``fields`` (id, name, ...) are in the given lists."""
        (run,) = self.ask("/flow_runs/filter", {"flow_runs": {name: {"any_": v} for name, v in fields.items()}})
        return dict(run)

    def of_flow_run(self, kind: str, flow_run_id: str) -> list[dict[str, Any]]:
        """All ``kind`` (task_runs, logs, artifacts) of a flow run, oldest first."""
        if kind == "task_runs":
            return self._all(kind, {"flow_runs": {"id": {"any_": [flow_run_id]}}, "sort": "EXPECTED_START_TIME_ASC"})
        if kind == "logs":
            return self._all(kind, {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "TIMESTAMP_ASC"})
        found = self._all(kind, {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}})
        return sorted(found, key=lambda artifact: str(artifact["created"]))

    def _all(self, kind: str, question: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.ask(f"/{kind}/filter", {**question, "offset": len(found)})
            if not page:
                return found
            found += page


def start_server(folder: Path, shared: Path) -> PrefectServer:
    """A server that ends with pytest.

    A server creates its database in five seconds of CPU time, so the first one leaves an empty copy to the others. The
    current PREFECT_HOME gets one as well, if it has none, for temporary servers.

    Args:
        folder: of its database.
        shared: a folder of all workers.
    """
    log, empty = folder / "server.log", shared / "empty.db"
    server = None
    with first_in(shared) as is_first:
        if is_first:
            server = _start(folder, log)
            with closing(sqlite3.connect(folder / "prefect.db")) as live:
                live.execute("VACUUM INTO ?", [str(empty)])
    mine = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    if not mine.exists():
        mine.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(empty, mine)
    if server is None:
        shutil.copyfile(empty, folder / "prefect.db")
        server = _start(folder, log)
    return server


def _start(folder: Path, log: Path) -> PrefectServer:
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        process = start(
            [sys.executable, "-c", PROGRAM, str(listener.fileno())],
            env={**os.environ, "PREFECT_HOME": str(folder), "PREFECT_UI_ENABLED": "false"},
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
    server = PrefectServer(url, log)
    try:
        _wait_until_healthy(server, process)
    except BaseException:
        process.kill()
        raise
    process.returncode = 0  # nobody here waits for its end
    return server


def _wait_until_healthy(server: PrefectServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert process.poll() is None, f"the server ended: {server.log.read_text()}"
        assert time.monotonic() < deadline, f"the server does not answer: {server.log.read_text()}"
        with suppress(OSError):
            server.ask("/health")
            return
        time.sleep(0.1)
