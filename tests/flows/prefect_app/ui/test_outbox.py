"""The outbox: what a run shows arrives in order and once, whatever the server does, and the run never waits for it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect_app.ui import outbox as module
from flows.prefect_app.ui.outbox import UNSENT, Outbox
from tests.support.waiting import wait_until

LINE, STATE = ("POST", "/logs/"), ("POST", "/flow_runs/x/set_state")


@dataclass
class Notes:
    """What a server accepted, and what it answers."""

    accepted: list[tuple[str, Any]] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)  # the next ones; then success
    headers: dict[str, str] = field(default_factory=dict)  # of failures
    always: tuple[int, bytes] | None = None  # instead of success
    silent: threading.Event = field(default_factory=threading.Event)  # set: it does not answer
    asked: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def lines(self) -> list[Any]:
        return [line for path, body in self.accepted if path == "/api/logs/" for line in body]


@contextmanager
def running(notes: Notes) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            notes.asked += 1
            while notes.silent.is_set():
                time.sleep(0.02)
            status, answer = notes.answers.pop(0) if notes.answers else notes.always or (201, b"{}")
            if status == 201:
                notes.accepted.append((self.path, body))
            self.send_response(status)
            for name, value in notes.headers.items() if status != 201 else ():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PATCH = do_POST

        def do_GET(self) -> None:  # of a token against CSRF, which this server does not need
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", notes.port), Handler) as server:
        server.daemon_threads = True
        notes.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            notes.silent.clear()
            server.shutdown()
            thread.join()


@pytest.fixture
def notes() -> Iterator[Notes]:
    notes = Notes()
    with running(notes), temporary_settings({PREFECT_API_URL: notes.url}):
        yield notes


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "RETRY_S", (0.02, 0.1))
    monkeypatch.setattr(module, "STALLED_S", 1.0)


def put_lines(box: Outbox, *texts: str) -> None:
    for text in texts:
        box.put(*LINE, {"message": text})


def test_sends_in_order_and_lines_together(notes: Notes, capsys: pytest.CaptureFixture[str]) -> None:
    box = Outbox(notes.url)
    put_lines(box, "a", "b")
    assert box.wait()
    notes.silent.set()
    put_lines(box, "c", "d", "e")
    box.put(*STATE, {"state": 1})
    put_lines(box, "f")
    notes.silent.clear()
    box.close()
    assert [line["message"] for line in notes.lines()] == ["a", "b", "c", "d", "e", "f"]
    paths = [path for path, _ in notes.accepted]
    assert paths[-2:] == ["/api/flow_runs/x/set_state", "/api/logs/"]
    assert len(paths) <= 5, "lines that waited came in one request"
    assert capsys.readouterr().err == ""
    assert not list(UNSENT.glob("*"))


@pytest.mark.parametrize(
    "answers",
    [
        [(500, b"{}")] * 8,
        [(200, b"<html>a page</html>"), (302, b""), (425, b"")] * 3,
        pytest.param([(503, b""), (429, b"slow down")], marks=pytest.mark.slow),  # Prefect's client waits as well
    ],
    ids=["error", "garbage", "busy"],
)
def test_outage_is_told_once_and_nothing_is_lost(
    notes: Notes, answers: list[tuple[int, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    box = Outbox(notes.url)
    notes.answers = list(answers)
    put_lines(box, "a", "b")
    wait_until(lambda: notes.asked > len(answers) / 2)
    put_lines(box, "c")
    assert wait_until(lambda: len(notes.lines()) == 3)
    box.close()
    assert [line["message"] for line in notes.lines()] == ["a", "b", "c"]
    warning, again = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: the Prefect server at {notes.url} does not answer as expected (")
    assert again == f"the Prefect server at {notes.url} answers again"


def test_waits_as_long_as_a_server_asks(notes: Notes) -> None:
    notes.answers, notes.headers = [(429, b"")], {"Retry-After": "1"}
    box = Outbox(notes.url)
    begun = time.monotonic()
    put_lines(box, "a")
    wait_until(notes.lines)
    assert time.monotonic() - begun >= 1
    box.close()


def test_rejected_message_is_told_and_does_not_stop_the_others(
    notes: Notes, capsys: pytest.CaptureFixture[str]
) -> None:
    box = Outbox(notes.url)
    notes.answers = [(422, b"{}"), (404, b"{}")]
    box.put(*STATE, {})
    box.put(*STATE, {})
    put_lines(box, "a")
    box.close()
    assert len(notes.lines()) == 1
    (warning,) = capsys.readouterr().err.splitlines()
    assert "(status 422 to POST /api/flow_runs/x/set_state)" in warning
    assert warning.endswith("What it refused is not shown there")


def test_what_json_cannot_hold_stops_nothing(notes: Notes) -> None:
    box = Outbox(notes.url)
    put_lines(box, "a\udcff")  # of a file name that is not UTF-8
    box.put(*LINE, {"message": float("nan")})
    box.put(*LINE, {"message": Path("b")})
    box.close()
    assert [line["message"] for line in notes.lines()] == ["a?", None, "b"]


def test_silent_server_delays_nothing_and_the_next_process_sends_the_rest(
    notes: Notes, capsys: pytest.CaptureFixture[str]
) -> None:
    box = Outbox(notes.url)
    put_lines(box, "a")
    wait_until(box.wait)  # it is connected
    notes.accepted.clear()
    notes.silent.set()
    begun = time.monotonic()
    put_lines(box, *map(str, range(1000)))
    assert time.monotonic() - begun < 1
    assert not box.wait(), "it tells that the server does not answer"
    box.put(*STATE, {"state": 2})
    box.close()
    assert time.monotonic() - begun < 30
    (kept,) = UNSENT.glob("*.json")
    assert capsys.readouterr().err.count("does not answer as expected") == 1
    notes.silent.clear()
    wait_until(notes.lines)  # of the request that was on its way
    notes.accepted.clear()

    other = Outbox("http://127.0.0.1:1/api")
    other.close()
    assert kept.exists(), "it is for another server"
    box = Outbox(notes.url)
    put_lines(box, "new")
    box.close()
    assert [line["message"] for line in notes.lines()] == [*map(str, range(1000)), "new"], "first what is older"
    assert ("/api/flow_runs/x/set_state", {"state": 2}) in notes.accepted
    assert not kept.exists()
    assert capsys.readouterr().err == f"sent to the Prefect server at {notes.url}: what it missed of 1 earlier run\n"


def test_server_that_was_never_there(notes: Notes, capsys: pytest.CaptureFixture[str]) -> None:
    with running(gone := Notes()):
        pass
    with temporary_settings({PREFECT_API_URL: gone.url}):
        box = Outbox(gone.url)
        put_lines(box, "a")
        assert not box.wait()
        put_lines(box, "b")
        box.close()
    (kept,) = UNSENT.glob("*.json")
    assert len(json.loads(kept.read_text())["messages"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_outage_fills_neither_memory_nor_disk(
    notes: Notes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES", 10)
    monkeypatch.setattr(module, "MAX_FILES", 2)
    notes.always = (500, b"{}")
    for number in range(4):
        box = Outbox(notes.url)
        put_lines(box, *(f"{number} {line}" for line in range(20)))
        box.close()
    assert len(list(UNSENT.glob("*.json"))) == 2
    for kept in UNSENT.glob("*.json"):
        messages = json.loads(kept.read_text())["messages"]
        assert [message[2]["message"] for message in messages][-1].endswith(" 19"), "the newest are kept"
        assert len(messages) == 10
    warnings = capsys.readouterr().err
    assert "the oldest are discarded" in warnings
    assert warnings.count("which no Prefect server has received") == 2


def test_damaged_file_is_told_and_stops_nothing(notes: Notes, capsys: pytest.CaptureFixture[str]) -> None:
    UNSENT.mkdir(parents=True)
    (UNSENT / "1.json").write_text('{"server": ')
    (UNSENT / "2.json").write_text(json.dumps({"server": notes.url, "messages": [1]}))
    box = Outbox(notes.url)
    put_lines(box, "a")
    box.close()
    assert len(notes.lines()) == 1
    assert capsys.readouterr().err.count("expected messages for the Prefect server") == 2
