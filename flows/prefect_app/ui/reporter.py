"""Reports the progress, the log lines and the state of a stage to a Prefect server, with plain HTTP requests.

`post` is the watcher that the flow passes to its stages (``ATLAS_WATCHER``). A stage neither waits for the server nor
fails because of it: messages are queued, up to a limit, and sent by a separate thread. A server that does not respond
causes one warning, which in a flow is that of the flow itself, and a delay of at most `FLUSH_S` at the end.
"""

import atexit
import json
import os
import re
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import requests

from atlas_model.core.progress import Step, describe, say
from flows.text import in_markdown

API_URL = "PREFECT_API_URL"
FLOW_RUN = "ATLAS_FLOW_RUN_ID"
TASK_RUN = "ATLAS_TASK_RUN_ID"
CERTIFICATES = ("PREFECT_API_SSL_CERT_FILE", "SSL_CERT_FILE")  # the variables of Prefect's own client
TIMEOUT_S = 5.0  # of one request
RETRY_S = 30.0  # between attempts after a failure
FLUSH_S = 1.0  # to send the rest of the queue at the end
LINES_AT_ONCE = 500  # per request, which a busy server has to process within `TIMEOUT_S`
MAX_LINES = 5000  # in the queue; the oldest are discarded
LOGGER = "stage"
TRANSIENT = (408, 425, 429)  # as in `crawlers.http.policy`, which a stage should not depend on for its reports


def post(step: Step) -> None:
    """Show ``step`` as the progress of its job: one artifact per job, on the task run of the stage."""
    poster = poster_of_stage()
    if poster is not None:
        poster.progress(step)


@cache
def poster_of_stage() -> "Poster | None":
    """The poster for the task run in the environment; None if there is none."""
    if _posters:
        return _posters[-1]
    url, flow_run, task_run = (os.environ.get(name) for name in (API_URL, FLOW_RUN, TASK_RUN))
    if not (url and flow_run and task_run):
        return None
    runs = (flow_run, task_run)
    poster = Poster(Api(url), lambda _: runs, tell=None)  # whoever started the run tells of faults, once for all stages
    atexit.register(poster.close)
    return poster


_posters: list["Poster"] = []


def use_poster(poster: "Poster") -> None:
    """Make `post` use ``poster`` instead of the environment."""
    _posters.append(poster)
    poster_of_stage.cache_clear()


class BusyError(OSError):
    """Transient error of the server, for example because its database is locked."""


class PrefectApiError(Exception):
    """The server rejected a request; a retry is useless."""


class Api:
    """Requests to a Prefect API, one after another over one connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()  # reopens a connection that the server has closed
        self._session.trust_env = False  # no proxies, no passwords from ~/.netrc
        self._session.verify = next(filter(None, map(os.environ.get, CERTIFICATES)), True)
        self._session.headers["Content-Type"] = "application/json"
        if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
            self._session.headers["Authorization"] = f"Basic {b64encode(auth.encode()).decode()}"
        elif key := os.environ.get("PREFECT_API_KEY"):
            self._session.headers["Authorization"] = f"Bearer {key}"

    def request(self, method: str, path: str, body: Any) -> Any:
        """The JSON of the response.

        Raises:
            OSError: the server cannot be reached, times out, or sends an invalid response.
            BusyError: status 5xx, or another that is transient (429).
            PrefectApiError: another status of 4xx.
        """
        url = self.url.rstrip("/") + path
        how: dict[str, Any] = {"timeout": TIMEOUT_S, "allow_redirects": False}
        try:
            response = self._session.request(method, url, data=json.dumps(body), **how)
            status, answer = response.status_code, response.content
            if status < 400:
                return json.loads(answer or b"null")
        except (requests.RequestException, ValueError) as error:
            # urllib3's error holds the cause.
            cause = getattr(error.args[0] if error.args else None, "reason", None) or error
            raise OSError(str(cause) or type(error).__name__) from error
        text = f"status {status} to {method} {path}"
        if status >= 500 or status in TRANSIENT:
            raise BusyError(text)
        raise PrefectApiError(f"{text}: {answer[:200].decode(errors='replace')}")

    def close(self) -> None:
        """Close the connection; a later request opens another."""
        self._session.close()


class LogLine(NamedTuple):
    """A line of a log."""

    at: str  # ISO 8601, UTC
    level: int
    text: str


def send_lines(api: Api, runs: tuple[str, str], lines: Iterable[LogLine]) -> None:
    """Add ``lines`` to the log of the flow run and the task run with the ids ``runs``."""
    entries = [{"name": LOGGER, "level": line.level, "message": line.text, "timestamp": line.at} for line in lines]
    api.request("POST", "/logs/", [{**entry, **_ids(runs)} for entry in entries])


def set_state(api: Api, kind: str, run: str, state: dict[str, Any]) -> None:
    """Set the state of a run (``kind``: flow_runs, task_runs), whatever its state was."""
    api.request("POST", f"/{kind}/{run}/set_state", {"state": state, "force": True})


def key_of(name: str) -> str:
    """``name`` as a key of a Prefect artifact: lower-case letters, digits, hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"


def _ids(runs: tuple[str, str]) -> dict[str, str]:
    return {"flow_run_id": runs[0], "task_run_id": runs[1]}


class Poster:
    """Sends messages about one task run in the background.

    Args:
        api: of the server.
        open_runs: returns the ids of the flow run and of the task run, creating them if needed.
        tell: called with the first fault of the server, as a line of text; None: nobody is told.
    """

    def __init__(
        self,
        api: Api,
        open_runs: Callable[[Api], tuple[str, str]],
        *,
        tell: Callable[[str], None] | None = say,
    ) -> None:
        self.api = api
        self._tell = tell
        self._failed = False
        self._open_runs = open_runs
        self._runs: tuple[str, str] | None = None
        self._queue: dict[Hashable, Callable[[], None]] = {}  # by subject: only the latest message of each is sent
        self._lines: deque[LogLine] = deque(maxlen=MAX_LINES)
        self._artifacts: dict[str, str] = {}  # job -> id
        self._warned = False
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def log(self, level: int, text: str) -> None:
        """Add a line to the log of the task run."""
        with self._changed:
            self._lines.append(LogLine(datetime.now(UTC).isoformat(), level, text))
            self._changed.notify()

    def progress(self, step: Step) -> None:
        """Show the progress of a job."""
        self._put(("progress", step.job), lambda: self._send_progress(step))

    def state(self, state: dict[str, Any]) -> None:
        """Set the state of the task run."""
        self._put("state", lambda: self._set_state(state))

    def close(self, wait_s: float = FLUSH_S) -> list[LogLine]:
        """Send the queue for at most ``wait_s``; returns the lines that were not sent."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_s)
        if self.is_slow and wait_s:
            self._warn_once("slow to respond: not all messages of this stage were sent")
        with self._changed:
            return list(self._lines)

    @property
    def is_unreachable(self) -> bool:
        """Whether the server could not be reached, or rejected the runs."""
        return self._failed and self._runs is None

    @property
    def is_slow(self) -> bool:
        """Whether it was closed before the queue was sent."""
        return self._thread.is_alive()

    def _put(self, key: Hashable, send: Callable[[], None]) -> None:
        with self._changed:
            self._queue[key] = send
            self._changed.notify()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self.api.close()

    def _work(self) -> None:
        while self._wait_for_messages():
            try:
                self._send_all()
            except PrefectApiError as error:  # the runs could not be created
                self._failed = True
                self._warn_once(f"{error}: the stage continues, and is not reported there")
                return
            except OSError as error:
                self._failed = not isinstance(error, BusyError)
                self._warn_once(f"{error}: the stage continues, and is not reported there")
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, RETRY_S):
                        return

    def _wait_for_messages(self) -> bool:
        """Wait for messages; returns False if it was closed and the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._queue or self._lines or not self._runs)
            return bool(self._queue or self._lines or not self._runs)

    def _send_all(self) -> None:
        runs = self._runs = self._runs or self._open_runs(self.api)
        with self._changed:
            lines, waiting = list(islice(self._lines, LINES_AT_ONCE)), dict(self._queue)
        if lines:
            self._unless_rejected(lambda: send_lines(self.api, runs, lines))
            with self._changed:
                sent = set(map(id, lines))  # the oldest may have been discarded in the meantime
                while self._lines and id(self._lines[0]) in sent:
                    self._lines.popleft()
        for key, send in waiting.items():
            self._unless_rejected(send)
            with self._changed:
                if self._queue.get(key) is send:
                    del self._queue[key]

    def _unless_rejected(self, send: Callable[[], None]) -> None:
        try:
            send()
        except PrefectApiError as error:
            self._warn_once(str(error))

    def _send_progress(self, step: Step) -> None:
        shown = {"data": round(100 * step.share, 1), "description": in_markdown(describe(step))}
        known = self._artifacts.get(step.job)
        if known is not None:
            self.api.request("PATCH", f"/artifacts/{known}", shown)
            return
        assert self._runs is not None
        # Without a key it is shown on the page of the run, and not in the list of all artifacts, which is for results.
        new = {"type": "progress", **shown, **_ids(self._runs)}
        made = self.api.request("POST", "/artifacts/", new)
        self._artifacts[step.job] = made["id"]

    def _set_state(self, state: dict[str, Any]) -> None:
        assert self._runs is not None
        set_state(self.api, "task_runs", self._runs[1], state)

    def _warn_once(self, fault: str) -> None:
        if not self._warned and self._tell is not None:
            self._warned = True
            self._tell(f"warning: {self.api.url}: {fault}")
