"""The queue of the model: sizes of batches, waiting, a full queue, cancelled rows, errors of the model."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from atlas_model.inference.predictor import RowOptions
from flows.serve.inference.batching import Batcher, QueueFullError, Row
from flows.serve.metrics import Metrics

MAX_BATCH, MAX_WAIT_S, MAX_QUEUE = 4, 0.2, 10


class Recorder:
    """Stands for a predictor: records its batches; a held one waits, and the title "fail" is an error."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()

    def predict_mixed(self, pixels: Sequence[Any], titles: Sequence[Any], options: Sequence[RowOptions]) -> list[Any]:
        self.free.wait(10)
        self.batches.append(len(pixels))
        if "fail" in titles:
            raise ValueError("the model failed")
        return list(titles)


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    made = Batcher(max_batch=MAX_BATCH, max_wait_s=MAX_WAIT_S, max_queue=MAX_QUEUE, metrics=Metrics())
    yield made
    made.stop()


def rows(model: Recorder, *titles: str) -> list[Row]:
    return [Row(model, None, title, RowOptions()) for title in titles]  # type: ignore[arg-type]  # a stand-in


def test_lone_row_does_not_wait_and_many_rows_are_predicted_together(batcher: Batcher) -> None:
    async def run() -> None:
        started = time.monotonic()
        (lone,) = rows(model, "a")
        assert await batcher.submit([lone]) == ["a"]
        assert time.monotonic() - started < MAX_WAIT_S
        assert await batcher.submit(rows(model, *"bcdefghij")) == list("bcdefghij")

    model = Recorder()
    asyncio.run(run())
    assert model.batches == [1, 4, 4, 1]


def test_batch_waits_for_announced_rows(batcher: Batcher) -> None:
    async def run() -> None:
        one, other = rows(model, "a", "b")
        with batcher.expecting(1):
            first = batcher.submit([one])
            await asyncio.sleep(MAX_WAIT_S / 4)
            second = batcher.submit([other])
        assert await asyncio.gather(first, second) == [["a"], ["b"]]

    model = Recorder()
    asyncio.run(run())
    assert model.batches == [2]


def test_full_queue_refuses_all_rows_of_a_request(batcher: Batcher) -> None:
    async def run() -> None:
        model.free.clear()
        first, waiting = rows(model, "a"), rows(model, *"bcdefghi")
        batcher.submit(first)
        await asyncio.sleep(0.05)  # the model has taken it
        found = batcher.submit(waiting)
        with pytest.raises(QueueFullError):
            batcher.submit(rows(model, "x", "y", "z"))
        model.free.set()
        assert await found == list("bcdefghi")

    model = Recorder()
    asyncio.run(run())
    assert sum(model.batches) == 9


def test_cancelled_rows_are_skipped_and_an_error_fails_its_batch_only(batcher: Batcher) -> None:
    async def run() -> None:
        model.free.clear()
        (first,) = rows(model, "a")
        batcher.submit([first])
        await asyncio.sleep(0.05)
        cancelled, *failing = [batcher.submit(rows(model, *titles)) for titles in (["b"], ["c"], ["d", "fail"])]
        cancelled.cancel()
        model.free.set()
        results = await asyncio.gather(*failing, return_exceptions=True)
        assert [str(each) for each in results] == ["the model failed"] * 2
        assert await batcher.submit(rows(model, "e")) == ["e"]
        assert await batcher.run(lambda: 42) == 42

    model = Recorder()
    asyncio.run(run())
    assert model.batches == [1, 3, 1]
