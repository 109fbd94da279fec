"""Of several times of the schedule that nobody could keep, one is run: with a real server, and a run that begins."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect_app import missed_schedules
from tests.support.prefect_server import PrefectServer

MINUTES = 5


def deployment_of(server: PrefectServer, name: str) -> str:
    """One that is due every minute."""
    flow = server.ask("/flows/", {"name": "atlas"})["id"]
    schedule = {"schedule": {"cron": "* * * * *"}, "active": True}
    return str(server.ask("/deployments/", {"name": name, "flow_id": flow, "schedules": [schedule]})["id"])


def states(server: PrefectServer, deployment: str) -> dict[str, str]:
    """Run -> the name of its state."""
    found = server.ask("/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}})
    return {run["id"]: run["state_name"] for run in found}


@pytest.mark.slow
def test_starting_run_replaces_missed_schedules(prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    mine, other = (deployment_of(prefect_server, name) for name in ("mine", "other"))
    for deployment in (mine, other):
        hours = {"start_time": str(now - timedelta(minutes=MINUTES)), "end_time": str(now + timedelta(minutes=3))}
        prefect_server.ask(f"/deployments/{deployment}/schedule", {**hours, "min_runs": 1, "max_runs": 100})
    by_hand = prefect_server.ask(f"/deployments/{mine}/create_flow_run", {})["id"]
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
        runs = [client.read_flow_run(UUID(run)) for run in states(prefect_server, mine) if run != by_hand]
        begun = min(runs, key=lambda run: run.expected_start_time or now)
        context: Any = SimpleNamespace(get=lambda: SimpleNamespace(flow_run=begun))
        monkeypatch.setattr(missed_schedules, "FlowRunContext", context)
        told: list[str] = []
        late = {str(run.id) for run in runs if run.id != begun.id and is_late(run)}
        assert missed_schedules.cancel_missed_runs(told.append) == len(late) >= MINUTES - 2
        assert missed_schedules.cancel_missed_runs(told.append) == 0
    assert told == [f"{len(late)} overdue runs of the schedule are cancelled: this run replaces them"]
    after = states(prefect_server, mine)
    assert {run for run, name in after.items() if name == missed_schedules.NAME} == late
    assert {after[by_hand], after[str(begun.id)]} <= {"Scheduled", "Late"}
    assert missed_schedules.NAME not in states(prefect_server, other).values()


def is_late(run: FlowRun) -> bool:
    return missed_schedules.is_overdue(run, datetime.now(UTC))


def test_shell_run_asks_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert missed_schedules.cancel_missed_runs(told.append) == 0
    run: Any = SimpleNamespace(flow_run=SimpleNamespace(id=None, deployment_id=None))
    monkeypatch.setattr(missed_schedules, "FlowRunContext", SimpleNamespace(get=lambda: run))
    assert missed_schedules.cancel_missed_runs(told.append) == 0
    assert not told


def test_unreachable_server_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(flow_run=SimpleNamespace(id=None, deployment_id="x"))
    monkeypatch.setattr(missed_schedules, "FlowRunContext", SimpleNamespace(get=lambda: run))

    def refuse(*_: object) -> int:
        raise OSError("no server")

    monkeypatch.setattr(missed_schedules, "_cancel_overdue", refuse)
    told: list[str] = []
    assert missed_schedules.cancel_missed_runs(told.append) == 0
    assert told == ["warning: overdue runs could not be listed: no server"]
