"""Writes the files of a split: Parquet that ``datasets.load_dataset("parquet", ...)`` opens as images.

File names, the struct of bytes and path, and the feature metadata follow Hugging Face's conventions. The schema's
metadata also hold the images' preprocessing, for training and prediction.
"""

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from atlas_model.core.errors import InputError
from atlas_model.core.files import replacing
from atlas_model.core.progress import track
from atlas_model.core.threads import ThreadPool
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.schemas import CHECKSUMS, COMPRESSION, IMAGES, SPLIT, iterate_shards, read_parquet

ROWS_PER_FILE = 8192
ROWS_PER_GROUP = 256  # in memory at once, when writing and when reading
READ_ROWS = 32  # rows of the shards in memory at once


def split_schema(preprocessing: Preprocessing) -> pa.Schema:
    """`schemas.SPLIT` with the metadata ``huggingface`` and ``atlas``: ``{"preprocessing": {...}}``."""
    features = {field.name: _feature(field) for field in SPLIT}
    metadata = {
        "huggingface": json.dumps({"info": {"features": features}}),
        "atlas": json.dumps({"preprocessing": preprocessing.to_json()}),
    }
    # datasets decodes a field as an image only if it is nullable.
    return pa.schema([field.with_nullable(True) for field in SPLIT], metadata)


class SplitWriter:
    """Writes one split as ``<name>-00000-of-00002.parquet``, ...; use as a context manager.

    Args:
        folder: must exist.
        name: train, val, test.
        rows: total number of rows that will be appended, which determines the number of files.
        preprocessing: of the images.
    """

    def __init__(self, folder: Path, name: str, rows: int, preprocessing: Preprocessing) -> None:
        files = max(1, -(-rows // ROWS_PER_FILE))
        self._paths = [folder / f"{name}-{number:05d}-of-{files:05d}.parquet" for number in range(files)]
        self._schema = split_schema(preprocessing)
        self._rows: list[dict[str, Any]] = []
        self._room = 0
        self._file = ExitStack()

    def __enter__(self) -> Self:
        self._next_file()
        return self

    def append(self, row: dict[str, Any]) -> None:
        """Add a row of `schemas.SPLIT`."""
        if not self._room:
            self._next_file()
        self._rows.append(row)
        self._room -= 1
        if len(self._rows) == ROWS_PER_GROUP or not self._room:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _next_file(self) -> None:
        self._file.close()
        temporary = self._file.enter_context(replacing(self._paths.pop(0)))
        self._writer = self._file.enter_context(
            pq.ParquetWriter(temporary, self._schema, compression=COMPRESSION, **CHECKSUMS)
        )
        self._room = ROWS_PER_FILE

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.__exit__(kind, error, trace)


def write_split_files(
    folder: Path, shards: Path, rows: Sequence[Mapping[str, Any]], preprocessing: Preprocessing
) -> None:
    """Write all splits to ``folder``, each sorted by image_id, with one batch of images in memory.

    Args:
        folder: must exist.
        shards: of `schemas.IMAGES`, sorted by image_id.
        rows: of `schemas.SPLIT` without ``image``; each image_id once.
        preprocessing: applied to the images, which are stored as PNG.

    Raises:
        InputError: an image is not in ``shards``.
    """
    row_of = {row["image_id"]: row for row in rows}
    sizes = Counter(row["split"] for row in rows)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(SplitWriter(folder, split, size, preprocessing)) for split, size in sizes.items()
        }
        images = _prepared_images(shards, set(row_of), preprocessing)
        for image_id, png in track(images, "store", len(rows), "images"):
            row = row_of.pop(image_id)
            writers[row["split"]].append({**row, "image": {"bytes": png, "path": f"{image_id}.png"}})
        if row_of:
            raise InputError(f"{shards}: {len(row_of)} images are missing, {min(row_of)} first. Run: dvc repro fetch")


def read_columns(folder: Path, names: Iterable[str], columns: list[str]) -> pa.Table:
    """Read ``columns`` of the splits ``names`` in ``folder``.

    Raises:
        InputError: a file is damaged, or lacks a column.
    """
    files = [path for name in names for path in sorted(folder.glob(f"{name}-*.parquet"))]
    return pa.concat_tables(read_parquet(path, columns) for path in files)


def _prepared_images(shards: Path, wanted: Container[str], preprocessing: Preprocessing) -> Iterator[tuple[str, bytes]]:
    def prepare(image: Mapping[str, Any]) -> tuple[str, bytes]:
        return image["image_id"], encode_png(preprocessing.read(image["bytes"]))

    with ThreadPool() as threads:  # Pillow releases the GIL while decoding
        for batch in iterate_shards(shards, IMAGES, "fetch", READ_ROWS):
            yield from threads.map(prepare, [row for row in batch.to_pylist() if row["image_id"] in wanted])


def _feature(field: pa.Field) -> dict[str, Any]:
    if field.name == "image":
        return {"_type": "Image"}
    text = {"dtype": "string", "_type": "Value"}
    return {"feature": text, "_type": "List"} if pa.types.is_list(field.type) else text
