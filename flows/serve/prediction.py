"""From the items of a request to their predictions: reads images, queues rows, pools products, draws explanations."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from atlas_model.confidence.risk_control import Subject
from atlas_model.core.errors import InputError
from atlas_model.core.threads import ThreadPool
from atlas_model.data.titles import Modality, split_words
from atlas_model.inference.predictor import (
    ConfidenceRule,
    Prediction,
    ProductPrediction,
    RowOptions,
    modality_of,
)
from flows.serve.inference import explanation, images
from flows.serve.inference.batching import Batcher, QueueFullError, Row
from flows.serve.inference.images import Base64Image, DecodedImage, ImageUrl, Source, UnreadableImage
from flows.serve.inference.model_holder import ModelHolder
from flows.serve.inference.served_model import ServedModel
from flows.serve.inference.urls import UrlFetcher
from flows.serve.metrics import Metrics
from flows.serve.problems import Problem, busy
from flows.serve.schemas import Options
from flows.serve.settings import Limits

SMALL_BYTES = 100_000  # images of fewer bytes together are decoded in one thread: changing threads takes longer
URLS_AT_ONCE = 16  # that are fetched and decoded, of all requests, which bounds memory
MAX_EXPLAINED = 16  # images of a request with explanations, which take as long as several predictions


@dataclass(frozen=True)
class Item:
    """What gets one prediction."""

    sources: Sequence[Source]
    title: str | None
    product: bool
    id: str | None = None


@dataclass
class _Work:
    """An item on its way."""

    item: Item
    modality: Modality
    rule: ConfidenceRule | None = None
    promised: float | None = None  # accuracy
    images: list[DecodedImage | UnreadableImage] = field(default_factory=list)
    fault: str = ""  # why there is no prediction
    rows: list[Row] = field(default_factory=list)
    found: ProductPrediction | None = None

    @property
    def subject(self) -> Subject:
        return "products" if self.item.product else "images"

    @property
    def readable(self) -> list[DecodedImage]:
        return [image for image in self.images if isinstance(image, DecodedImage)]


class PredictionService:
    """Answers prediction requests with the current model.

    Args:
        holder: of the model.
        batcher: that runs it.
        limits: of requests.
        metrics: that it updates.
        fetcher: of URLs; None: URLs are refused.
    """

    def __init__(
        self, holder: ModelHolder, batcher: Batcher, limits: Limits, metrics: Metrics, fetcher: UrlFetcher | None
    ) -> None:
        self.holder, self.limits, self.metrics, self.fetcher = holder, limits, metrics, fetcher
        self._batcher = batcher
        self._url_slots = asyncio.Semaphore(URLS_AT_ONCE)
        self._readers = ThreadPool(os.cpu_count() or 1, "images")

    def close(self) -> None:
        """Wait for the threads that decode images."""
        self._readers.shutdown(cancel_futures=True)

    async def predict(self, items: Sequence[Item], options: Options) -> tuple[ServedModel, list[dict[str, Any]]]:
        """The model that answered, and the result of each item as `schemas.ResultOut`.

        Raises:
            Problem: the request is too large, no item could be predicted, or the service is busy.
        """
        self._check_sizes(items, options)
        model = self.holder.current
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                with self._batcher.expecting(sum(max(1, len(item.sources)) for item in items)):
                    works = [_begin(model, item, options) for item in items]
                    await self._read_all(works, model, options.explain)
                    results = self._submit(works, model, options)
                await self._collect(works, await results if results else (), model, options)
                attention = await self._explain(works, model, options) if options.explain else {}
        except TimeoutError:
            raise Problem(
                504,
                "timeout",
                expected=f"predictions within {self.limits.timeout_s:g} s",
                got="none in that time",
                remedy="Send fewer images in a request, or start the service with a larger --timeout",
            ) from None
        self._check_some(works)
        return model, [self._result(work, attention.get(index)) for index, work in enumerate(works)]

    def _check_sizes(self, items: Sequence[Item], options: Options) -> None:
        count = sum(max(1, len(item.sources)) for item in items)
        most = min(self.limits.max_images, MAX_EXPLAINED) if options.explain else self.limits.max_images
        if count > most:
            raise Problem(
                422,
                "too-many-images",
                expected=f"at most {most} images and titles in a request{' with explain' if options.explain else ''}",
                got=str(count),
                remedy="Split the request",
            )

    async def _read_all(self, works: Sequence[_Work], model: ServedModel, view: bool) -> None:
        """Fetch and decode the images of all items; several at once."""
        limits, run = self.limits, asyncio.get_running_loop().run_in_executor
        read = partial(
            images.read,
            predictor=model.predictor,
            max_bytes=limits.max_image_bytes,
            max_pixels=limits.max_pixels,
            view=view,
        )
        sources = [source for work in works for source in work.item.sources]
        given = [source for source in sources if not isinstance(source, ImageUrl)]
        if len(given) == len(sources) and sum(map(_size, given)) < SMALL_BYTES:
            decoded = await run(self._readers, lambda: list(map(read, given))) if given else []
        else:
            decoded = await asyncio.gather(
                *(
                    self._fetch(source.url, read) if isinstance(source, ImageUrl) else run(self._readers, read, source)
                    for source in sources
                )
            )
        waiting = iter(decoded)
        for work in works:
            work.images = [next(waiting) for _ in work.item.sources]
            faults = [image for image in work.images if isinstance(image, UnreadableImage)]
            for fault in faults:
                self.metrics.errors.labels(fault.status).inc()
            if work.images and not work.readable:
                work.fault = work.fault or "; ".join(sorted({fault.detail for fault in faults}))

    async def _fetch(
        self, url: str, read: Callable[[bytes], DecodedImage | UnreadableImage]
    ) -> DecodedImage | UnreadableImage:
        if self.fetcher is None:
            return UnreadableImage(
                "url", "expected the bytes of an image, got a URL. This service was started without --allow-urls"
            )
        async with self._url_slots:
            data = await self.fetcher.get(url)
            if isinstance(data, UnreadableImage):
                return data
            return await asyncio.get_running_loop().run_in_executor(self._readers, read, data)

    def _submit(
        self, works: Sequence[_Work], model: ServedModel, options: Options
    ) -> "asyncio.Future[list[Any]] | None":
        """Queue the rows of all items; None if there is nothing to predict."""
        for work in works:
            if work.fault:
                continue
            distribution = work.item.product and work.modality != "title"
            chosen = RowOptions(
                beam=1 if distribution else options.beam,
                top=1 if distribution else options.top,
                min_confidence=None if distribution else work.rule,
                distribution=distribution,
            )
            title = None if work.modality == "image" else work.item.title
            pixels = [None] if work.modality == "title" else [image.pixels for image in work.readable]
            work.rows = [Row(model.predictor, each, title, chosen) for each in pixels]
        rows = [row for work in works for row in work.rows]
        try:
            return self._batcher.submit(rows) if rows else None
        except QueueFullError as full:
            self.metrics.errors.labels("busy").inc()
            raise busy(f"{full.waiting} images in the queue", full.seconds) from None

    async def _collect(
        self, works: Sequence[_Work], results: Sequence[Any], model: ServedModel, options: Options
    ) -> None:
        """Assign the results of the rows to their items, and pool those of products."""
        waiting = iter(results)
        for work in works:
            if not work.rows:
                continue
            own = [next(waiting) for _ in work.rows]
            if work.rows[0].options.distribution:
                call = partial(_pooled, model, own, options.top, work.rule)
                work.found = await asyncio.get_running_loop().run_in_executor(self._readers, call)
            else:
                work.found = ProductPrediction(own[0], 1, disagree=False)

    async def _explain(
        self, works: Sequence[_Work], model: ServedModel, options: Options
    ) -> dict[int, list[dict[str, Any]]]:
        """The explanations of each item that has a path and images."""
        found: dict[int, list[dict[str, Any]]] = {}
        for index, work in enumerate(works):
            if work.found is None or not work.found.predictions[0].path:
                continue
            path = work.found.predictions[0].path
            for number, image in enumerate(work.images):
                if isinstance(image, UnreadableImage) or image.view is None:
                    continue
                weights = await self._batcher.run(partial(model.predictor.attention, image.pixels, path))
                drawn = await asyncio.get_running_loop().run_in_executor(
                    self._readers, explanation.levels, image.view, path, weights, options.explain_format
                )
                entry = {"image": number, "media_type": f"image/{options.explain_format}", "levels": drawn}
                found.setdefault(index, []).append(entry)
        return found

    def _check_some(self, works: Sequence[_Work]) -> None:
        if any(work.found is not None for work in works):
            return
        errors = [{"pointer": f"#/items/{index}", "got": work.fault} for index, work in enumerate(works)]
        raise Problem(
            422,
            "nothing-to-predict",
            expected="an item that can be predicted",
            got=f"{len(works)} that cannot: {works[0].fault}",
            remedy="Correct the items in `errors`",
            errors=errors,
        )

    def _result(self, work: _Work, attention: list[dict[str, Any]] | None) -> dict[str, Any]:
        found = work.found
        result: dict[str, Any] = {} if work.item.id is None else {"id": work.item.id}
        predictions = [] if found is None else [_prediction(each) for each in found.predictions]
        status = "error" if found is None else "ok" if all(each.path for each in found.predictions) else "not_sure"
        result |= {
            "status": status,
            "modality": None if found is None else work.modality,
            "product": work.item.product,
            "predictions": predictions,
            "images": [_image(image) for image in work.images],
        }
        if work.promised is not None and found is not None:
            result["guaranteed_accuracy"] = work.promised
        if found is not None and work.item.product:
            result["disagree"] = found.disagree
        if attention is not None:
            result["attention"] = attention
        if work.fault:
            result["detail"] = work.fault
        band = found.predictions[0].band if found is not None else None
        self.metrics.predictions.labels(status, band or "none").inc()
        return result


def _begin(model: ServedModel, item: Item, options: Options) -> _Work:
    """The item with its rule; or with its fault, if this model cannot predict it."""
    title = item.title if model.predictor.reads_titles else None
    modality = modality_of(bool(item.sources), title)
    work = _Work(item, modality)
    if modality == "title" and not (title and split_words(title)):
        work.fault = (
            "expected an image, got a title alone, which this model does not read"
            if not model.predictor.reads_titles
            else "expected a title with a word in it, or an image; got neither"
        )
        return work
    try:
        work.rule, work.promised = model.rule(options.min_confidence, options.accuracy, work.subject, modality)
    except InputError as error:
        work.fault = str(error)
    return work


def _pooled(model: ServedModel, results: Sequence[Any], top: int, rule: ConfidenceRule | None) -> ProductPrediction:
    pool = model.predictor.pool()
    for log_p in results:
        pool.add(log_p[None])
    return model.predictor.predict_product(pool, top, rule)


def _prediction(found: Prediction) -> dict[str, Any]:
    row = {
        "path": found.path,
        "probability": found.probability,
        "levels": found.levels,
        "category_id": found.category_id,
    }
    return row if found.band is None else {**row, "band": found.band}


def _image(image: DecodedImage | UnreadableImage) -> dict[str, Any]:
    if isinstance(image, UnreadableImage):
        return {"status": image.status, "detail": image.detail}
    return {"status": "ok", "image_id": image.image_id}


def _size(source: bytes | Base64Image) -> int:
    return len(source) if isinstance(source, bytes) else len(source.text)
