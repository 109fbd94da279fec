"""Limits of the service: requests at once, bytes in memory, a full queue, a slow model; the exchange of models."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from flows.paths import CHAMPION
from flows.serve.inference.batching import Batcher
from flows.serve.inference.images import Base64Image
from flows.serve.inference.model_holder import ModelHolder
from flows.serve.inference.served_model import ServedModel
from flows.serve.metrics import Metrics
from flows.serve.prediction import Item, PredictionService
from flows.serve.problems import Problem
from flows.serve.request_limits import RequestLimits
from flows.serve.schemas import SQUARE, Options
from flows.serve.settings import Limits
from tests.support.promoting import train
from tests.support.serving import save_model

LIMITS = Limits(
    max_batch=2,
    max_wait_s=0.01,
    max_queue=2,
    max_images=4,
    max_image_bytes=1000,
    max_pixels=10_000,
    max_body_bytes=100,
    max_requests=2,
    timeout_s=0.5,
)
ITEM = Item([Base64Image(SQUARE)], None, product=False)


def load(folder: Path) -> ServedModel:
    return ServedModel.load(folder, "torch", Path("unused"), 2)


async def request(app: RequestLimits, path: str, body: bytes, *, announced: bool = True) -> tuple[int, dict[str, str]]:
    """Send a request; the status and the headers of its response."""
    heads: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        heads.append(message)

    headers = [(b"content-length", str(len(body)).encode())] if announced else []
    await app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
    return heads[0]["status"], {name.decode(): value.decode() for name, value in heads[0]["headers"]}


def test_too_many_requests_and_bytes_at_once_are_refused() -> None:
    async def run() -> None:
        free = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            if not scope["path"].startswith("/v2/health"):
                await Request(scope, receive).body()
                await free.wait()
            await PlainTextResponse("done")(scope, receive, send)

        app = RequestLimits(slow, LIMITS, Metrics())
        waiting = [asyncio.create_task(request(app, "/v1/predict", b"x")) for _ in range(2)]
        await asyncio.sleep(0)
        status, headers = await request(app, "/v1/predict", b"x")
        assert (status, headers["retry-after"]) == (503, "1")
        assert (await request(app, "/v2/health/live", b""))[0] == 200
        free.set()
        assert [(await each)[0] for each in waiting] == [200, 200]
        assert (await request(app, "/v1/predict", bytes(101)))[0] == 413

        free.clear()
        roomy = RequestLimits(slow, Limits(**{**vars(LIMITS), "max_requests": 10}), Metrics())
        waiting = [asyncio.create_task(request(roomy, "/v1/predict", bytes(100))) for _ in range(4)]
        await asyncio.sleep(0)
        assert (await request(roomy, "/v1/predict", b"x"))[0] == 503  # 400 bytes are in memory
        free.set()
        await asyncio.gather(*waiting)
        assert (await request(roomy, "/v1/predict", b"x"))[0] == 200

    asyncio.run(run())


@pytest.fixture
def slow_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[PredictionService, threading.Event]]:
    """A service whose model waits for the event."""
    metrics, free = Metrics(), threading.Event()
    holder = ModelHolder(str(save_model(tmp_path / "model")), load, metrics)
    predictor = holder.current.predictor
    predict = predictor.predict_mixed

    def wait_and_predict(*arguments: Any) -> Any:
        free.wait(10)
        return predict(*arguments)

    monkeypatch.setattr(predictor, "predict_mixed", wait_and_predict)
    batcher = Batcher(max_batch=2, max_wait_s=0.01, max_queue=2, metrics=metrics)
    yield PredictionService(holder, batcher, LIMITS, metrics, None), free
    free.set()
    batcher.stop()


def test_slow_model_and_full_queue_give_problems(
    slow_service: tuple[PredictionService, threading.Event],
) -> None:
    service, free = slow_service

    async def run() -> None:
        first = asyncio.create_task(service.predict([ITEM], Options()))
        await asyncio.sleep(0.1)  # the model has taken it
        second = asyncio.create_task(service.predict([ITEM] * 2, Options()))
        await asyncio.sleep(0.1)
        with pytest.raises(Problem) as full:
            await service.predict([ITEM] * 2, Options())
        assert full.value.status_code == 503
        assert int((full.value.headers or {})["Retry-After"]) >= 1
        for waiting in (first, second):
            with pytest.raises(Problem) as late:
                await waiting
            assert late.value.status_code == 504
        free.set()
        _, (result,) = await service.predict([ITEM], Options())
        assert result["status"] == "ok"

    asyncio.run(run())


def test_champion_that_is_missing_for_a_moment_is_not_replaced_by_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train("Jeans")  # models/categorizer
    holder = ModelHolder(None, load, Metrics())
    trained = holder.current.version
    assert holder.current.name == "categorizer"
    train("Bags")
    shutil.copytree("models/categorizer", CHAMPION)
    assert holder.refresh()
    champion = holder.current.version
    assert (holder.current.name, champion != trained) == ("champion", True)
    CHAMPION.rename("aside")  # as between the two renames of a promotion
    train("Shirts")
    assert not holder.refresh()
    assert holder.current.version == champion
    Path("aside").rename(CHAMPION)
    assert not holder.refresh()
