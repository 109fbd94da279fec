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

HOURS = 5


def deployment_of(server: PrefectServer, name: str) -> str:
    """One that is due every hour, so that no further run becomes due while a test runs."""
    flow = server.ask("/flows/", {"name": "atlas"})["id"]
    schedule = {"schedule": {"cron": "0 * * * *"}, "active": True}
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
        period = {"start_time": str(now - timedelta(hours=HOURS)), "end_time": str(now + timedelta(hours=3))}
        prefect_server.ask(f"/deployments/{deployment}/schedule", {**period, "min_runs": HOURS + 3, "max_runs": 100})
    by_hand = prefect_server.ask(f"/deployments/{mine}/create_flow_run", {})["id"]
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
        runs = [client.read_flow_run(UUID(run)) for run in states(prefect_server, mine) if run != by_hand]
        begun = min(runs, key=lambda run: run.expected_start_time or now)
        context: Any = SimpleNamespace(get=lambda: SimpleNamespace(flow_run=begun))
        monkeypatch.setattr(missed_schedules, "FlowRunContext", context)
        told: list[str] = []
        late = {str(run.id): run.expected_start_time for run in runs if run.id != begun.id and is_late(run)}
        times = sorted(f"{time:%Y-%m-%d %H:%M}" for time in late.values() if time)
        assert len(times) >= HOURS - 2
        assert missed_schedules.cancel_missed_runs(told.append) == times
        assert missed_schedules.cancel_missed_runs(told.append) == times, "of the same run"
        unserved = {"type": "CANCELLED", "name": missed_schedules.NAME, "message": missed_schedules.UNSERVED}
        before = states(prefect_server, mine)
        waiting = next(run.id for run in runs if before[str(run.id)] == "Scheduled" and run.id != begun.id)
        prefect_server.ask(f"/flow_runs/{waiting}/set_state", {"state": unserved, "force": True})
        assert len(missed_schedules.cancel_missed_runs(told.append)) == len(times) + 1, "also before this run"
        prefect_server.ask(f"/flow_runs/{by_hand}/set_state", {"state": {"type": "RUNNING"}, "force": True})
        assert missed_schedules.cancel_missed_runs(told.append) == times, "another run has listed the other one"
    line = f"warning: {len(times)} times of the schedule were missed: {', '.join(times)}. This run replaces them"
    assert told[:2] == [line, line]
    assert len(told) == 4
    after = states(prefect_server, mine)
    names = {prefect_server.ask(f"/flow_runs/{run}")["name"] for run in late}
    assert names == {f"schedule {time}" for time in times}
    assert {run for run, name in after.items() if name == missed_schedules.NAME} == {*late, str(waiting)}
    assert after[by_hand] == "Running"
    assert after[str(begun.id)] in {"Scheduled", "Late"}
    assert missed_schedules.NAME not in states(prefect_server, other).values()


def is_late(run: FlowRun) -> bool:
    return missed_schedules.is_overdue(run, datetime.now(UTC))


def test_shell_run_asks_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert missed_schedules.cancel_missed_runs(told.append) == []
    run: Any = SimpleNamespace(flow_run=SimpleNamespace(id=None, deployment_id=None))
    monkeypatch.setattr(missed_schedules, "FlowRunContext", SimpleNamespace(get=lambda: run))
    assert missed_schedules.cancel_missed_runs(told.append) == []
    assert not told


def test_unreachable_server_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(flow_run=SimpleNamespace(id=None, deployment_id="x"))
    monkeypatch.setattr(missed_schedules, "FlowRunContext", SimpleNamespace(get=lambda: run))

    def refuse(**_: object) -> int:
        raise OSError("no server")

    monkeypatch.setattr(missed_schedules, "get_client", refuse)
    told: list[str] = []
    assert missed_schedules.cancel_missed_runs(told.append) == []
    assert told == ["warning: overdue runs could not be listed: no server"]
