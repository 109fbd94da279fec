"""What `make up` tells a Prefect server: the deployment "atlas/atlas", its schedule, and what to do about dead runs.

Knows neither params.yaml nor how the server came to be; talks to the one that ``PREFECT_API_URL`` names.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.runner import Runner
from prefect.schedules import Cron, Schedule
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from atlas_model.core.errors import ParamsError
from atlas_model.core.processes import INTERRUPTED
from atlas_model.core.progress import say
from flows.prefect_app.flow import atlas
from flows.prefect_app.missed_schedules import is_overdue

NAME = "atlas"
HEARTBEAT_S = 30  # what Prefect allows at least
HEARTBEATS_MISSED = 3  # then a run counts as dead
POLL_S = 5  # how often runs that are due are asked for
RETRY_S = 10  # after Prefect has given up asking
AUTOMATION = "A run without heartbeat has crashed"
UNFINISHED = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


def schedule_of(cron: str | None, timezone: str) -> Schedule | None:
    """When the flow runs by itself, with a new crawl each time; None: never.

    Raises:
        ParamsError: there is no such time or timezone.
    """
    if cron is None:
        return None
    faults = []
    try:
        ZoneInfo(timezone)
    except (OSError, ValueError, KeyError):
        faults.append(f'pipeline.timezone: expected a name as in "Europe/Zurich"; got {timezone!r}')
    try:
        schedule = Cron(cron, timezone=timezone, parameters={"recrawl": True}, slug="cron")
    except ValueError:
        faults.append(f'pipeline.cron: expected five fields as in "0 3 * * *", or null for never; got {cron!r}')
    if faults:
        raise ParamsError.from_faults("params.yaml", faults)
    return schedule


async def serve(
    schedule: Schedule | None,
    ready: Callable[[], None],
    every_second: Callable[[], None],
    stopping: Collection[signal.Signals],
) -> None:
    """Start the runs that are due, one at a time, until a signal comes; then end the one at work.

    Args:
        schedule: when the flow runs by itself.
        ready: called once runs can be ordered.
        every_second: called while serving; what it raises ends the serving.
        stopping: the signals that end it. A second one ends it at once, with all its children.
    """
    stop = asyncio.Event()
    logging.getLogger("prefect.runner").setLevel(logging.WARNING)  # it says at each poll that a run has to wait

    def on_signal() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()

    while not stop.is_set():
        try:
            runner = Runner(NAME, query_seconds=POLL_S, heartbeat_seconds=HEARTBEAT_S, limit=1, pause_on_shutdown=False)
            await register(runner, schedule)
            serving = asyncio.create_task(runner.start())
            await asyncio.sleep(0)  # the first that it does is to set a signal handler
            for number in stopping:
                asyncio.get_running_loop().add_signal_handler(number, on_signal)
            ready()
            await _watch(runner, serving, every_second, stop)
        except* (httpx.HTTPError, RuntimeError) as trouble:  # of a server that is not there, or cannot ask its database
            fault = str(trouble.exceptions[0]).partition("\n")[0]
            say(f"the Prefect server cannot be asked: {fault}; again in {RETRY_S} s")
            await _pause(stop, timeout_s=RETRY_S)


async def _watch(
    runner: Runner, serving: asyncio.Task[None], every_second: Callable[[], None], stop: asyncio.Event
) -> None:
    """Wait until ``runner`` fails or is to stop; then its run ends as cancelled."""
    try:
        while not serving.done() and not stop.is_set():
            await _pause(stop, timeout_s=1)
            every_second()
    finally:
        if runner.started:
            await runner.astop()
        else:
            serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def _pause(stop: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), timeout_s)


async def register(runner: Runner, schedule: Schedule | None) -> UUID:
    """Make ``runner`` serve the flow, and leave the server in order; the deployment's id.

    Whoever calls this is the only one who serves it.
    """
    # By its module's name: the current folder may be another project than the one that the code is in.
    deployment = await runner.aadd_flow(
        atlas, name=NAME, schedules=[schedule] if schedule else [], entrypoint_type=EntrypointType.MODULE_PATH
    )
    async with get_client() as client:
        await _crash_what_died_with_us(client, deployment)
        await _drop_what_is_overdue(client, deployment)
        if not await client.read_automations_by_name(AUTOMATION):
            await client.create_automation(crash_without_heartbeat())
    return deployment


def crash_without_heartbeat() -> AutomationCore:
    """The automation for all other runs: whoever started them may be dead as well, and can tell nothing.

    Source: https://docs.prefect.io/v3/advanced/detect-zombie-flows
    """
    heartbeat = "prefect.flow-run.heartbeat"
    silence_s = HEARTBEAT_S * HEARTBEATS_MISSED
    return AutomationCore(
        name=AUTOMATION,
        trigger=EventTrigger(
            after={heartbeat},
            expect={"prefect.flow-run.*"},  # any sign of life, and any ending: some have names of our own
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message=f"Nothing was heard of it for {silence_s} s: its process has died."
            )
        ],
    )


async def _crash_what_died_with_us(client: PrefectClient, deployment: UUID) -> None:
    """Runs end with the program that serves them: those that the database still shows at work were killed with it."""
    for run in await _runs(client, deployment, UNFINISHED):
        state: State[Any] = Crashed(message="It was killed, together with the program that served it.")
        await client.set_flow_run_state(run.id, state, force=True)


async def _drop_what_is_overdue(client: PrefectClient, deployment: UUID) -> None:
    """Times that passed while nothing was up are missed; else the flow would now run once for each of them."""
    for run in await _runs(client, deployment, [StateType.SCHEDULED]):
        if is_overdue(run, datetime.now(UTC)):
            await client.delete_flow_run(run.id)


async def _runs(client: PrefectClient, deployment: UUID, states: Collection[StateType]) -> list[FlowRun]:
    return await client.read_flow_runs(
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": list(states)}}}),
    )
