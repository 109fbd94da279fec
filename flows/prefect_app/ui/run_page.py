"""Changes what Prefect's UI shows of the current flow run: its name, its tags, its events.

An error of the server is a warning in the log, because none of this is a reason to fail a run.
"""

from collections.abc import Collection
from typing import Any

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event

from flows.prefect_app.steps import RunEvent

PREFIX = "atlas."


def add_tags(tags: Collection[str]) -> None:
    """Add ``tags`` to the current flow run."""
    if tags:
        _update(lambda run: {"tags": sorted({*(run.tags or []), *tags})})


def append_to_name(text: str) -> None:
    """Append ``text`` to the name of the current flow run."""
    _update(lambda run: {} if text in run.name else {"name": f"{run.name}, {text}"})


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
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, **changes)
    except Exception as error:
        get_run_logger().warning("the page of this run could not be updated: %s", error)
        return
    for name, value in changes.items():
        setattr(run, name, value)
