"""Prefect's engine sends through the outbox, and a final state does not depend on the server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Crashed, Running

from flows.prefect_app.ui import engine
from flows.prefect_app.ui.outbox import UNSENT

RUN = uuid4()
CLIENT: Any = None  # it is not used


class Box:
    """An outbox that notes what it is given."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, Any]] = []
        self.warned: list[str] = []
        self.answers = True

    def put(self, method: str, path: str, body: Any) -> None:
        self.messages.append((method, path, body))

    def wait(self) -> bool:
        return self.answers

    def warn(self, fault: str) -> None:
        self.warned.append(fault)


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    box = Box()
    monkeypatch.setattr(engine, "outbox", lambda: box)
    monkeypatch.setattr(engine, "_all_events_are_in_outbox", lambda: True)  # Prefect's thread would start a server
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        yield box


PROGRAM = """
import json, logging
from prefect.events import emit_event
from prefect.logging.handlers import emit_api_log
from flows.prefect_app import flow
from flows.prefect_app.ui import engine, outbox
outbox._outboxes["http://127.0.0.1:1/api"] = box = outbox.Outbox("http://127.0.0.1:1/api")
box._closing = True  # one attempt
emit_event("atlas.test", resource={"prefect.resource.id": "atlas.x"})
assert engine._all_events_are_in_outbox()
emit_api_log({"message": "a line", "level": 20, "__payload_size__": 9})
print(json.dumps(list(box._queue)))
"""


@pytest.mark.slow
def test_events_and_log_records_go_through_the_outbox(tmp_path: Path) -> None:
    env = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (_, where, event), line = json.loads(done.stdout)
    assert (where, event["event"]) == ("/events", "atlas.test")
    assert line == ["POST", "/logs/", {"message": "a line", "level": 20}]
    (kept,) = (tmp_path / UNSENT).iterdir()
    assert len(json.loads(kept.read_text())["messages"]) == 2
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("answers", [True, False])
def test_final_state_is_sent_later_if_the_server_fails(
    box: Box, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise httpx.ReadTimeout("timed out")

    box.answers = answers
    monkeypatch.setattr(engine, "propose_state_sync", fail)
    state: Any = Completed(message="done")
    assert engine.propose_state(CLIENT, state, RUN) is state
    told = {"type": "COMPLETED", "name": "Completed", "message": "done"}
    assert box.messages == [("POST", f"/flow_runs/{RUN}/set_state", {"state": told, "force": True})]
    assert box.warned == (["timed out"] if answers else [])
    with pytest.raises(httpx.ReadTimeout):
        engine.propose_state(CLIENT, Running(), RUN)


def test_run_that_was_declared_dead_ends_in_its_real_state(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "propose_state_sync", lambda *_, **__: Crashed(message="No heartbeat"))
    state: Any = Completed(message="done")
    assert engine.propose_state(CLIENT, state, RUN) is state
    assert len(box.messages) == 1
    crashed: Any = Crashed(message="it was killed")
    assert engine.propose_state(CLIENT, crashed, RUN).message == "No heartbeat"


def test_engine_of_prefect_uses_it() -> None:
    from prefect import flow_engine

    from flows.prefect_app import flow

    assert flow.atlas.name == "atlas"
    assert vars(flow_engine)["propose_state_sync"] is engine.propose_state
