"""Cancels overdue runs of the schedule when a run starts, so that several missed times lead to one run, and lists them.

A cancelled run keeps its time as its name and has the state `NAME`, so the UI shows which times were missed.

Prefect executes all of them, one after the other, because a runner at its limit does not check the concurrency limit of
the deployment (https://github.com/PrefectHQ/prefect/issues/21060, /15886).
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import Cancelled

from flows.prefect_app.ui.run_names import local_time, name_of, timezone_of
from flows.prefect_app.ui.summary import missed_text

UNSERVED = "No process served the deployment at that time."  # message of that state
LISTED = 100  # missed times since the last run, at most
NAME = "Missed"  # of the state of a cancelled overdue run


def is_overdue(run: FlowRun, now: datetime) -> bool:
    """Whether ``run`` was created by the schedule, has not started, and its time has passed."""
    return bool(run.auto_scheduled and run.expected_start_time and run.expected_start_time <= now)


def cancel_missed_runs(tell: Callable[[str], None]) -> list[str]:
    """Cancel the overdue runs of the deployment of the current flow run.

    Does nothing for a run without deployment. An error of the server is reported with ``tell``, not raised.

    Args:
        tell: called with a line of text.

    Returns:
        The missed times since the run before this one, in the timezone of the schedule, oldest first: those of the
        cancelled runs, and those that passed while no process served the deployment.
    """
    context = FlowRunContext.get()
    own = context.flow_run if context is not None else None
    if own is None or own.deployment_id is None:
        return []
    try:
        with get_client(sync_client=True) as client:
            _cancel_overdue(client, own.deployment_id, own)
            missed = times_of(_missed_since_last_run(client, own.deployment_id, own), timezone_of(own))
    except Exception as error:  # of the network or the server: then the overdue runs are executed later
        tell(f"warning: overdue runs could not be listed: {error}")
        return []
    if missed:
        tell(f"warning: {missed_text(missed)}. This run replaces them")
    return missed


def times_of(runs: Iterable[FlowRun], timezone: str) -> list[str]:
    """The scheduled times of ``runs``, oldest first."""
    return [
        local_time(time, timezone)
        for time in sorted(run.expected_start_time for run in runs if run.expected_start_time)
    ]


def missed_state(why: str) -> State[Any]:
    """The state of a run whose time was missed."""
    return Cancelled(name=NAME, message=why)


def _cancel_overdue(client: SyncPrefectClient, deployment: UUID, own: FlowRun) -> None:
    now = datetime.now(UTC)
    waiting = {"state": {"type": {"any_": [StateType.SCHEDULED]}}, "expected_start_time": {"before_": now}}
    overdue = [run for run in _runs(client, deployment, waiting) if run.id != own.id and is_overdue(run, now)]
    for run in overdue:
        client.update_flow_run(run.id, name=name_of(run, timezone_of(run)))
        client.set_flow_run_state(run.id, missed_state(_replaced_by(own)), force=True)


def _missed_since_last_run(client: SyncPrefectClient, deployment: UUID, own: FlowRun) -> list[FlowRun]:
    was_run = {"start_time": {"is_null_": False}, "state": {"name": {"not_any_": [NAME]}}}  # Prefect sets both
    begun = [run for run in _runs(client, deployment, was_run) if run.id != own.id]
    last = max((run.start_time for run in begun if run.start_time), default=datetime.min.replace(tzinfo=UTC))
    missed = _runs(client, deployment, {"state": {"name": {"any_": [NAME]}}})
    return [
        run
        for run in missed
        if run.state is not None
        and (run.state.message == _replaced_by(own) or (run.state.message == UNSERVED and run.state.timestamp > last))
    ]


def _replaced_by(own: FlowRun) -> str:
    return f"Replaced by another run: {own.id}."


def _runs(client: SyncPrefectClient, deployment: UUID, which: dict[str, Any]) -> list[FlowRun]:
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment]}}),
        flow_run_filter=FlowRunFilter.model_validate(which),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=LISTED,
    )
