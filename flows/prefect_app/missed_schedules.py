"""Times of the schedule that passed before anybody could begin: of several, one run.

Prefect makes up for each of them, one run after the other, and a runner that is at its limit never gets as far as
asking a deployment's concurrency limit about the others
(https://github.com/PrefectHQ/prefect/issues/21060, /15886). So a run that begins stands in for all of them.

Knows nothing of what a run does.
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

NAME = "Missed"  # of the state of a run that another one stands in for


def is_overdue(run: FlowRun, now: datetime) -> bool:
    """Whether ``run`` waits, by the schedule rather than by somebody's order, although its time has come."""
    return bool(run.auto_scheduled and run.expected_start_time and run.expected_start_time <= now)


def stand_in_for_missed_times(tell: Callable[[str], None]) -> int:
    """Cancel what is overdue of the deployment of the flow run that calls this; how many runs that were.

    Nothing happens where no deployment began it. What cannot be asked of the server is told, and no fault.

    Args:
        tell: gets a line.
    """
    context = FlowRunContext.get()
    own = context.flow_run if context is not None else None
    if own is None or own.deployment_id is None:
        return 0
    try:
        missed = _cancel_overdue(own.deployment_id, own.id)
    except Exception as error:  # of the network or the server: what is overdue runs later, as Prefect would have it
        tell(f"runs that are overdue could not be looked for: {error}")
        return 0
    if missed:
        tell(f"{missed} more times of the schedule have passed by now: this run stands in for them")
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
            state: State[Any] = Cancelled(name=NAME, message=f"Another run stands in for it: {own}.")
            client.set_flow_run_state(run.id, state, force=True)
    return len(overdue)
