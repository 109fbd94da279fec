"""The pool of threads ends although a thread died before it told the next one to end."""

import subprocess
import sys
import time

import pytest

from atlas_model.core.threads import ThreadPool

PROGRAM = """
import logging, queue, sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from atlas_model.core import threads
from atlas_model.core.threads import ThreadPool

threads.WAIT_S = 0.5

class Full(queue.SimpleQueue):
    ends = 0

    def put(self, item):
        self.ends += item is None
        if item is None and self.ends == 2:  # of the first thread, to the next
            raise MemoryError
        super().put(item)

logging.disable()
with {pool}(2) as pool:
    pool._work_queue = Full()
    both = Barrier(2)
    assert len(list(pool.map(lambda _: both.wait(), range(2)))) == 2
print("ended")
"""


def run(pool: str, timeout_s: float) -> str:
    command = [sys.executable, "-c", PROGRAM.format(pool=pool)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True).stdout


def test_pool_ends_although_a_thread_died() -> None:
    assert run("ThreadPool", 60) == "ended\n"


def test_standard_pool_does_not() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run("ThreadPoolExecutor", 3)


def test_pool_waits_for_running_tasks() -> None:
    done: list[int] = []
    with ThreadPool(2) as pool:
        pool.submit(lambda: (time.sleep(0.3), done.append(1)))
    assert done == [1]
