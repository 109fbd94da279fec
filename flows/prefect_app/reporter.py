"""What happens inside a stage, told to a Prefect server: progress, log lines, states. Plain HTTP, no Prefect.

`post` is the watcher that the flow names to its stages (``ATLAS_WATCHER``). Nothing here ever waits for the server or
fails because of it: what there is to tell is kept, up to a limit, and sent by a thread of its own. A server that does
not answer costs one line, and at most `FLUSH_S` at the end.

Knows nothing of what the stages do.
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
CERTIFICATES = ("PREFECT_API_SSL_CERT_FILE", "SSL_CERT_FILE")  # as Prefect's own client looks for them
TIMEOUT_S = 5.0  # of one request
RETRY_S = 30.0  # after a failure the server is left in peace for so long
FLUSH_S = 1.0  # for what is still to be sent at the end
LINES_AT_ONCE = 500  # in a request, which a busy server has to answer in `TIMEOUT_S`
MOST_LINES = 5000  # that wait to be sent; the oldest are dropped
LOGGER = "stage"


def post(step: Step) -> None:
    """Show ``step`` as the progress of its job: one artifact per job, on the node of the stage's task."""
    poster = poster_of_stage()
    if poster is not None:
        poster.progress(step)


@cache
def poster_of_stage() -> "Poster | None":
    """The poster for the task run that the environment names; None where it names none."""
    if _adopted:
        return _adopted[-1]
    url, flow_run, task_run = (os.environ.get(name) for name in (API_URL, FLOW_RUN, TASK_RUN))
    if not (url and flow_run and task_run):
        return None
    runs = (flow_run, task_run)
    poster = Poster(Api(url), lambda _: runs)
    atexit.register(poster.close)
    return poster


_adopted: list["Poster"] = []


def adopt(poster: "Poster") -> None:
    """Have `post` use ``poster``, whatever the environment names."""
    _adopted.append(poster)
    poster_of_stage.cache_clear()


class BusyError(OSError):
    """The server is there, but has failed at what it was asked (its database is locked, say): later it may not."""


class PrefectApiError(Exception):
    """The server has answered, but will not have it: to ask again is no use."""


class Api:
    """Requests to a Prefect API, one after another over one connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()  # opens a connection again that the server has closed meanwhile
        self._session.trust_env = False  # no proxies, and no passwords of ~/.netrc
        self._session.verify = next(filter(None, map(os.environ.get, CERTIFICATES)), True)
        self._session.headers["Content-Type"] = "application/json"
        if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
            self._session.headers["Authorization"] = f"Basic {b64encode(auth.encode()).decode()}"
        elif key := os.environ.get("PREFECT_API_KEY"):
            self._session.headers["Authorization"] = f"Bearer {key}"

    def ask(self, method: str, path: str, body: Any) -> Any:
        """The JSON that the server answers.

        Raises:
            OSError: it cannot be reached, or does not answer as a server does, or not in time.
            BusyError: it answers that it has failed.
            PrefectApiError: it answers that something is wrong with what it was asked.
        """
        url = self.url.rstrip("/") + path
        how: dict[str, Any] = {"timeout": TIMEOUT_S, "allow_redirects": False}
        try:
            response = self._session.request(method, url, data=json.dumps(body), **how)
            status, answer = response.status_code, response.content
            if status < 400:
                return json.loads(answer or b"null")
        except (requests.RequestException, ValueError) as error:
            cause = getattr(error.args[0] if error.args else None, "reason", None) or error  # within urllib3's
            raise OSError(str(cause) or type(error).__name__) from error
        text = f"status {status} to {method} {path}"
        if status >= 500:
            raise BusyError(text)
        raise PrefectApiError(f"{text}: {answer[:200].decode(errors='replace')}")

    def close(self) -> None:
        """Close the connection; a later request opens another."""
        self._session.close()


class LogLine(NamedTuple):
    """A line as it was said."""

    at: str  # ISO 8601, UTC
    level: int
    text: str


def send_lines(api: Api, runs: tuple[str, str], lines: Iterable[LogLine]) -> None:
    """Add ``lines`` to the log of the flow run and the task run whose ids are ``runs``."""
    entries = [{"name": LOGGER, "level": line.level, "message": line.text, "timestamp": line.at} for line in lines]
    api.ask("POST", "/logs/", [{**entry, **_ids(runs)} for entry in entries])


def set_state(api: Api, kind: str, run: str, state: dict[str, Any]) -> None:
    """Set the state of a run (``kind``: flow_runs, task_runs), whatever it was in."""
    api.ask("POST", f"/{kind}/{run}/set_state", {"state": state, "force": True})


def key_of(name: str) -> str:
    """``name`` as Prefect takes an artifact's key: lower-case letters, digits, hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"


def _ids(runs: tuple[str, str]) -> dict[str, str]:
    return {"flow_run_id": runs[0], "task_run_id": runs[1]}


class Poster:
    """Tells the server about one task run, in the background.

    Args:
        api: of the server.
        open_runs: gives the ids of the flow run and of the task run, having made them if it has to.
    """

    def __init__(self, api: Api, open_runs: Callable[[Api], tuple[str, str]]) -> None:
        self.api = api
        self._failed = False
        self._open_runs = open_runs
        self._runs: tuple[str, str] | None = None
        self._waiting: dict[Hashable, Callable[[], None]] = {}  # by what it is about: the latest of its kind will do
        self._lines: deque[LogLine] = deque(maxlen=MOST_LINES)
        self._artifacts: dict[str, str] = {}  # job -> id
        self._complained = False
        self._news = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def log(self, level: int, text: str) -> None:
        """Show a line in the log of the task run."""
        with self._news:
            self._lines.append(LogLine(datetime.now(UTC).isoformat(), level, text))
            self._news.notify()

    def progress(self, step: Step) -> None:
        """Show how far a job is."""
        self._put(("progress", step.job), lambda: self._send_progress(step))

    def state(self, state: dict[str, Any]) -> None:
        """Set the state of the task run."""
        self._put("state", lambda: self._set_state(state))

    def close(self, wait_s: float = FLUSH_S) -> list[LogLine]:
        """Send what waits, for ``wait_s`` at most; the lines that are left."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(wait_s)
        if self.is_slow and wait_s:
            self._complain("slow to answer: not all of this stage is shown yet")
        with self._news:
            return list(self._lines)

    @property
    def in_vain(self) -> bool:
        """Whether the server could not be reached, or would not have the runs."""
        return self._failed and self._runs is None

    @property
    def is_slow(self) -> bool:
        """Whether it was closed before all was sent."""
        return self._thread.is_alive()

    def _put(self, key: Hashable, send: Callable[[], None]) -> None:
        with self._news:
            self._waiting[key] = send
            self._news.notify()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self.api.close()

    def _work(self) -> None:
        while self._wait_for_news():
            try:
                self._send_all()
            except PrefectApiError as error:  # of the opening: there are no runs to add to
                self._failed = True
                self._complain(f"{error}: the stage goes on, and is not shown there")
                return
            except OSError as error:
                self._failed = not isinstance(error, BusyError)
                self._complain(f"{error}: the stage goes on, and is not shown there")
                with self._news:
                    if self._news.wait_for(lambda: self._closing, RETRY_S):
                        return

    def _wait_for_news(self) -> bool:
        """Whether there is something to send, sooner or later."""
        with self._news:
            self._news.wait_for(lambda: self._closing or self._waiting or self._lines or not self._runs)
            return bool(self._waiting or self._lines or not self._runs)

    def _send_all(self) -> None:
        runs = self._runs = self._runs or self._open_runs(self.api)
        with self._news:
            lines, waiting = list(islice(self._lines, LINES_AT_ONCE)), dict(self._waiting)
        if lines:
            self._unless_refused(lambda: send_lines(self.api, runs, lines))
            with self._news:
                sent = set(map(id, lines))  # the oldest may have been dropped meanwhile, to make room for newer ones
                while self._lines and id(self._lines[0]) in sent:
                    self._lines.popleft()
        for key, send in waiting.items():
            self._unless_refused(send)
            with self._news:
                if self._waiting.get(key) is send:
                    del self._waiting[key]

    def _unless_refused(self, send: Callable[[], None]) -> None:
        try:
            send()
        except PrefectApiError as error:
            self._complain(str(error))

    def _send_progress(self, step: Step) -> None:
        shown = {"data": round(100 * step.share, 1), "description": in_markdown(describe(step))}
        known = self._artifacts.get(step.job)
        if known is not None:
            self.api.ask("PATCH", f"/artifacts/{known}", shown)
            return
        assert self._runs is not None
        new = {"type": "progress", "key": key_of(step.job), **shown, **_ids(self._runs)}
        made = self.api.ask("POST", "/artifacts/", new)
        self._artifacts[step.job] = made["id"]

    def _set_state(self, state: dict[str, Any]) -> None:
        assert self._runs is not None
        set_state(self.api, "task_runs", self._runs[1], state)

    def _complain(self, fault: str) -> None:
        if not self._complained:
            self._complained = True
            say(f"warning: {self.api.url}: {fault}")
