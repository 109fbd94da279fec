"""Names of flow runs: the time of the schedule, or who started it, and the snapshot of a new crawl."""

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

GENERATED = re.compile(r"[a-z]+-[a-z]+")  # as Prefect names a run that was given no name: radical-deer
MANUAL = "manual"


def name_of_current_run() -> str:
    """The name of the flow run that is starting; Prefect calls this (`flow_run_name`)."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return MANUAL if run is None else name_of(run, timezone_of(run))


def name_of(run: FlowRun, timezone: str) -> str:
    """``schedule 2026-11-29 03:00``, ``automation <name>`` or ``manual``; a name that was given to the run is kept.

    Args:
        run: the run; two lower-case words with a hyphen count as Prefect's name for it.
        timezone: of the time.
    """
    if not GENERATED.fullmatch(run.name):
        return run.name
    if run.auto_scheduled and run.expected_start_time is not None:
        return f"schedule {local_time(run.expected_start_time, timezone)}"
    if run.created_by is not None and run.created_by.type == "AUTOMATION":
        return f"automation {run.created_by.display_value}"
    return MANUAL


def local_time(time: datetime, timezone: str) -> str:
    """``time`` to the minute, in ``timezone``."""
    return f"{time.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M}"


def timezone_of(run: FlowRun) -> str:
    """The timezone of the schedule that created ``run``; UTC for other runs."""
    if run.deployment_id is None:
        return "UTC"
    try:
        with get_client(sync_client=True) as client:
            schedules = client.read_deployment(run.deployment_id).schedules
    except Exception:  # a name is no reason to fail
        return "UTC"
    own = run.created_by.id if run.created_by is not None else None
    found = sorted(schedules, key=lambda each: each.id != own)
    return (getattr(found[0].schedule, "timezone", None) if found else None) or "UTC"
