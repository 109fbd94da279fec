"""Keeps the log of a run short: one line per fault, and no crash if someone cancelled the run.

Prefect's engine logs the message of a failed task up to three times: as ``Task run failed with state``, with an empty
traceback (``NoneType: None``), and as ``Finished in state`` of the task and of the flow. It logs ``Crash detected!``
for the task at which a run was cancelled, and ``Finished in state Running()`` for that run. The states themselves keep
their messages.

While the server does not answer, Prefect's runner logs a traceback for each of its connections and attempts.
"""

import logging
import re
import time
from uuid import UUID

import httpx
from prefect._internal.control_listener import get_intent  # what the runner told this process; there is no public way
from prefect.client.orchestration import get_client

from flows.prefect_app.ui.outbox import WARN_AGAIN_S, reason_of

LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
FAILED = "type=FAILED)"  # end of a state of this type with a name of its own
FINISHED = re.compile(r"Finished in state (\w+)\(")
RETRY = re.compile(r"Task run failed with state: .* - (Retry \d+/\d+ will start .*)", re.DOTALL)
INTERRUPTED = "Crash detected! Execution was aborted by an interrupt signal."
TERMINATED = "Execution was aborted by a termination signal."


class RunLogFilter(logging.Filter):
    """Removes and shortens records of Prefect's engine, as the module describes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is logged."""
        message = record.getMessage()
        if retry := RETRY.fullmatch(message):
            record.msg, record.args = retry[1], ()
        elif message.startswith("Task run failed with state: ") and not (record.exc_info and record.exc_info[0]):
            return False
        if message == INTERRUPTED:  # Ctrl-C
            return False
        finished = FINISHED.match(message)
        if (TERMINATED in message or message == "Finished in state Running()") and is_cancelling(
            getattr(record, "flow_run_id", None)
        ):
            return False
        if finished and (finished[1] == "Failed" or message.endswith(FAILED)):
            record.msg, record.args = f"Finished in state {finished[1]}", ()
        if finished and finished[1] == "Cancelled":
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


class OutageFilter(logging.Filter):
    """Makes one line, and that once in some minutes, of the tracebacks of connections that failed."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_s = -WARN_AGAIN_S

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is logged."""
        error = record.exc_info[1] if record.exc_info else None
        of_websockets = type(error).__module__.partition(".")[0] == "websockets"  # a library of Prefect's, not of ours
        if error is None or not (of_websockets or isinstance(error, OSError | httpx.HTTPError)):
            return True
        if time.monotonic() - self._logged_s < WARN_AGAIN_S:
            return False
        self._logged_s = time.monotonic()
        record.msg, record.args = "%s (%s)", (record.getMessage(), reason_of(error))
        record.exc_info = record.exc_text = None
        return True


def shorten_run_logs() -> None:
    """Add the filter to the loggers of runs in this process."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, RunLogFilter) for each in logger.filters):
            logger.addFilter(RunLogFilter())


def is_cancelling(flow_run: UUID | str | None) -> bool:
    """Whether someone has cancelled the flow run, or is stopping the process that serves it.

    The runner of `make up` tells this process; a worker of a work pool does not, so the server is asked.
    """
    if get_intent() == "cancel":
        return True
    if not flow_run:
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(str(flow_run))).state
    except Exception:  # then it is reported as a crash
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())
