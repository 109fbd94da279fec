"""Micro-batching: one thread runs the model, and predicts the rows of concurrent requests together.

A batch starts when it is full, when as many rows wait as are expected, or when its first row has waited long enough.
Expected are the images that are being decoded, and as many rows as the last batch had. So a single client never waits,
and the rows of many clients, who send their next requests after a batch, get into one batch again.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from atlas_model.inference.predictor import Predictor, RowOptions
from flows.serve.metrics import Metrics

SMOOTHING = 0.1  # weight of the last batch in the estimate of the time per row
FIRST_ESTIMATE_S = 0.02  # time per row before the first batch

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Row:
    """An image or a title that is predicted, with the model that its request began with."""

    predictor: Predictor
    pixels: np.ndarray | None
    title: str | None
    options: RowOptions


class _Submission:
    """The rows of a request, which may be in several batches, and the future of their results."""

    def __init__(self, rows: int) -> None:
        self.future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._results: list[Any] = [None] * rows
        self._left = rows

    def set(self, place: int, result: Any) -> None:
        """Keep the result of a row; called in the thread of the model."""
        self._results[place] = result
        self._left -= 1
        if not self._left:
            _in_loop(self.future, partial(_set, self.future, self._results))

    def fail(self, error: Exception) -> None:
        """End the request; called in the thread of the model."""
        _in_loop(self.future, partial(_fail, self.future, error))


class _Waiting(NamedTuple):
    """A row in the queue."""

    since: float  # time.monotonic()
    row: Row
    of: _Submission
    place: int  # among the rows of the submission


class QueueFullError(Exception):
    """The queue has no place for the rows of a request."""

    def __init__(self, waiting: int, seconds: float) -> None:
        super().__init__(waiting, seconds)
        self.waiting, self.seconds = waiting, seconds


class Batcher:
    """The thread that runs the model, and its queue. `submit` and `run` are called in the event loop's thread.

    Args:
        max_batch: rows of a batch.
        max_wait_s: longest time that the first row of a batch waits for others.
        max_queue: rows that may wait.
        metrics: that it updates.
    """

    def __init__(self, *, max_batch: int, max_wait_s: float, max_queue: int, metrics: Metrics) -> None:
        self._max_batch, self._max_wait_s, self._max_queue, self._metrics = max_batch, max_wait_s, max_queue, metrics
        self._changed = threading.Condition()
        self._rows: deque[_Waiting] = deque()
        self._calls: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._preparing = 0  # rows that will arrive soon
        self._last_rows = 0  # of the last batch
        self._seconds_per_row = FIRST_ESTIMATE_S
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @contextmanager
    def expecting(self, rows: int) -> Iterator[None]:
        """Announce ``rows``, which are submitted before the context ends."""
        with self._changed:
            self._preparing += rows
        try:
            yield
        finally:
            with self._changed:
                self._preparing -= rows
                self._changed.notify()

    def submit(self, rows: Sequence[Row]) -> "asyncio.Future[list[Any]]":
        """Queue all ``rows``, at least one; the future gets the results of `Predictor.predict_mixed`.

        If it is cancelled, the rows that still wait are dropped.

        Raises:
            QueueFullError: there is no place for all of them; none is queued.
        """
        now, submission = time.monotonic(), _Submission(len(rows))
        with self._changed:
            if len(self._rows) + len(rows) > self._max_queue:  # requests that timed out leave their rows
                self._rows = deque(waiting for waiting in self._rows if not waiting.of.future.done())
            if self._rows and len(self._rows) + len(rows) > self._max_queue:
                raise QueueFullError(len(self._rows), len(self._rows) * self._seconds_per_row)
            self._rows.extend(_Waiting(now, row, submission, place) for place, row in enumerate(rows))
            self._metrics.queue.set(len(self._rows))
            self._changed.notify()
        return submission.future

    async def run(self, call: Callable[[], Result]) -> Result:
        """The result of ``call``, which runs in the thread of the model, between batches."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        with self._changed:
            self._calls.append((call, future))
            self._changed.notify()
        return await future

    def stop(self) -> None:
        """End the thread, after the current batch."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            batch, calls = self._next()
            if batch:
                self._predict(batch)
            for call, future in calls:
                _settle(future, call)
            if not batch and not calls:
                return

    def _next(self) -> tuple[list[_Waiting], list[tuple[Callable[[], Any], "asyncio.Future[Any]"]]]:
        """The next batch and calls; both are empty after `stop`."""
        with self._changed:
            while not self._stopped:
                calls = list(self._calls)
                self._calls.clear()
                wait_s = self._wait_s()
                if calls or (self._rows and wait_s <= 0):
                    taken = [self._rows.popleft() for _ in range(min(len(self._rows), self._max_batch))]
                    self._metrics.queue.set(len(self._rows))
                    self._last_rows = len(taken)
                    live = [each for each in taken if not each.of.future.done()]
                    if live or calls:
                        return live, calls
                    continue
                self._changed.wait(wait_s if self._rows else None)
            return [], []

    def _wait_s(self) -> float:
        """How long the rows in the queue wait for others; 0 or less: they are predicted now."""
        waiting = len(self._rows)
        if not waiting or waiting >= min(self._max_batch, max(self._last_rows, waiting + self._preparing)):
            return 0.0
        return self._rows[0].since + self._max_wait_s - time.monotonic()

    def _predict(self, batch: Sequence[_Waiting]) -> None:
        started = time.perf_counter()
        by_model: dict[int, list[_Waiting]] = {}  # after a swap, the rows of two models may wait
        for each in batch:
            by_model.setdefault(id(each.row.predictor), []).append(each)
        for group in by_model.values():
            rows = [each.row for each in group]
            try:
                found = rows[0].predictor.predict_mixed(
                    [row.pixels for row in rows], [row.title for row in rows], [row.options for row in rows]
                )
            except Exception as error:  # the requests of this batch fail; the thread goes on
                for submission in {each.of for each in group}:
                    submission.fail(error)
            else:
                for each, result in zip(group, found, strict=True):
                    each.of.set(each.place, result)
        seconds = time.perf_counter() - started
        self._seconds_per_row += SMOOTHING * (seconds / len(batch) - self._seconds_per_row)
        self._metrics.batch.observe(len(batch))
        self._metrics.batch_seconds.observe(seconds)


def _settle(future: "asyncio.Future[Any]", call: Callable[[], Any]) -> None:
    try:
        result = call()
    except Exception as error:
        _in_loop(future, partial(_fail, future, error))
    else:
        _in_loop(future, partial(_set, future, result))


def _in_loop(future: "asyncio.Future[Any]", call: Callable[[], Any]) -> None:
    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def _set(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
