"""Makes Prefect's engine send through the outbox, so that a server that does not answer neither stops nor delays a run.

Three places of Prefect are changed, in each process that imports the flow: where log records go, where events go, and
how the final state of a flow run is proposed. Without that, each log record and event of an outage is retried alone,
with a line on each, and a run whose work is done fails with a traceback because its final state cannot be set.
"""

import time
from typing import Any
from uuid import UUID

import prefect.flow_engine
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.events.schemas.events import Event
from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient, emit_events_to_cloud
from prefect.logging.handlers import set_api_log_sink
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.utilities.engine import propose_state_sync

from flows.prefect_app.ui.outbox import STALLED_S, outbox, reason_of

PROPOSAL_S = 20.0  # for the answer to a final state


class OutboxQueue:
    """Puts events into the outbox: the queue of one of Prefect's own clients, because events for others are ignored."""

    def put(self, item: tuple[str, Event]) -> None:
        """Put an event with its kind."""
        outbox().put("POST", "/events", item[1].model_dump(mode="json"))


def send_log(entry: dict[str, Any]) -> None:
    """Put a log record, as Prefect prepares it, into the outbox."""
    outbox().put("POST", "/logs/", {name: value for name, value in entry.items() if not name.startswith("__")})


def propose_state(client: SyncPrefectClient, state: State[Any], flow_run_id: UUID, force: bool = False) -> State[Any]:
    """As `prefect.utilities.engine.propose_state_sync`, but a final state does not depend on the server.

    All messages before it are sent first: an automation must not see a heartbeat after the end of the run. A server
    that does not answer gets the state later. One that has declared the run dead meanwhile, because no heartbeat
    reached it, gets it as well.
    """
    if not state.is_final():
        return propose_state_sync(client, state, flow_run_id=flow_run_id, force=force)
    box = outbox()
    if _all_events_are_in_outbox() and box.wait():
        try:
            with (
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}),
                get_client(sync_client=True, httpx_settings={"timeout": PROPOSAL_S}) as impatient,
            ):
                found = propose_state_sync(impatient, state, flow_run_id=flow_run_id, force=force)
            if state.is_crashed() or not found.is_crashed():
                return found
        except Exception as error:
            box.warn(reason_of(error))
    told = {"type": state.type.value, "name": state.name, "message": state.message}
    box.put("POST", f"/flow_runs/{flow_run_id}/set_state", {"state": told, "force": True})
    return state


def send_through_outbox() -> None:
    """Change Prefect in this process, as the module describes."""
    set_api_log_sink(send_log)
    if not emit_events_to_cloud():  # Prefect Cloud takes events only over its own protocol
        EventsWorker.set_client_override(ProcessPoolForwardingEventsClient, event_queue=OutboxQueue())
    prefect.flow_engine.propose_state_sync = propose_state  # type: ignore[attr-defined] # of no `__all__`


def _all_events_are_in_outbox() -> bool:
    """Wait for Prefect's thread that prepares events; False if it waits for the server."""
    events = EventsWorker.instance()._queue
    deadline_s = time.monotonic() + STALLED_S
    while events.unfinished_tasks and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return not events.unfinished_tasks
