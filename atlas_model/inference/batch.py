"""Batch prediction: any number of images to one Parquet file, in bounded memory, with resume.

Threads read and decode batches of images ahead of the model. Predictions are written to parts beside the output, each
of whole batches and named by the range of its images. At the end the parts are merged into the output. An interrupted
run resumes after the last part, unless the images or the model have changed.

In memory are the predictions of one part, and two more batches of images than there are threads; each thread decodes
one image at a time.

The model is a function, so any model can be used.
"""

import hashlib
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
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

from atlas_model.core.checksums import remove_with_checksum, replacing_with_checksum, state_of
from atlas_model.core.errors import AtlasError, ImageError
from atlas_model.core.files import locked, replacing
from atlas_model.core.machine import check_machine
from atlas_model.core.progress import Progress, say
from atlas_model.core.threads import ThreadPool
from atlas_model.data.image_sources import ImageSource, SourceImage
from atlas_model.data.images import decode
from atlas_model.data.schemas import (
    CHECKSUMS,
    COMPRESSION,
    PREDICTED,
    PREDICTED_WITH_BAND,
    ROW_GROUP,
    read_parquet,
)
from atlas_model.inference.batch_products import DISTRIBUTIONS, ProductOutput, distribution_rows, write_products
from atlas_model.inference.predictor import Prediction
from atlas_model.taxonomy.tree import SEPARATOR

# A part is written after the batch that reaches one of these limits. An interruption loses at most one part.
PART_IMAGES = 8192
PART_S = 10.0  # since the last part
PART_NODES = 4_000_000  # numbers of distributions (8 bytes each), for predictions of products

Pixels = UInt8[np.ndarray, "c h w"]
Prepare = Callable[[Image.Image], Pixels]
PredictFunction = Callable[..., Sequence[Sequence[Prediction]]]  # of pixels (b c h w), and titles= if there are any


@dataclass(frozen=True)
class BatchReport:
    """Counts of the output, and times of this run."""

    statuses: Counter[str]  # of all images
    images: int  # number of images in this run
    seconds: float  # of this run
    model_seconds: float  # time of the model in them
    products: Counter[str] = field(default_factory=Counter)  # statuses of all products, if requested

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return self.statuses.total() - self.statuses["ok"] - self.statuses["not_sure"]


@dataclass(frozen=True)
class UnreadableImage:
    """Why an image cannot be read."""

    status: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """The images of a batch; at least one."""

    images: Sequence[SourceImage]
    found: list[Pixels | UnreadableImage]

    def pixels(self) -> list[Pixels]:
        """Pixels of the readable images."""
        return [found for found in self.found if not isinstance(found, UnreadableImage)]

    def titles(self) -> list[str | None]:
        """Titles of the readable images."""
        pairs = zip(self.images, self.found, strict=True)
        return [image.title for image, found in pairs if not isinstance(found, UnreadableImage)]

    def rows(self, predictions: Sequence[Sequence[Prediction]]) -> list[dict[str, Any]]:
        """Rows of `schemas.PREDICTED`, given the predictions for `pixels`."""
        rows, waiting = [], iter(predictions)
        for image, found in zip(self.images, self.found, strict=True):
            if isinstance(found, UnreadableImage):
                rows.append(_row(image.name, 1, (), status=found.status, reason=found.reason))
            else:
                rows += [_predicted_row(image.name, rank, each) for rank, each in enumerate(next(waiting), start=1)]
        return rows

    def distribution_rows(self, log_p: Float[np.ndarray, "b nodes"] | None) -> list[dict[str, Any]]:
        """Rows of `batch_products.DISTRIBUTIONS`, given log p of every node for `pixels`."""
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
    """Write the predictions for each image to ``output`` (`schemas.PREDICTED`), in the order of the images.

    Args:
        source: of the images. An image that cannot be read gets a row with the reason.
        output: written atomically at the end. Until then there is a folder ``<output>.parts``.
        prepare: converts a decoded image to the model's input; called in threads.
        predict: returns the predictions for prepared images, best first. If the source has titles, it is called with
            ``titles`` of the images.
        model_key: identifies everything that changes predictions, such as the model's weights.
        batch_size: images per batch, including unreadable ones.
        threads: that read and decode; by default one per processor.
        side: px of the square that ``prepare`` returns, as in `images.decode`, which saves memory for large images.
        products: for predictions of products too, each from all its images. Its ``predict`` is then used for images,
            and the source must have product ids.
        bands: whether to add the column `schemas.BAND`.

    Raises:
        InputError: the source is damaged.
        AtlasError: the source has changed during the run, or another process is writing this output.
    """
    started, model_seconds = time.perf_counter(), 0.0
    folder = output.with_name(f"{output.name}.parts")
    with locked(folder, "prediction"):
        schema, kept = PREDICTED_WITH_BAND if bands else PREDICTED, [] if products is None else [str(DISTRIBUTIONS)]
        key_parts = [source.key, model_key, str(batch_size), str(schema), f"{source.titled} titles"]
        parts = OutputParts(folder, _key(*key_parts, *kept), schema, with_distributions=products is not None)
        first = parts.done
        if first:
            say(f"predict: resumes after {first} images")
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
            shutil.rmtree(folder)  # of other images than the key says: not to resume from
            raise AtlasError(f"expected {source.count} images, got {parts.done}: they changed meanwhile. Run it again")
        statuses = parts.join(output)
        product_statuses = (
            Counter[str]() if products is None else write_products(parts.distributions(), products, folder)
        )
        shutil.rmtree(folder)
    return BatchReport(statuses, parts.done - first, time.perf_counter() - started, model_seconds, product_statuses)


class OutputParts:
    """Parts of the output on disk, ``<first image>-<first image of the next part>.parquet``.

    For predictions of products, the folder ``distributions`` has a file of the same name with the images'
    distributions. It is written first, so that it exists for each part.

    A killed run may have left any of them, because folders of parts are not removed all at once, and each file has a
    checksum. From the first part that is missing or damaged on, images are predicted again.

    Args:
        folder: for the parts. Parts with another key in it are removed.
        key: digest of everything that the predictions depend on.
        schema: of the predictions.
        with_distributions: whether each part has a file of distributions.
    """

    def __init__(self, folder: Path, key: str, schema: pa.Schema, *, with_distributions: bool) -> None:
        self._folder, self._schema = folder / key, schema
        for other in filter(Path.is_dir, folder.iterdir()):
            if other != self._folder:
                shutil.rmtree(other)
        self._with_distributions = with_distributions
        self._first = self.done = self._remove_damaged()
        self._rows: list[dict[str, Any]] = []
        self._distributions: list[dict[str, Any]] = []
        self._nodes = 0  # in the distributions
        self._written_at = time.monotonic()

    def _remove_damaged(self) -> int:
        """Remove the parts from the first damaged or missing one on; return the number of images before it."""
        done, paths = 0, self._paths()
        for number, path in enumerate(paths):
            begin, _, end = path.stem.partition("-")
            files = [path, self._distribution(path)] if self._with_distributions else [path]
            if int(begin) != done or any(not each.exists() or state_of(each) != "sound" for each in files):
                why = "damaged, behind a missing part, or of an earlier version without a checksum"
                say(f"{path}: {why}. Images from number {done} on are predicted again")
                for each in paths[number:]:
                    remove_with_checksum(each)
                    remove_with_checksum(self._distribution(each))
                break
            done = int(end)
        return done

    def add(self, images: int, rows: list[dict[str, Any]], distributions: list[dict[str, Any]]) -> None:
        """Add rows of the next ``images``, and their ``distributions`` (`batch_products`; empty without products)."""
        self._rows += rows
        self._distributions += distributions
        self._nodes += sum(len(row["node"]) for row in distributions if row["node"] is not None)
        self.done += images
        full = self.done - self._first >= PART_IMAGES or self._nodes >= PART_NODES
        if full or time.monotonic() - self._written_at >= PART_S:
            self._write()

    def join(self, output: Path) -> Counter[str]:
        """Merge the parts into one file, which does not depend on their sizes; return the images by status."""
        if self._rows:
            self._write()
        if self._remove_damaged() != self.done:
            raise AtlasError(
                f"{self._folder}: a part of the output was damaged on disk. Run it again: it resumes before it"
            )
        statuses: Counter[str] = Counter()
        with (
            replacing(output) as temporary,
            pq.ParquetWriter(temporary, self._schema, compression=COMPRESSION, **CHECKSUMS) as writer,
        ):
            for table in _row_groups(self._paths(), self._schema):
                writer.write_table(table)
                statuses.update(table.filter(pa.compute.equal(table["rank"], 1))["status"].to_pylist())
        return statuses

    def distributions(self) -> list[Path]:
        """The files of distributions, in the order of the images."""
        return [self._distribution(path) for path in self._paths()]

    def _write(self) -> None:
        path = self._folder / f"{self._first:012d}-{self.done:012d}.parquet"
        if self._distributions:
            table = pa.Table.from_pylist(self._distributions, schema=DISTRIBUTIONS)
            _write_part(self._distribution(path), table)
            self._distributions, self._nodes = [], 0
        _write_part(path, pa.Table.from_pylist(self._rows, schema=self._schema))
        self._first, self._rows, self._written_at = self.done, [], time.monotonic()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))

    def _distribution(self, path: Path) -> Path:
        return path.parent / "distributions" / path.name


def _write_part(path: Path, table: pa.Table) -> None:
    with replacing_with_checksum(path) as temporary:
        pq.write_table(table, temporary, compression=COMPRESSION)


def _predict(
    pixels: Sequence[Pixels], titles: dict[str, Any], predict: PredictFunction, products: ProductOutput | None
) -> tuple[Sequence[Sequence[Prediction]], Float[np.ndarray, "b nodes"] | None]:
    if not pixels:
        return [], None
    if products is None:
        return predict(np.stack(pixels), **titles), None
    return products.predict(np.stack(pixels), **titles)


def _row_groups(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of all files in tables of the size of a row group."""
    waiting = schema.empty_table()
    for path in paths:
        waiting = pa.concat_tables([waiting, read_parquet(path, schema.names)])
        while waiting.num_rows >= ROW_GROUP:
            yield waiting.slice(0, ROW_GROUP).combine_chunks()
            waiting = waiting.slice(ROW_GROUP)
    yield waiting.combine_chunks()


def _read_ahead(
    images: Iterator[SourceImage], read: Callable[[Sequence[SourceImage]], Batch], batch_size: int, threads: int | None
) -> Generator[Batch, None, None]:
    threads = threads or os.cpu_count() or 1
    with ThreadPool(threads) as pool:
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
        check_machine(error)
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
        category_id=prediction.category_id,
    )


def _row(name: str, rank: int, path: Sequence[str], **others: Any) -> dict[str, Any]:
    return {"image": name, "rank": rank, "path": path, **others}


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
