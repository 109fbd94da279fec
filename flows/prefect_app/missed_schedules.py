"""Cancels overdue runs of the schedule when a run starts, so that several missed times lead to one run.

Prefect executes all of them, one after the other, because a runner at its limit does not check the concurrency limit of
the deployment (https://github.com/PrefectHQ/prefect/issues/21060, /15886).
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.states import Cancelled

NAME = "Missed"  # of the state of a cancelled overdue run


def is_overdue(run: FlowRun, now: datetime) -> bool:
    """Whether ``run`` was created by the schedule, has not started, and its time has passed."""
    return bool(run.auto_scheduled and run.expected_start_time and run.expected_start_time <= now)


def cancel_missed_runs(tell: Callable[[str], None]) -> int:
    """Cancel the overdue runs of the deployment of the current flow run; returns their number.

    Does nothing for a run without deployment. An error of the server is reported with ``tell``, not raised.

    Args:
        tell: called with a line of text.
    """
    context = FlowRunContext.get()
    own = context.flow_run if context is not None else None
    if own is None or own.deployment_id is None:
        return 0
    try:
        missed = _cancel_overdue(own.deployment_id, own.id)
    except Exception as error:  # of the network or the server: then the overdue runs are executed later
        tell(f"warning: overdue runs could not be listed: {error}")
        return 0
    if missed:
        tell(f"{missed} overdue runs of the schedule are cancelled: this run replaces them")
    return missed


def _cancel_overdue(deployment: UUID, own: UUID) -> int:
    with get_client(sync_client=True) as client:
        now = datetime.now(UTC)
        waiting = {"state": {"type": {"any_": [StateType.SCHEDULED]}}, "expected_start_time": {"before_": now}}
        found = client.read_flow_runs(
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment]}}),
            flow_run_filter=FlowRunFilter.model_validate(waiting),
        )
        overdue = [run for run in found if run.id != own and is_overdue(run, now)]
        for run in overdue:
            state: State[Any] = Cancelled(name=NAME, message=f"Replaced by another run: {own}.")
            client.set_flow_run_state(run.id, state, force=True)
    return len(overdue)
