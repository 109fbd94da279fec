"""Runs the demo shops as a child process during a ``with`` block."""

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
START_S = 60.0  # timeout for the child's first line; it takes about two seconds
STOP_S = 10.0  # timeout for its end
PORT = re.compile(r":(\d+)/")


@contextmanager
def running_shop() -> Iterator[ConnectMap]:
    """Start the shops on a free port, yield the connect map of their hosts, and stop them.

    The child ends when its stdin closes, so it also ends if the parent process is killed.

    Raises:
        RetryError: the child did not start; the text contains its stderr.
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
    """The port that the child prints when it listens."""
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
        output = errors.read().strip() or f"nothing within {START_S:.0f} s"
        raise RetryError(f"the demo shop did not start (exit code {child.returncode}); its output: {output}")
    return int(found[1])


def _stop(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
