"""Registers the deployment "atlas/atlas" with its schedule at the Prefect server, and runs its flow runs.

Used by `make up`. The server is that of ``PREFECT_API_URL``. Runs whose process has died are marked as crashed.
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
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron, Schedule
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from atlas_model.core.errors import ParamsError
from atlas_model.core.processes import INTERRUPTED
from atlas_model.core.progress import say
from flows.prefect_app.flow import DESCRIPTION, atlas
from flows.prefect_app.missed_schedules import UNSERVED, is_overdue, missed_state, times_of
from flows.prefect_app.ui.outbox import reason_of
from flows.prefect_app.ui.run_log import OutageFilter
from flows.prefect_app.ui.run_names import name_of, timezone_of
from flows.prefect_app.ui.summary import missed_text

NAME = "atlas"
HEARTBEAT_S = 30  # the shortest that Prefect allows
HEARTBEATS_MISSED = 3  # after which a run counts as crashed
POLL_S = 5  # between requests for due runs
RETRY_S = 10  # after Prefect's runner has given up
AUTOMATION = "A run without heartbeat has crashed"
UNFINISHED = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


def schedule_of(cron: str | None, timezone: str) -> Schedule | None:
    """The schedule of the flow, with a new crawl in each run; None: no schedule.

    Raises:
        ParamsError: the cron string or the timezone is not valid.
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
        faults.append(f'pipeline.cron: expected five fields as in "0 3 * * *", or null for no schedule; got {cron!r}')
    if faults:
        raise ParamsError.from_faults("params.yaml", faults)
    return schedule


async def serve(
    schedule: Schedule | None,
    ready: Callable[[], None],
    every_second: Callable[[], None],
    stopping: Collection[signal.Signals],
) -> None:
    """Start due runs, one at a time, until a signal arrives; then cancel the current run.

    Args:
        schedule: the schedule of the flow.
        ready: called when runs can be created.
        every_second: called once per second; an exception ends the loop.
        stopping: the signals that end the loop. A second signal ends this process and its children at once.
    """
    stop = asyncio.Event()
    logging.getLogger("prefect.runner").setLevel(logging.WARNING)  # at INFO it logs at each poll that a run has to wait
    for handler in logging.getLogger("prefect").handlers:
        handler.addFilter(OutageFilter())
    away = False  # whether that was told

    def on_signal() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()

    while not stop.is_set():
        try:
            runner = Runner(NAME, query_seconds=POLL_S, heartbeat_seconds=HEARTBEAT_S, limit=1, pause_on_shutdown=False)
            await register(runner, schedule)
            serving = asyncio.create_task(runner.start())
            await asyncio.sleep(0)  # it first sets a signal handler, which is replaced below
            for number in stopping:
                asyncio.get_running_loop().add_signal_handler(number, on_signal)
            ready()
            away = False
            await _watch(runner, serving, every_second, stop)
        except* (httpx.HTTPError, RuntimeError) as trouble:  # the server or its database cannot be reached
            if not away:
                fault = reason_of(trouble.exceptions[0])
                say(f"warning: no response from the Prefect server: {fault}; retrying every {RETRY_S} s")
            away = True
            await _pause(stop, timeout_s=RETRY_S)


async def _watch(
    runner: Runner, serving: asyncio.Task[None], every_second: Callable[[], None], stop: asyncio.Event
) -> None:
    """Wait until ``runner`` fails or ``stop`` is set; then cancel its run."""
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
    """Register the flow for ``runner`` and clean up runs of an earlier process; returns the id of the deployment.

    Only one process may serve the deployment at a time.
    """
    async with get_client() as client:
        with suppress(ObjectNotFound):  # the first time
            known = await client.read_deployment_by_name(f"{atlas.name}/{NAME}")
            await _mark_missed_runs(client, known.id)  # first, because the registration deletes scheduled runs
    # By module name, because the code may be outside the current folder.
    deployment = await runner.aadd_flow(
        atlas,
        name=NAME,
        schedules=[schedule] if schedule else [],
        description=DESCRIPTION,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    async with get_client() as client:
        await _mark_killed_runs(client, deployment)
    await create_crash_automation()
    return deployment


async def create_crash_automation() -> None:
    """Create the automation at the server of ``PREFECT_API_URL``, unless it exists."""
    async with get_client() as client:
        if not await client.read_automations_by_name(AUTOMATION):
            await client.create_automation(crash_without_heartbeat())


def crash_without_heartbeat() -> AutomationCore:
    """The automation that marks runs without heartbeat as crashed, for runs whose starter may have died too.

    Source: https://docs.prefect.io/v3/advanced/detect-zombie-flows
    """
    heartbeat = "prefect.flow-run.heartbeat"
    silence_s = HEARTBEAT_S * HEARTBEATS_MISSED
    return AutomationCore(
        name=AUTOMATION,
        trigger=EventTrigger(
            after={heartbeat},
            expect={"prefect.flow-run.*"},  # any event of the run, also states with names of our own
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message=f"No heartbeat for {silence_s} s: its process has died."
            )
        ],
    )


async def _mark_killed_runs(client: PrefectClient, deployment: UUID) -> None:
    """Mark unfinished runs as crashed: they were killed together with the process that served them."""
    for run in await _runs(client, deployment, UNFINISHED):
        state: State[Any] = Crashed(message="It was killed together with the process that served it.")
        await client.set_flow_run_state(run.id, state, force=True)


async def _mark_missed_runs(client: PrefectClient, deployment: UUID) -> None:
    """Cancel overdue scheduled runs, whose time passed while no process served the deployment, and print the times."""
    overdue = [
        run for run in await _runs(client, deployment, [StateType.SCHEDULED]) if is_overdue(run, datetime.now(UTC))
    ]
    if not overdue:
        return
    timezone = await asyncio.to_thread(timezone_of, overdue[0])
    for run in overdue:
        await client.update_flow_run(run.id, name=name_of(run, timezone))
        await client.set_flow_run_state(run.id, missed_state(UNSERVED), force=True)
    say(f"warning: {missed_text(times_of(overdue, timezone))}. The next run replaces them")


async def _runs(client: PrefectClient, deployment: UUID, states: Collection[StateType]) -> list[FlowRun]:
    return await client.read_flow_runs(
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": list(states)}}}),
    )
