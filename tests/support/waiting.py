"""Waiting for conditions that other processes and threads fulfil."""

import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 180  # the machine may be busy


def wait_until(true: Callable[[], Any], what: Callable[[], str] = str, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The first true value that ``true`` returns.

    Args:
        true: called repeatedly.
        what: returns the failure message.
        timeout_s: seconds until the test fails.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)
    return found
