"""What stages tell a Prefect server, against a server that notes what it is told, or misbehaves."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from atlas_model.core.progress import Step
from flows.prefect_app.ui import reporter
from flows.prefect_app.ui.reporter import Api, Poster, key_of, post, poster_of_stage
from tests.support.waiting import wait_until


class Told:
    """What a server was told, and what it answers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: dict[str, str] = {}
        self.statuses: list[int] = []  # of the next answers, then 200
        self.url = ""

    def bodies(self, method: str, path: str) -> list[Any]:
        return [body for one, where, body in self.requests if (one, where) == (method, path)]


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.headers = dict(self.headers)
            status = told.statuses.pop(0) if told.statuses else 200
            if status == 200:
                told.requests.append((self.command, self.path, body))
            answer = json.dumps({"id": f"id-{len(told.requests)}"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PATCH = do_POST

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        told.url = f"http://127.0.0.1:{server.server_address[1]}/api"
        yield told
        server.shutdown()
        thread.join()


@contextmanager
def deaf_server() -> Iterator[str]:
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def poster_to(url: str) -> Poster:
    return Poster(Api(url), lambda _: ("flow", "task"))


def poster_that_waits(url: str) -> tuple[Poster, threading.Event]:
    """A poster that sends nothing until the event is set."""
    started = threading.Event()

    def open_runs(_: Api) -> tuple[str, str]:
        assert started.wait(60)
        return "flow", "task"

    return Poster(Api(url), open_runs), started


def drain(poster: Poster) -> None:
    """Close, however slow this machine is."""
    poster.close()
    poster._thread.join(60)
    assert not poster._thread.is_alive()


def step(done: int, total: int | None = 4, *, finished: bool = False) -> Step:
    return Step("Train: <model>", done, total, "epochs", {"loss": 0.5}, finished)


def test_updates_one_progress_artifact_per_job(told: Told) -> None:
    poster = poster_to(told.url)
    for done in (1, 2):
        poster.progress(step(done))
        drain(poster)
        poster = after(poster)
    poster.progress(step(4, finished=True))
    drain(poster)
    (made,) = told.bodies("POST", "/api/artifacts/")
    assert made["type"] == "progress"
    assert "key" not in made, "so that it is not among the results"
    assert made["data"] == 25
    assert (made["flow_run_id"], made["task_run_id"]) == ("flow", "task")
    assert "<" not in made["description"]
    assert [body["data"] for body in told.bodies("PATCH", "/api/artifacts/id-1")] == [50, 100]


def after(poster: Poster) -> Poster:
    """A poster that knows what ``poster`` has posted."""
    again = poster_to(poster.api.url)
    again._artifacts = poster._artifacts
    return again


def test_queue_keeps_latest_step_of_each_job(told: Told) -> None:
    poster, started = poster_that_waits(told.url)
    for done in range(4):
        poster.progress(step(done, None))
        poster.log(logging.INFO, f"line {done}")
    poster.progress(step(4, None, finished=True))
    poster.state({"type": "COMPLETED"})
    started.set()
    drain(poster)
    (made,) = told.bodies("POST", "/api/artifacts/")
    assert made["data"] == 100, "of an unknown total, at its end"
    (lines,) = told.bodies("POST", "/api/logs/")
    assert [line["message"] for line in lines] == [f"line {done}" for done in range(4)]
    assert lines[0].keys() == {"name", "level", "message", "timestamp", "flow_run_id", "task_run_id"}
    assert told.bodies("POST", "/api/task_runs/task/set_state") == [{"state": {"type": "COMPLETED"}, "force": True}]


def test_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "MAX_LINES", 3)
    with deaf_server() as url:
        poster = poster_to(url)
        for number in range(10):
            poster.log(logging.INFO, str(number))
        left = poster.close()
    assert [line.text for line in left] == ["7", "8", "9"]


def test_sends_many_log_lines_in_batches(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "LINES_AT_ONCE", 2)
    poster, started = poster_that_waits(told.url)
    for number in range(5):
        poster.log(logging.INFO, str(number))
    started.set()
    drain(poster)
    sent = [[line["message"] for line in lines] for lines in told.bodies("POST", "/api/logs/")]
    assert sent == [["0", "1"], ["2", "3"], ["4"]]


def test_hanging_server_costs_one_line_and_little_time(capsys: pytest.CaptureFixture[str]) -> None:
    with deaf_server() as url:
        poster = poster_to(url)
        poster.progress(step(1))
        started = time.monotonic()
        poster.close()
        assert time.monotonic() - started < reporter.TIMEOUT_S
        poster.close()
    assert capsys.readouterr().err == f"warning: {url}: slow to respond: not all messages of this stage were sent\n"


def test_reconnects_stale_keep_alive_connections() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull"
    closed = threading.Semaphore(0)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as request:
                    while request.readline().strip():
                        pass
                    request.read(len("{}"))
                    connection.sendall(answer)
                closed.release()

        thread = threading.Thread(target=serve)
        thread.start()
        with closing(Api(f"http://127.0.0.1:{listener.getsockname()[1]}/api")) as api:
            api.request("POST", "/one", {})
            assert closed.acquire(timeout=30)
            api.request("POST", "/two", {})
        thread.join()


def test_unreachable_server_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    poster = Poster(Api(url), lambda api: api.request("POST", "/flows/", {}))
    poster.log(logging.INFO, "a line")
    drain(poster)
    assert poster.is_unreachable
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {url}: ")
    assert said.endswith(": the stage continues, and is not reported there\n")
    assert said.count("\n") == 1


def test_retries_after_server_returns(
    told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reporter, "RETRY_S", 0.05)
    told.statuses = [503, 500, 429, 408]
    poster = poster_to(told.url)
    poster.log(logging.INFO, "a line")
    deadline = time.monotonic() + 60
    while not told.requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    drain(poster)
    assert len(told.bodies("POST", "/api/logs/")) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_retries_server_errors(told: Told) -> None:
    told.statuses = [503]
    poster = Poster(Api(told.url), lambda api: (api.request("POST", "/flow_runs/", {})["id"], "task"))
    wait_until(lambda: not told.statuses)
    drain(poster)
    assert not poster.is_unreachable, "somebody else may tell it later"


def test_drops_what_the_server_rejects(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.statuses = [422]
    poster = poster_to(told.url)
    poster.progress(step(1))
    poster.state({"type": "COMPLETED"})
    drain(poster)
    assert not poster.is_unreachable
    assert told.bodies("POST", "/api/artifacts/") == []
    assert len(told.bodies("POST", "/api/task_runs/task/set_state")) == 1
    assert "status 422 to POST /artifacts/" in capsys.readouterr().err


def test_reports_nothing_for_runs_the_server_rejects(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.statuses = [401]
    poster = Poster(Api(told.url), lambda api: api.request("POST", "/flows/", {}))
    poster.log(logging.INFO, "a line")
    drain(poster)
    assert poster.is_unreachable
    assert not told.requests
    assert "status 401" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("PREFECT_API_KEY", "secret", "Bearer secret"), ("PREFECT_API_AUTH_STRING", "me:pass", "Basic bWU6cGFzcw==")],
)
def test_credentials_come_from_environment(
    told: Told, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    with closing(Api(told.url)) as api:
        assert api.request("POST", "/logs/", [])["id"] == "id-1"
    assert told.headers["Authorization"] == expected


def test_progress_watcher_posts_for_runs_named_in_environment(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    poster_of_stage.cache_clear()
    post(step(1))
    assert poster_of_stage() is None
    for name, value in (("PREFECT_API_URL", told.url), ("ATLAS_FLOW_RUN_ID", "f"), ("ATLAS_TASK_RUN_ID", "t")):
        monkeypatch.setenv(name, value)
    poster_of_stage.cache_clear()
    post(step(1))
    poster = poster_of_stage()
    assert poster is not None
    drain(poster)
    assert told.bodies("POST", "/api/artifacts/")[0]["task_run_id"] == "t"
    poster_of_stage.cache_clear()


def test_stage_of_a_flow_leaves_it_to_the_flow_to_tell_of_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (
        (reporter.API_URL, "http://127.0.0.1:1/api"),
        (reporter.FLOW_RUN, "flow"),
        (reporter.TASK_RUN, "task"),
    ):
        monkeypatch.setenv(name, value)
    poster_of_stage.cache_clear()
    post(step(1))
    poster = poster_of_stage()
    assert poster is not None
    drain(poster)
    poster_of_stage.cache_clear()
    assert capsys.readouterr().err == ""


def test_artifact_keys_are_valid_for_prefect() -> None:
    assert key_of("zoom_train: Épochs 2") == "zoom-train-pochs-2"
    assert key_of("***") == "unnamed"
