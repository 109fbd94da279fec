"""Endpoints of Atlas's own API: prediction, feedback, the taxonomy, metrics."""

import asyncio
import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from atlas_model.taxonomy.tree import SEPARATOR
from flows.serve.inference.explanation import OverlayFormat
from flows.serve.inference.images import Base64Image, DecodedImage, ImageUrl, Source, UnreadableImage, from_base64, read
from flows.serve.inference.served_model import ServedModel
from flows.serve.metrics import Metrics
from flows.serve.prediction import Item, PredictionService
from flows.serve.problems import Problem, shown
from flows.serve.schemas import (
    LONGEST_TEXT,
    PROBLEMS,
    CategoriesResponse,
    FeedbackRequest,
    FeedbackResponse,
    ImageIn,
    Options,
    PredictRequest,
    PredictResponse,
)

LISTED = 50  # categories of a search, at most
NEAR = 3  # suggestions in an error
REVIEWS_REMEDY = "Start the service in the folder of a project, or with --reviews DIR"


def prediction_routes(service: PredictionService) -> APIRouter:
    """`/v1/predict` and `/v1/predict/files`."""
    router = APIRouter(prefix="/v1", tags=["prediction"], responses=PROBLEMS)

    @router.post("/predict", response_model=PredictResponse, response_model_exclude_unset=True)
    async def predict(request: PredictRequest) -> Response:
        """Predict the category paths of items: images, titles, and products with several images.

        An image that cannot be used has the reason in its `status`; the others are predicted. If nothing can be
        predicted, the response is 422.
        """
        items = [
            Item([_source(image) for image in item.images], item.title, item.is_product, item.id)
            for item in request.items
        ]
        return _json(*await service.predict(items, request))

    @router.post("/predict/files", response_model=PredictResponse, response_model_exclude_unset=True)
    async def predict_files(  # noqa: PLR0917 - fields of a form
        images: Annotated[list[UploadFile], File(description="files of images")],
        product: Annotated[bool, Form(description="all images show one product: one prediction for all")] = False,
        title: Annotated[str | None, Form(max_length=LONGEST_TEXT)] = None,
        top: Annotated[int, Form(ge=1, le=100)] = 1,
        beam: Annotated[int, Form(ge=1, le=100)] = 5,
        min_confidence: Annotated[float | None, Form(ge=0, le=1)] = None,
        accuracy: Annotated[float | None, Form(gt=0, lt=1)] = None,
        explain: Annotated[bool, Form()] = False,
        explain_format: Annotated[OverlayFormat, Form()] = "webp",
    ) -> Response:
        """Predict uploaded files: each one, or all together as a product; `id` of a result is the name of its file."""
        options = form_options(
            top=top,
            beam=beam,
            min_confidence=min_confidence,
            accuracy=accuracy,
            explain=explain,
            explain_format=explain_format,
        )
        files: list[tuple[str | None, Source]] = [(_file_name(each), await each.read()) for each in images]
        if product:
            items = [Item([data for _, data in files], title, product=True)]
        else:
            items = [Item([data], title, product=False, id=name) for name, data in files]
        return _json(*await service.predict(items, options))

    @router.get("/categories", response_model=CategoriesResponse)
    async def categories(
        q: Annotated[str, Query(max_length=LONGEST_TEXT, description="words that the path contains")] = "",
        limit: Annotated[int, Query(ge=1, le=LISTED)] = 20,
    ) -> Response:
        """Category paths of the model's taxonomy that contain all words of `q`."""
        model = service.holder.current
        words, paths = q.casefold().split(), model.predictor.taxonomy.paths
        matches = await asyncio.to_thread(_matching, paths, words, limit)
        return _dumped({"total": len(paths), "matches": matches, "model": model.to_json()})

    return router


def feedback_routes(service: PredictionService, reviews: Path | None) -> APIRouter:
    """`/v1/feedback`, which appends to the records in ``reviews``."""
    router = APIRouter(prefix="/v1", tags=["feedback"], responses=PROBLEMS)

    @router.post("/feedback", response_model=FeedbackResponse, status_code=201)
    async def feedback(request: FeedbackRequest) -> Response:
        """Store what a person says about a prediction, for the review and the next training."""
        if reviews is None:
            raise Problem(
                422, "no-reviews", expected="a service with a folder of reviews", got="none", remedy=REVIEWS_REMEDY
            )
        model = service.holder.current
        for name, path in (("predicted", request.predicted), ("category", request.category)):
            if path and (request.verdict == "right" or name == "category"):
                _check_category(model, name, path)
        image, data = await asyncio.to_thread(_feedback_image, service, model, request.image)
        from flows.serve.feedback import store_feedback

        record = await asyncio.to_thread(store_feedback, reviews, request, image.image_id if image else None, data)
        service.metrics.feedback.labels(request.verdict).inc()
        return _dumped({"id": record.id, "reviewer": record.reviewer, "model": model.to_json()}, 201)

    return router


def metrics_routes(metrics: Metrics) -> APIRouter:
    """`/metrics`."""
    router = APIRouter(tags=["operation"])

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return router


def _source(image: ImageIn) -> Source:
    if image.bytes is not None:
        return Base64Image(image.bytes)
    assert image.url is not None
    return ImageUrl(image.url)


def form_options(**values: Any) -> Options:
    """The options of a form, with the errors of JSON."""
    try:
        return Options(**values)
    except ValidationError as error:
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]) from error


def _file_name(upload: UploadFile) -> str | None:
    """The name that the client gave the file; it is never used as a path."""
    return upload.filename.encode(errors="replace").decode()[:LONGEST_TEXT] if upload.filename else None


def _matching(paths: Sequence[Sequence[str]], words: Sequence[str], limit: int) -> list[Sequence[str]]:
    found: list[Sequence[str]] = []
    for path in paths:
        text = SEPARATOR.join(path).casefold()
        if all(word in text for word in words):
            found.append(path)
            if len(found) == limit:
                break
    return found


def _check_category(model: ServedModel, name: str, path: Sequence[str]) -> None:
    taxonomy = model.predictor.taxonomy
    if tuple(path) in taxonomy:
        return
    label = SEPARATOR.join(path)
    near = get_close_matches(label, taxonomy.labels, NEAR, cutoff=0.5)
    raise Problem(
        422,
        "unknown-category",
        expected=f"{name}: a category path of this model's taxonomy",
        got=shown(label),
        remedy=f"Similar paths: {'; '.join(near)}" if near else "GET /v1/categories lists them",
        errors=[{"pointer": f"#/{name}", "got": shown(label)}],
    )


def _feedback_image(
    service: PredictionService, model: ServedModel, given: ImageIn | None
) -> tuple[DecodedImage | None, bytes | None]:
    """The image of feedback, and its bytes."""
    if given is None:
        return None, None
    if given.bytes is None:
        raise Problem(422, "url", expected="image: its bytes", got="a URL", remedy="Send the bytes that were predicted")
    limits = service.limits
    image = read(
        Base64Image(given.bytes),
        model.predictor,
        max_bytes=limits.max_image_bytes,
        max_pixels=limits.max_pixels,
        view=False,
    )
    if isinstance(image, UnreadableImage):
        raise Problem(
            422, image.status, expected="image: an image", got=image.detail, remedy="Send the bytes of an image file"
        )
    return image, from_base64(given.bytes, limits.max_image_bytes)


def _json(model: ServedModel, results: list[dict[str, Any]]) -> Response:
    return _dumped({"model": model.to_json(), "results": results})


def _dumped(content: dict[str, Any], status: int = 200) -> Response:
    """``content`` as it is: validating it against the schema again would take longer than to predict a small image."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")
    return Response(body, status, media_type="application/json")
