"""A pool of threads that also ends where memory is short."""

from concurrent.futures import ThreadPoolExecutor


class ThreadPool(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` that does not wait for its threads when it ends: take all results before.

    The standard one tells a single thread to end, and each thread tells the next. If memory is short, a thread may die
    before it has told the next, and the pool would wait for ever. The end of the process tells each thread.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Start no further task; ``wait`` has no effect."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)
