"""What the filter does to records of Prefect's engine."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from flows.prefect_app.ui import run_log
from flows.prefect_app.ui.run_log import LOGGERS, OutageFilter, RunLogFilter, shorten_run_logs


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A function that filters a record; ``cancelling`` is the state of its run."""

    def log(message: str, *arguments: object, cancelling: bool = False, exc_info: Any = None) -> list[str]:
        monkeypatch.setattr(run_log, "is_cancelling", lambda _: cancelling)
        record = logging.LogRecord("prefect.task_runs", logging.ERROR, "", 0, message, arguments, exc_info)
        return [record.getMessage()] if RunLogFilter().filter(record) else []

    return log


def test_reason_of_a_failure_is_not_repeated(logged: Callable[..., list[str]]) -> None:
    failed = "Task run failed with state: Failed('a\\nfault')"
    assert logged(failed, exc_info=(None, None, None)) == []
    assert logged(f"{failed} - Retries are exhausted", exc_info=(None, None, None)) == []
    retry = logged("%s - Retry %s/%s will start %s", failed, 1, 2, "10 second(s) from now")
    assert retry == ["Retry 1/2 will start 10 second(s) from now"]
    assert logged("Finished in state Failed('a\\nfault')") == ["Finished in state Failed"]
    assert logged("Finished in state Refused('a fault', type=FAILED)") == ["Finished in state Refused"]


def test_results_and_bugs_are_kept(logged: Callable[..., list[str]]) -> None:
    error = ValueError("a bug")
    for message in (
        "Finished in state Completed('micro F .896; promoted to version 1')",
        "Finished in state Cached('up to date', type=COMPLETED)",
        "Crash detected! Execution was aborted by a termination signal.",
        "Crash detected! Execution was interrupted by an unexpected exception: MemoryError",
        "Finished in state Crashed('Execution was aborted by a termination signal.')",
    ):
        assert logged(message) == [message]
    bug = "Task run failed with exception: ValueError('a bug')"
    assert logged(bug, exc_info=(ValueError, error, None)) == [bug]


def test_cancelled_run_logs_no_crash(logged: Callable[..., list[str]]) -> None:
    for message in (
        "Crash detected! Execution was aborted by a termination signal.",
        "Finished in state Crashed('Execution was aborted by a termination signal.')",
        "Finished in state Running()",
    ):
        assert logged(message, cancelling=True) == []
    other = "Crash detected! Execution was interrupted by an unexpected exception: MemoryError"
    assert logged(other, cancelling=True) == [other]
    assert logged("Crash detected! Execution was aborted by an interrupt signal.") == []


def test_filter_is_added_once() -> None:
    shorten_run_logs()
    shorten_run_logs()
    for name in LOGGERS:
        assert [type(each) for each in logging.getLogger(name).filters].count(RunLogFilter) == 1


def test_failed_connections_are_one_line_without_traceback() -> None:
    def record(error: Exception) -> logging.LogRecord:
        made = logging.LogRecord("prefect.x", logging.WARNING, "", 0, "the %s failed", ("observer",), None)
        made.exc_info = (type(error), error, None)
        return made

    outage = OutageFilter()
    first = record(TimeoutError("timed out during opening handshake"))
    assert outage.filter(first)
    assert first.getMessage() == "the observer failed (timed out during opening handshake)"
    assert first.exc_info is None
    assert not outage.filter(record(ConnectionRefusedError("refused"))), "it is told"
    bug = record(KeyError("a bug"))
    assert outage.filter(bug)
    assert bug.exc_info is not None
