"""Any number of images to one Parquet file of answers: in bounded memory, and on from where it was interrupted.

Threads read and decode batches of images ahead of the model, so that neither waits for the other. Answers are kept
as parts beside the output, whole batches each, named by the images that they are about; at the end the parts become
the output. Whatever ends the work, it goes on after the last part, unless the images or the model have changed.

In memory are the answers of a part, and as many batches of images as there are threads, and two more; decoded is
one image per thread.

Knows nothing of models (a function answers), nor of the command line.
"""

import hashlib
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8
from PIL import Image

from atlas_model.core.errors import AtlasError, ImageError
from atlas_model.core.files import locked, replacing
from atlas_model.core.progress import Progress, say
from atlas_model.data.image_sources import ImageSource, SourceImage
from atlas_model.data.images import decode
from atlas_model.data.schemas import COMPRESSION, PREDICTED, PREDICTED_WITH_BAND, ROW_GROUP, write_table
from atlas_model.inference.batch_products import DISTRIBUTIONS, ProductOutput, distribution_rows, write_products
from atlas_model.inference.predictor import Prediction
from atlas_model.taxonomy.tree import SEPARATOR

PART_IMAGES = 8192  # a part ends with the batch that fills it,
PART_S = 10.0  # or that comes so long after the last one: what an interruption costs;
PART_NODES = 4_000_000  # or, where products are asked for, with so many numbers of distributions (8 bytes each)

Pixels = UInt8[np.ndarray, "c h w"]
Prepare = Callable[[Image.Image], Pixels]
PredictFunction = Callable[
    ..., Sequence[Sequence[Prediction]]
]  # of pixels (b c h w), and of titles=, where there are any


@dataclass(frozen=True)
class BatchReport:
    """What the output says, and what this run did for it."""

    statuses: Counter[str]  # of all images
    images: int  # of this run
    seconds: float
    model_seconds: float  # of those, in which the model was at work
    products: Counter[str] = field(default_factory=Counter)  # statuses of all products, where they were asked for

    @property
    def unreadable(self) -> int:
        """Images that could not be read."""
        return self.statuses.total() - self.statuses["ok"] - self.statuses["not_sure"]


@dataclass(frozen=True)
class UnreadableImage:
    """Why an image cannot be read."""

    status: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Images that the model gets together; at least one."""

    images: Sequence[SourceImage]
    found: list[Pixels | UnreadableImage]

    def pixels(self) -> list[Pixels]:
        """Of those that could be read."""
        return [found for found in self.found if not isinstance(found, UnreadableImage)]

    def titles(self) -> list[str | None]:
        """Of those that could be read."""
        pairs = zip(self.images, self.found, strict=True)
        return [image.title for image, found in pairs if not isinstance(found, UnreadableImage)]

    def rows(self, predictions: Sequence[Sequence[Prediction]]) -> list[dict[str, Any]]:
        """Rows of `records.PREDICTED`, given what the model makes of `pixels`."""
        rows, waiting = [], iter(predictions)
        for image, found in zip(self.images, self.found, strict=True):
            if isinstance(found, UnreadableImage):
                rows.append(_row(image.name, 1, (), status=found.status, reason=found.reason))
            else:
                rows += [_predicted_row(image.name, rank, each) for rank, each in enumerate(next(waiting), start=1)]
        return rows

    def distribution_rows(self, log_p: Float[np.ndarray, "b nodes"] | None) -> list[dict[str, Any]]:
        """Rows of `batch_products.DISTRIBUTIONS`, given what the model makes of `pixels`."""
        readable = [not isinstance(found, UnreadableImage) for found in self.found]
        return distribution_rows([image.product_id for image in self.images], readable, log_p)


def predict_all(
    source: ImageSource,
    output: Path,
    *,
    prepare: Prepare,
    predict: PredictFunction,
    model_key: str,
    batch_size: int,
    threads: int | None = None,
    side: int | None = None,
    products: ProductOutput | None = None,
    bands: bool = False,
) -> BatchReport:
    """Write what the model makes of each image to ``output`` (`records.PREDICTED`), in the order of the images.

    Args:
        source: of the images; one that cannot be read has a row that says why.
        output: appears whole, at the end. Until then there is ``<output>.parts``.
        prepare: a decoded image to what the model takes; called in threads.
        answer: prepared images to the model's answers, best first; where the source has titles, it is called with
            ``titles``, those of the images, as well.
        model_key: changes with whatever changes answers, such as the model's weights.
        batch_size: images per batch; fewer reach the model if some cannot be read.
        threads: that read and decode; by default one per processor.
        side: px of the square that ``prepare`` makes of an image, as of `images.decode`: large ones take less memory.
        products: the answers of products as well, each from all its images; then this answers images, too. The
            source must say whose image each is.
        bands: whether the output has a column more, `records.BAND`.

    Raises:
        InputError: the source is damaged.
        AtlasError: it has changed meanwhile, or another process is writing this output.
    """
    started, model_seconds = time.perf_counter(), 0.0
    folder = output.with_name(f"{output.name}.parts")
    with locked(folder, "prediction"):
        schema, kept = PREDICTED_WITH_BAND if bands else PREDICTED, [] if products is None else [str(DISTRIBUTIONS)]
        key_parts = [source.key, model_key, str(batch_size), str(schema), f"{source.titled} titles"]
        parts = OutputParts(folder, _key(*key_parts, *kept), schema)
        first = parts.done
        if first:
            say(f"predict: {first} images were done before")
        ahead = _read_ahead(source.start_at(first), partial(_read, prepare=prepare, side=side), batch_size, threads)
        with Progress("predict", source.count, "images") as progress, closing(ahead) as batches:
            progress.advance(first)
            for batch in batches:
                pixels, asked_at = batch.pixels(), time.perf_counter()
                titles = {"titles": batch.titles()} if source.titled else {}
                predictions, log_p = _predict(pixels, titles, predict, products)
                model_seconds += time.perf_counter() - asked_at
                distributions = [] if products is None else batch.distribution_rows(log_p)
                parts.add(len(batch.images), batch.rows(predictions), distributions)
                progress.advance(len(batch.images))
        if parts.done != source.count:
            shutil.rmtree(folder)  # of other images than the key speaks of: not to go on from
            raise AtlasError(f"expected {source.count} images, got {parts.done}: they changed meanwhile. Run it again")
        statuses = parts.join(output)
        product_statuses = (
            Counter[str]() if products is None else write_products(parts.distributions(), products, folder)
        )
        shutil.rmtree(folder)
    return BatchReport(statuses, parts.done - first, time.perf_counter() - started, model_seconds, product_statuses)


class OutputParts:
    """Answers on disk, ``<first image>-<first image of the next part>.parquet``.

    Where products are asked for, a file of the same name below ``distributions`` has what these are made of. It is
    written first, so that there is one for each part.

    Args:
        folder: for the parts; those of another key in it are removed.
        key: of what the answers depend on.
        schema: of the answers.
    """

    def __init__(self, folder: Path, key: str, schema: pa.Schema) -> None:
        self._folder, self._schema = folder / key, schema
        for other in filter(Path.is_dir, folder.iterdir()):
            if other != self._folder:
                shutil.rmtree(other)
        self._first = self.done = int(self._paths()[-1].stem.partition("-")[2]) if self._paths() else 0
        self._rows: list[dict[str, Any]] = []
        self._distributions: list[dict[str, Any]] = []
        self._nodes = 0  # in these
        self._written_at = time.monotonic()

    def add(self, images: int, rows: list[dict[str, Any]], distributions: list[dict[str, Any]]) -> None:
        """Rows about the next ``images``; ``distributions`` as of `batch_products`, none without products."""
        self._rows += rows
        self._distributions += distributions
        self._nodes += sum(len(row["node"]) for row in distributions if row["node"] is not None)
        self.done += images
        full = self.done - self._first >= PART_IMAGES or self._nodes >= PART_NODES
        if full or time.monotonic() - self._written_at >= PART_S:
            self._write()

    def join(self, output: Path) -> Counter[str]:
        """Make them one file, the same whatever the parts were; the images of each status."""
        if self._rows:
            self._write()
        statuses: Counter[str] = Counter()
        with (
            replacing(output) as temporary,
            pq.ParquetWriter(temporary, self._schema, compression=COMPRESSION) as writer,
        ):
            for table in _row_groups(self._paths(), self._schema):
                writer.write_table(table)
                statuses.update(table.filter(pa.compute.equal(table["rank"], 1))["status"].to_pylist())
        return statuses

    def distributions(self) -> list[Path]:
        """The files that products are made of, in the order of the images."""
        return [self._distribution(path) for path in self._paths()]

    def _write(self) -> None:
        path = self._folder / f"{self._first:012d}-{self.done:012d}.parquet"
        if self._distributions:
            table = pa.Table.from_pylist(self._distributions, schema=DISTRIBUTIONS)
            write_table(self._distribution(path), table, DISTRIBUTIONS)
            self._distributions, self._nodes = [], 0
        write_table(path, pa.Table.from_pylist(self._rows, schema=self._schema), self._schema)
        self._first, self._rows, self._written_at = self.done, [], time.monotonic()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))

    def _distribution(self, path: Path) -> Path:
        return path.parent / "distributions" / path.name


def _predict(
    pixels: Sequence[Pixels], titles: dict[str, Any], predict: PredictFunction, products: ProductOutput | None
) -> tuple[Sequence[Sequence[Prediction]], Float[np.ndarray, "b nodes"] | None]:
    if not pixels:
        return [], None
    if products is None:
        return predict(np.stack(pixels), **titles), None
    return products.predict(np.stack(pixels), **titles)


def _row_groups(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of all files, as many at a time as there are in a row group."""
    waiting = schema.empty_table()
    for path in paths:
        waiting = pa.concat_tables([waiting, pq.read_table(path)])
        while waiting.num_rows >= ROW_GROUP:
            yield waiting.slice(0, ROW_GROUP).combine_chunks()
            waiting = waiting.slice(ROW_GROUP)
    yield waiting.combine_chunks()


def _read_ahead(
    images: Iterator[SourceImage], read: Callable[[Sequence[SourceImage]], Batch], batch_size: int, threads: int | None
) -> Generator[Batch, None, None]:
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            while batch := list(islice(images, batch_size)):
                waiting.append(pool.submit(read, batch))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read(images: Sequence[SourceImage], prepare: Prepare, side: int | None) -> Batch:
    return Batch(images, [_pixels(image, prepare, side) for image in images])


def _pixels(image: SourceImage, prepare: Prepare, side: int | None) -> Pixels | UnreadableImage:
    try:
        return prepare(decode(image.read(), side=side))
    except ImageError as error:
        return UnreadableImage(error.status, str(error))
    except OSError as error:
        return UnreadableImage("unreadable", str(error.strerror))


def _predicted_row(name: str, rank: int, prediction: Prediction) -> dict[str, Any]:
    if not prediction.path:
        return _row(name, rank, (), status="not_sure", band=prediction.band)
    return _row(
        name,
        rank,
        prediction.path,
        status="ok",
        label=SEPARATOR.join(prediction.path),
        probability=prediction.probability,
        level_probabilities=prediction.levels,
        band=prediction.band,
    )


def _row(name: str, rank: int, path: Sequence[str], **others: Any) -> dict[str, Any]:
    return {"image": name, "rank": rank, "path": path, **others}


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
