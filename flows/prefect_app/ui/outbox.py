"""Sends what Prefect's UI shows of a run, from a thread of its own: logs, events, artifacts, names, the final state.

A run neither waits for the server nor fails because of it. Messages are sent in order, and again until the server
accepts them. One line says that the server does not answer, one that it does again. What is left at the end of the
process is kept in `UNSENT`, and the next run that reaches the server sends it. Delivery is at least once: a server that
stores a message and does not answer may show a log line twice.

Prefect's own senders retry each message alone, for minutes, and write a line about each.
"""

import atexit
import contextvars
import fcntl
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from atlas_model.core.files import write_json
from atlas_model.core.progress import say
from crawlers.http.policy import MAX_RETRY_AFTER_S, is_transient_status, retry_after_s
from flows.paths import WORK

UNSENT = WORK / "unsent"
BATCHES = ("/logs/", "/events")  # paths that take a list
AT_ONCE = 200  # elements of such a list
MAX_MESSAGES = 20_000  # in memory; the oldest are discarded
MAX_FILES = 20  # in `UNSENT`; the oldest are deleted
TIMEOUT_S = 60.0  # of a request: a server whose database is locked answers after up to a minute
RETRY_S = (1.0, 30.0)  # between attempts: doubled from the first to the second
STALLED_S = 10.0  # without an answer: the end of a run does not wait longer
WARN_AGAIN_S = 600.0
LATER = f"What its page lacks is sent when the server answers again, by this run or, from {UNSENT}, by a later one"


class Message(NamedTuple):
    """A request that changes something at the server."""

    method: str
    path: str
    body: Any  # of a path in `BATCHES`: one element


class Outbox:
    """The messages for one server.

    Args:
        server: the URL of its API; empty: the temporary server of this process.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._queue: deque[Message] = deque()
        self._changed = threading.Condition()
        self._answered_s = time.monotonic()  # when the server last answered, or had nothing to answer
        self._fault = ""  # why the last attempt failed; empty: it did not
        self._warned_s = -WARN_AGAIN_S
        self._closing = False
        self._kept = True  # whether there may be messages of earlier runs
        context = contextvars.copy_context()  # has the settings of Prefect
        self._thread = threading.Thread(target=lambda: context.run(self._work), daemon=True)
        self._thread.start()

    def put(self, method: str, path: str, body: Any) -> None:
        """Send a request later; returns at once."""
        body = _sendable(body)
        warning = ""
        with self._changed:
            if not self._queue:
                self._answered_s = time.monotonic()
            if len(self._queue) >= MAX_MESSAGES:
                self._queue.popleft()
                warning = self._warning(f"more than {MAX_MESSAGES} messages wait for it, and the oldest are discarded")
            self._queue.append(Message(method, path, body))
            self._changed.notify_all()
        _print(warning)

    def wait(self) -> bool:
        """Wait until everything is sent; False if the server does not answer, or not for `STALLED_S`."""
        with self._changed:
            while self._queue and not self._fault and self._silent_s() < STALLED_S:
                self._changed.wait(0.1)
            return not self._queue

    def close(self) -> None:
        """Send what is left if the server answers; keep the rest in a file."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()  # one more attempt
        if self._fault or self.wait():
            self._thread.join(STALLED_S)
        with self._changed:
            left = list(self._queue)
            self._queue.clear()
            warning = self._warning(self._fault or f"no answer for {self._silent_s():.0f} s") if left else ""
        if left:
            _keep(self._server, left)
        _print(warning)

    def warn(self, fault: str) -> None:
        """Print that the server does not answer, unless that was done in the last minutes."""
        with self._changed:
            warning = self._warning(fault)
        _print(warning)

    def _warning(self, fault: str, what_follows: str = LATER) -> str:
        """The line about ``fault``; empty if there was one in the last minutes."""
        if time.monotonic() - self._warned_s < WARN_AGAIN_S:
            return ""
        self._warned_s = time.monotonic()
        return f"warning: {self._name()} does not answer as expected ({fault}). The run continues. {what_follows}"

    def _name(self) -> str:
        return f"the Prefect server at {self._server}" if self._server else "the temporary Prefect server"

    def _answered(self) -> None:
        with self._changed:
            self._answered_s = time.monotonic()

    def _silent_s(self) -> float:
        return time.monotonic() - self._answered_s

    def _work(self) -> None:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # retried here
            delay_s = RETRY_S[0]
            while self._wait_for_messages():
                try:
                    self._send_all()
                    delay_s = RETRY_S[0]
                except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
                    with self._changed:
                        self._fault = reason_of(error)
                        warning, closing = self._warning(self._fault), self._closing
                    _print(warning)
                    if closing:
                        return
                    with self._changed:
                        self._changed.wait_for(lambda: self._closing, max(delay_s, _retry_after_s(error)))
                    delay_s = min(2 * delay_s, RETRY_S[1])

    def _send_all(self) -> None:
        """Send what waits, until there is nothing for a while."""
        with _client() as client:
            if self._kept:
                _send_kept(client, self._server, self._name(), self._answered)
                self._kept = False
            while messages := self._next():
                self._send(client, messages)

    def _wait_for_messages(self) -> bool:
        """Wait for messages; False if it was closed and all are sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return bool(self._queue)

    def _next(self) -> list[Message]:
        """The first messages, as many as one request can take."""
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(1.0)  # keeps the connection for messages that follow soon
            return first_request(self._queue)

    def _send(self, client: SyncPrefectClient, messages: list[Message]) -> None:
        line = rejected = ""
        try:
            send(client, messages)
        except RejectedError as error:
            rejected = str(error)
        with self._changed:
            sent = set(map(id, messages))
            while self._queue and id(self._queue[0]) in sent:  # the oldest may have been discarded meanwhile
                self._queue.popleft()
            self._answered_s = time.monotonic()
            if rejected:
                line = self._warning(rejected, "What it refused is not shown there")
            elif self._fault:
                self._fault = ""
                line = f"{self._name()} answers again"
            self._changed.notify_all()
        _print(line)


def _print(line: str) -> None:
    """Print ``line`` unless it is empty. No lock may be held: stderr may be the log of a task, which ends here."""
    if line:
        say(line)


def outbox() -> Outbox:
    """The outbox for the server of the current settings."""
    server = get_current_settings().api.url or ""
    with _lock:
        if server not in _outboxes:
            _outboxes[server] = Outbox(server)
        return _outboxes[server]


_outboxes: dict[str, Outbox] = {}
_lock = threading.Lock()


@atexit.register
def close_all() -> None:
    """Close all outboxes of this process."""
    for box in list(_outboxes.values()):
        try:
            box.close()
        except OSError as error:
            say(f"warning: what the Prefect server lacks of this run is lost: {error}")
    _outboxes.clear()


class RejectedError(Exception):
    """The server understood the request and refuses it, so that a retry is useless."""


def first_request(messages: Iterable[Message]) -> list[Message]:
    """The first of ``messages``, with those after it that the same request can take."""
    found: list[Message] = []
    for message in messages:
        if found and (message.path != found[0].path or message.path not in BATCHES or len(found) == AT_ONCE):
            break
        found.append(message)
    return found


def send(client: SyncPrefectClient, messages: Sequence[Message]) -> None:
    """Send ``messages``, as `first_request` returns them, in one request.

    Raises:
        RejectedError: the server refuses the request.
        httpx.HTTPError: it cannot be reached, or cannot answer now.
        ValueError: it answers with something else than JSON.
    """
    method, path, body = messages[0]
    if path in BATCHES:
        body = [message.body for message in messages]
    try:
        response = client.request(method, path, json=body)  # type: ignore[arg-type] # one of their methods
    except httpx.HTTPStatusError as error:
        if error.response.is_client_error and not is_transient_status(error.response.status_code):
            raise RejectedError(reason_of(error)) from error
        raise
    if response.content:
        response.json()


def reason_of(error: BaseException) -> str:
    """A few words."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code} to {error.request.method} {error.request.url.path}"
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if isinstance(error, ValueError) else text or type(error).__name__


def _sendable(body: Any) -> Any:
    """``body`` as JSON can hold it: characters without an encoding become ?, numbers that are not finite null."""
    text = json.dumps(body, ensure_ascii=False, default=str, skipkeys=True)
    return json.loads(text.encode("utf-8", "replace"), parse_constant=lambda _: None)


def _client() -> SyncPrefectClient:
    return get_client(sync_client=True, httpx_settings={"timeout": httpx.Timeout(TIMEOUT_S, connect=STALLED_S)})


def _retry_after_s(error: BaseException) -> float:
    asked = error.response.headers.get("Retry-After") if isinstance(error, httpx.HTTPStatusError) else None
    return min(retry_after_s(asked) or 0.0, MAX_RETRY_AFTER_S)


def _keep(server: str, messages: Sequence[Message]) -> None:
    """Write ``messages`` to a file, and delete the oldest files beyond `MAX_FILES`."""
    write_json(UNSENT / f"{time.time_ns()}-{os.getpid()}.json", {"server": server, "messages": list(messages)})
    for old in _files()[:-MAX_FILES]:
        old.unlink(missing_ok=True)
        say(f"warning: deleted {old}, which no Prefect server has received: more than {MAX_FILES} files wait for one")


def _files() -> list[Path]:
    return sorted(UNSENT.glob("*.json"))


def _send_kept(client: SyncPrefectClient, server: str, name: str, answered: Callable[[], None]) -> None:
    """Send the messages that earlier runs could not send to this server."""
    runs = 0
    for path in _files():
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as handle:  # another process sends it
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                found = json.loads(handle.read())
                messages = [Message(*each) for each in found["messages"]] if found["server"] == server else []
            except (ValueError, TypeError, KeyError):
                say(f"warning: {path}: expected messages for the Prefect server, got something else. Delete it")
                continue
            if not messages:
                continue
            try:
                while request := first_request(messages):
                    with suppress(RejectedError):  # for example of a run that was deleted
                        send(client, request)
                    answered()
                    messages = messages[len(request) :]
            except BaseException:
                write_json(path, {"server": server, "messages": messages})
                raise
            path.unlink()
            runs += 1
    if runs:
        say(f"sent to {name}: what it missed of {runs} earlier {'run' if runs == 1 else 'runs'}")
