"""A pool of threads that also ends where memory is short."""

import time
from concurrent.futures import ThreadPoolExecutor

WAIT_S = 30.0  # for tasks that are running when a pool ends; decoding an image takes less


class ThreadPool(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` that waits at most `WAIT_S` for its threads when it ends.

    The standard one tells a single thread to end, and each thread tells the next. If memory is short, a thread may die
    before it has told the next, and the pool would never end. The end of the process tells each thread.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Start no further task, and wait for those that are running, as the standard pool does."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        until = time.monotonic() + (WAIT_S if wait else 0)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
