"""Changes what Prefect's UI shows of the current flow run: its name, its tags, its artifacts, its events.

All of it goes through the outbox, because no fault of the server is a reason to fail a run.
"""

import json
from collections.abc import Collection
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

from flows.prefect_app.steps import RunEvent
from flows.prefect_app.ui.artifacts import Artifact
from flows.prefect_app.ui.outbox import outbox

PREFIX = "atlas."


def add_tags(tags: Collection[str]) -> None:
    """Add ``tags`` to the current flow run."""
    if tags:
        _update(lambda run: {"tags": sorted({*(run.tags or []), *tags})})


def append_to_name(text: str) -> None:
    """Append ``text`` to the name of the current flow run."""
    _update(lambda run: {} if text in run.name else {"name": f"{run.name}, {text}"})


def add_artifact(artifact: Artifact) -> None:
    """Add ``artifact`` to the current task run, or, outside a task, to the current flow run."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    run = flow.flow_run if flow is not None else None
    body = {
        "type": artifact.kind,
        "key": artifact.key,
        "description": artifact.description,
        "data": json.dumps(artifact.data) if artifact.kind == "table" else artifact.data,
        "task_run_id": str(task.task_run.id) if task is not None else None,
        "flow_run_id": str(run.id) if run is not None else None,
    }
    outbox().put("POST", "/artifacts/", body)


def emit(event: RunEvent) -> None:
    """Emit ``event``. Prefect adds the flow run, its deployment and its tags as related resources."""
    resource = {"prefect.resource.id": f"{PREFIX}{event.resource}", "prefect.resource.name": event.resource_name}
    emit_event(event=f"{PREFIX}{event.name}", resource=resource, payload=event.payload)


def _update(changes_of: Any) -> None:
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None:
        return
    changes = changes_of(run)
    if not changes:
        return
    outbox().put("PATCH", f"/flow_runs/{run.id}", changes)
    for name, value in changes.items():
        setattr(run, name, value)
