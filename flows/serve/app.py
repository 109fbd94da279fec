"""The application: joins the endpoints, the limits and the model, and starts and stops their threads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI

from flows.serve.inference.batching import Batcher
from flows.serve.inference.model_holder import ModelHolder
from flows.serve.inference.urls import UrlFetcher
from flows.serve.metrics import Metrics
from flows.serve.open_inference import Readiness, open_inference_routes
from flows.serve.page import add_page
from flows.serve.prediction import PredictionService
from flows.serve.problems import add_handlers
from flows.serve.request_limits import RequestLimits
from flows.serve.routes import feedback_routes, metrics_routes, prediction_routes
from flows.serve.settings import Limits

WATCH_S = 1.0  # between two checks of the model's folder
DESCRIPTION = """Predicts category paths of product images, titles, and products with several images.

Errors are problem details ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)). With a token, each request needs
`Authorization: Bearer <token>`. Every answer names the model and its version."""


def build_app(
    holder: ModelHolder,
    limits: Limits,
    metrics: Metrics,
    *,
    reviews: Path | None,
    make_fetcher: Callable[[], UrlFetcher] | None,
    has_token: bool,
) -> tuple[FastAPI, Readiness]:
    """The application, and its readiness, which the server sets to false when it is told to stop.

    Args:
        holder: of the model.
        limits: of requests.
        metrics: that everything updates.
        reviews: folder of the records of reviews, for feedback; None: there is none.
        make_fetcher: makes the client for URLs; None: URLs are refused.
        has_token: whether requests need a token, for the documentation.
    """
    readiness = Readiness()
    batcher = Batcher(
        max_batch=limits.max_batch, max_wait_s=limits.max_wait_s, max_queue=limits.max_queue, metrics=metrics
    )
    service = PredictionService(holder, batcher, limits, metrics, None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if make_fetcher is not None:
                service.fetcher = await stack.enter_async_context(make_fetcher())
            watching = asyncio.create_task(holder.watch(WATCH_S))
            readiness.ready = True
            metrics.ready.set(1)
            yield
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            batcher.stop()
            service.close()

    app = FastAPI(
        title="Atlas",
        version=version("atlas"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(prediction_routes(service))
    app.include_router(feedback_routes(service, reviews))
    app.include_router(open_inference_routes(service, readiness))
    app.include_router(metrics_routes(metrics))
    add_page(app, service, has_feedback=reviews is not None)
    add_handlers(app)
    app.add_middleware(RequestLimits, limits=limits, metrics=metrics)
    if has_token:
        _document_token(app)
    return app, readiness


def _document_token(app: FastAPI) -> None:
    """Add the token to the OpenAPI document; the access rules check it before the application."""
    make = app.openapi

    def with_token() -> dict[str, object]:
        document = make()
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        return document

    app.openapi = with_token  # type: ignore[method-assign]  # as FastAPI documents it
