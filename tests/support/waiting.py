"""Waiting for what other processes and threads do."""

import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 180  # this machine may be busy with something else


def wait_until(true: Callable[[], Any], what: Callable[[], str] = str, *, timeout_s: float = TIMEOUT_S) -> Any:
    """What ``true`` returns as soon as that is true.

    Args:
        true: is called again and again.
        what: the message of the failure.
        timeout_s: seconds until the test fails.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)
    return found
