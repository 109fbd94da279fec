"""The webhook: what it gets, and that a receiver which fails costs a line and a moment, and shows no secret."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from atlas_model.core.params import Params, load_params
from flows.monitoring import notify as module
from flows.monitoring.notify import notify
from tests.support.paths import ROOT
from tests.support.servers import RawServer, dripping, raw_serving, response

SECRET = "/services/T0/B0/very-secret"


def given(webhook: str | None) -> Params:
    content = load_params(ROOT / "params.yaml").model_dump()
    content["notify"]["webhook"] = webhook
    return Params.model_validate(content)


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, str | None, bytes]]]]:
    """A webhook's URL, and what came there: path, content type, body."""
    came: list[tuple[str, str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.path, self.headers["Content-Type"], body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}{SECRET}", came
        server.shutdown()
        thread.join()


def test_slack_payload(
    receiver: tuple[str, list[tuple[str, str | None, bytes]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, came = receiver
    notify("stage train failed: 1 < 2 & <!channel>\nits log: …", given(url))
    monkeypatch.setenv("WEBHOOK", url)
    notify("again", given("$WEBHOOK"))
    (path, kind, body), (_, _, again) = came
    assert (path, kind) == (SECRET, "application/json")
    assert json.loads(body) == {"text": "stage train failed: 1 &lt; 2 &amp; &lt;!channel&gt;\nits log: …"}
    assert json.loads(again) == {"text": "again"}
    assert capsys.readouterr().err == "127.0.0.1 was notified\n" * 2


def test_without_webhook_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    notify("hello", given(None))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (response(b"no_team", status="403 Forbidden"), "HTTP status 403"),
        (response(b"", "Location: http://127.0.0.1:1/elsewhere", status="302 Found"), "HTTP status 302"),
        (response(b"", status="302 Found"), "HTTP status 302"),
        (b"what?\r\n\r\n", "ConnectionError"),
        (dripping(b"HTTP/1.1 200 OK\r\nX: "), "no response within 1 s"),
        (lambda client, ended: ended.wait(30), "no response within 1 s"),
    ],
    ids=["refuses", "redirects", "redirects nowhere", "speaks no HTTP", "drips", "is silent"],
)
def test_failing_webhook_costs_one_line_and_little_time(
    answer: bytes, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 1.0)
    with raw_serving(RawServer({SECRET: answer})) as server:
        started = time.monotonic()
        notify("hello", given(f"http://127.0.0.1:{server.port}{SECRET}"))
        assert time.monotonic() - started < 20, "a busy machine"
        assert server.asked(SECRET) == 1
    said = capsys.readouterr().err
    assert said.startswith("warning: 127.0.0.1 was not notified: ")
    assert words in said
    assert said.count("\n") == 1
    assert "secret" not in said


@pytest.mark.parametrize(
    ("webhook", "words"),
    [
        ("http://127.0.0.1:1" + SECRET, "127.0.0.1 was not notified: ConnectionError"),
        ("http://[::1" + SECRET, "the webhook was not notified: "),
        ("very-secret", "the webhook was not notified: MissingSchema"),
        ("ftp://x.test" + SECRET, "x.test was not notified: InvalidSchema"),
        ("$NO_SUCH_VARIABLE", "notify.webhook is $NO_SUCH_VARIABLE, but that environment variable is not set"),
    ],
)
def test_invalid_webhook_url_costs_one_line(webhook: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    notify("hello", given(webhook))
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert "very-secret" not in said
