"""The demo shop as a child process, for the time of a ``with`` block. Knows nothing of crawling."""

import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from atlas_model.core.errors import RetryError
from crawlers.http.address_guard import ConnectMap
from crawlers.shop.catalogue import SHOPS

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0  # to wait for the child's first word; it takes about two seconds
STOP_S = 10.0
PORT = re.compile(r":(\d+)/")


@contextmanager
def running_shop() -> Iterator[ConnectMap]:
    """Start the shop on a free port, yield where its hosts really are, stop it.

    The child holds the other end of a pipe from us and ends when that closes, so it also ends when we are killed.

    Raises:
        RetryError: it did not start; the text holds what it said.
    """
    command = [sys.executable, "-m", "crawlers.shop", "--port", "0", "--until-stdin-closes"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child,
    ):
        try:
            port = _port(child, errors)
            yield {shop.host: ("127.0.0.1", port) for shop in SHOPS}
        finally:
            _stop(child)


def _port(child: subprocess.Popen[str], errors: IO[str]) -> int:
    """The port that the child names once it listens."""
    assert child.stdout is not None
    deadline = threading.Timer(START_S, child.kill)  # ends the wait below
    deadline.start()
    try:
        found = PORT.search(child.stdout.readline())
    finally:
        deadline.cancel()
    if found is None:
        child.wait()
        errors.seek(0)
        said = errors.read().strip() or f"nothing within {START_S:.0f} s"
        raise RetryError(f"the demo shop did not start (exit {child.returncode}); it said: {said}")
    return int(found[1])


def _stop(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
