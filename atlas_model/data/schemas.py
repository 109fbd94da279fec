"""Schemas of the Parquet tables that stages exchange, and functions to read and write them.

A schema is a contract between stages: the stage that writes a table casts to its schema, and a stage that reads it
checks the columns. Each page of a file (some thousand values) has a checksum, which reading compares.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.files import replacing, replacing_folder

COMPRESSION = "zstd"
CHECKSUMS = {"write_page_checksum": True}  # options of a writer
ROW_GROUP = 10_000  # rows in memory in `write_rows`
ROW_GROUP_BYTES = 8_000_000  # bytes of images in memory in `ShardWriter`
READ_BUFFER_BYTES = 1 << 20  # per column
LABELS = ("normal", "zoomed")  # of images; as numbers 0 and 1
SHARD_PATTERN = "part-{:05d}.parquet"
# What pyarrow raises for a damaged file; UnicodeDecodeError: for a text that is not UTF-8.
DAMAGED = (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError)

PRODUCTS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),  # site + sku, URL; manifest:<filename>, files:<id>
        pa.field("site", pa.string(), nullable=False),  # host, or "manifest", "files"
        pa.field("page_url", pa.string()),
        pa.field("title", pa.string(), nullable=False),
        pa.field("price", pa.decimal128(12, 2)),
        pa.field("currency", pa.string()),  # ISO 4217
        pa.field("availability", pa.string()),  # InStock, OutOfStock, PreOrder, as schema.org names them
        pa.field("brand", pa.string()),
        pa.field("gtin", pa.string()),  # EAN, UPC or ISBN; digits
        pa.field("mpn", pa.string()),  # manufacturer's part number
        pa.field("breadcrumb", pa.list_(pa.string()), nullable=False),  # as the shop writes it
        pa.field("taxonomy", pa.list_(pa.string()), nullable=False),  # the label, from sources.csv, manifest or table
        pa.field("details", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("image_urls", pa.list_(pa.string()), nullable=False),  # or file:<path>, row:<number>
        pa.field("split_hint", pa.string()),  # split given by a manifest or table
        pa.field("field_sources", pa.map_(pa.string(), pa.string())),  # title, price, ...: json-ld, microdata, css, ...
    ]
)
LATER_COLUMNS = ("availability", "brand", "gtin", "mpn")  # of PRODUCTS; missing in files of version 0.1.0
IMAGES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),  # SHA-256 of the bytes as served, hex
        pa.field("bytes", pa.binary(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # px, as stored (before EXIF orientation)
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),  # JPEG, PNG, WEBP, GIF, ...
        pa.field("mode", pa.string(), nullable=False),  # Pillow's: L, RGB, CMYK, ...
        pa.field("orientation", pa.int8(), nullable=False),  # EXIF 1-8
        pa.field("n_frames", pa.int32(), nullable=False),
    ]
)
REFS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("image_url", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),  # in the product's image_urls
        pa.field("image_id", pa.string()),  # null unless status is "ok"
        pa.field("status", pa.string(), nullable=False),  # ok, http_404, timeout, not_found, too_large, ...
        pa.field("final_url", pa.string()),  # after redirects; null if there were none
    ]
)
LABELLED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("bytes", pa.binary(), nullable=False),
        pa.field("label", pa.string(), nullable=False),  # zoomed, normal
        pa.field("source_id", pa.string(), nullable=False),  # shared by images cut from one original
        pa.field("title", pa.string(), nullable=False),
    ]
)
SCORES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("p_zoomed", pa.float32()),  # null if the image cannot be decoded or the filter is disabled
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # normal, zoomed, unreadable, not_filtered (filter disabled)
        pa.field("phash", pa.uint64()),  # 64-bit perceptual hash of the whole image
        # As in `quality.measures.ImageMeasures`; null if the image cannot be decoded.
        pa.field("brightness_low", pa.float32()),
        pa.field("brightness_high", pa.float32()),
        pa.field("entropy", pa.float32()),
        pa.field("blur_64", pa.float32()),  # null also if unknown, as is the next
        pa.field("blur_32", pa.float32()),
    ]
)
QUALITY = pa.schema(  # reports/split/quality.parquet and reports/evaluate/quality.parquet
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("issue", pa.string(), nullable=False),  # dark, light, blurred, ..., duplicate; outlier, label_error
        pa.field("score", pa.float32(), nullable=False),  # range [0, 1], 1: most suspicious; as params.yaml asks for
        pa.field("detail", pa.string()),  # duplicate: image_id of the other; label_error: the suggested label
    ]
)
SPLIT = pa.schema(
    [
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("taxonomy", pa.list_(pa.string()), nullable=False),
        pa.field("label", pa.string(), nullable=False),  # "A > B > C"
        pa.field("split", pa.string(), nullable=False),  # train, val, test
    ]
)
DISCARDED = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),  # null: the image was not fetched
        pa.field("reason", pa.string(), nullable=False),  # as in reports/split/metrics.json
    ]
)
CATEGORY_ID = pa.field("category_id", pa.string())  # of the predicted category; null if the taxonomy has none
PREDICTIONS = pa.schema(
    [
        pa.field("file_name", pa.string(), nullable=False),  # the image's image_id
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("actual_category", pa.string(), nullable=False),
        pa.field("predicted_category", pa.string(), nullable=False),
        pa.field("log_probability", pa.float32(), nullable=False),
        pa.field("split_value", pa.string(), nullable=False),
        CATEGORY_ID,
    ]
)
PRODUCT_PREDICTIONS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("actual_category", pa.string(), nullable=False),
        pa.field("predicted_category", pa.string(), nullable=False),  # from all its images
        pa.field("log_probability", pa.float32(), nullable=False),
        pa.field("images", pa.int32(), nullable=False),
        pa.field("disagree", pa.bool_(), nullable=False),  # whether the best path of some image is another one
        pa.field("split_value", pa.string(), nullable=False),
        CATEGORY_ID,
    ]
)

PREDICTED = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),  # image_id, or path relative to the folder
        pa.field("rank", pa.int32(), nullable=False),  # 1: the best path; more if several were requested
        pa.field("path", pa.list_(pa.string()), nullable=False),  # empty unless status is "ok"
        pa.field("label", pa.string()),  # "A > B > C"; null unless status is "ok", as are the next two
        pa.field("probability", pa.float32()),  # that it is the right path, or a prefix of it
        pa.field("level_probabilities", pa.list_(pa.float32())),  # for each name: that the right path goes through it
        pa.field("status", pa.string(), nullable=False),  # ok, not_sure, or why it cannot be read: truncated, ...
        pa.field("reason", pa.string()),  # message; null if the image can be read
        CATEGORY_ID,
    ]
)
BAND = pa.field("band", pa.string())  # accept, review, no_answer (`predictor.Band`); null if unreadable
PREDICTED_WITH_BAND = PREDICTED.append(BAND)  # if an accuracy was requested
PREDICTED_PRODUCTS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("path", pa.list_(pa.string()), nullable=False),  # this and the next three as in `PREDICTED`
        pa.field("label", pa.string()),
        pa.field("probability", pa.float32()),
        pa.field("level_probabilities", pa.list_(pa.float32())),
        pa.field("status", pa.string(), nullable=False),  # ok, not_sure; unreadable: none of its images can be read
        pa.field("images", pa.int32(), nullable=False),  # that the prediction is made from
        pa.field("unreadable_images", pa.int32(), nullable=False),  # further images, which cannot be read
        pa.field("disagree", pa.bool_()),  # whether its images have different best paths; null if unreadable
        pa.field("band", pa.string()),  # as `BAND`; also null if no accuracy was requested
        CATEGORY_ID,
    ]
)


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write ``table`` as one Parquet file of ``schema``, atomically."""
    with replacing(path) as temporary:
        pq.write_table(table.cast(schema), temporary, compression=COMPRESSION, **CHECKSUMS)


def write_rows(path: Path, rows: Iterable[dict[str, object]], schema: pa.Schema) -> int:
    """Write ``rows`` as one Parquet file of ``schema``, atomically, `ROW_GROUP` at a time; return their number."""
    count = 0
    waiting = iter(rows)
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression=COMPRESSION, **CHECKSUMS) as writer,
    ):
        while group := list(islice(waiting, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count


def read_table(path: Path, schema: pa.Schema, made_by: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the Parquet file (or folder of shards, in name order) at ``path``.

    Args:
        path: a file, or a folder of ``*.parquet``.
        schema: the expected columns. Others are ignored; missing ones are an error, but `LATER_COLUMNS` become null.
        made_by: the stage that writes it, for the error message.
        columns: only these, in this order; by default all of the schema's.

    Raises:
        MissingError: there is no file.
        InputError: a file is not Parquet, or lacks a column of the schema.
    """
    wanted = list(columns) if columns is not None else schema.names
    contract = pa.schema([schema.field(name) for name in wanted])
    return pa.concat_tables([_read_file(shard, contract) for shard in shard_paths(path, made_by)])


def iterate_shards(path: Path, schema: pa.Schema, made_by: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a folder of shards in order, in batches of at most ``batch_rows``.

    Raises:
        MissingError: there is no file.
        InputError: a file is damaged, is not Parquet, or lacks a column of the schema.
    """
    for shard in shard_paths(path, made_by):
        yield from iterate_batches(shard, batch_rows, schema.names)


def count_rows(path: Path, made_by: str) -> int:
    """Count the rows that `iterate_shards` yields."""
    total = 0
    for shard in shard_paths(path, made_by):
        with open_parquet(shard) as file:
            total += file.metadata.num_rows
    return total


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open the Parquet file at ``path``; the caller closes it.

    Raises:
        InputError: it is not Parquet.
    """
    try:  # without pre-buffering, which would load all of it into memory
        return pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
    except DAMAGED as error:
        raise InputError(f"{path}: expected a Parquet file, got something else ({error})") from error


@contextmanager
def reading_parquet(path: Path, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """Open the Parquet file at ``path`` for a block that reads from it, and does nothing else that may fail.

    Args:
        path: of the file.
        columns: that it must have; pyarrow ignores a missing one.

    Raises:
        InputError: it is not Parquet, lacks a column, or its content is damaged.
    """
    with open_parquet(path) as file:
        _check_columns(path, file.schema_arrow, columns)
        try:
            yield file
        except DAMAGED as error:
            raise InputError(f"{path}: cannot be read completely, it is damaged: {error}") from error


def iterate_batches(path: Path, batch_rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one Parquet file in batches of at most ``batch_rows``.

    Raises:
        InputError: it is damaged, is not Parquet, or lacks one of ``columns``.
    """
    with reading_parquet(path, columns) as file:
        rows = 0
        for batch in file.iter_batches(batch_size=batch_rows, columns=list(columns)):
            rows += batch.num_rows
            yield batch
        check_rows(path, file, rows)


def read_parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read ``columns`` of one Parquet file; raises as `iterate_batches`."""
    with reading_parquet(path, columns) as file:
        table = file.read(columns=list(columns))
        check_rows(path, file, table.num_rows)
        return table


def check_rows(path: Path, file: pq.ParquetFile, rows: int) -> None:
    """Check that all rows were read: the header of a page has no checksum, and a damaged one can end a column.

    Raises:
        InputError: ``rows`` is not the number in the metadata.
    """
    if rows != file.metadata.num_rows:
        raise InputError(f"{path}: expected {file.metadata.num_rows} rows, got {rows}: it is damaged")


def shard_paths(path: Path, made_by: str) -> list[Path]:
    """List the Parquet files at ``path`` (a file or a folder), in name order."""
    found = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    if not found:
        raise MissingError(f"{path}: no Parquet file there. Run the stage that makes it: dvc repro {made_by}")
    return found


class ShardWriter:
    """Writes rows to ``part-00000.parquet``, ``part-00001.parquet``, ... with ``rows_per_shard`` rows each.

    The folder appears when the ``with`` block ends without an exception. Memory holds at most one row group.
    """

    def __init__(self, folder: Path, schema: pa.Schema, rows_per_shard: int) -> None:
        self._replacing = replacing_folder(folder)
        self._schema, self._rows_per_shard = schema, rows_per_shard
        # Images are already compressed: compressing them again would double the time of writing.
        self._binary = [field.name for field in schema if pa.types.is_binary(field.type)]
        self._rows: list[dict[str, object]] = []
        self._bytes = 0  # of the images in them
        self._rows_in_shard = 0
        self._shards = 0
        self._writer: pq.ParquetWriter | None = None
        self._temporary: Path | None = None

    def __enter__(self) -> Self:
        self._temporary = self._replacing.__enter__()
        return self

    def append(self, row: dict[str, object]) -> None:
        """Add one row."""
        self._rows.append(row)
        self._bytes += sum(len(cast(bytes, row[name])) for name in self._binary)
        self._rows_in_shard += 1
        if self._rows_in_shard >= self._rows_per_shard:
            self._end_shard()
        elif self._bytes >= ROW_GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        assert self._temporary is not None
        if self._writer is None:
            path = self._temporary / SHARD_PATTERN.format(self._shards)
            compression = {name: "none" if name in self._binary else COMPRESSION for name in self._schema.names}
            self._writer = pq.ParquetWriter(
                path, self._schema, compression=compression if self._binary else COMPRESSION, **CHECKSUMS
            )
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0

    def _end_shard(self) -> None:
        self._write_group()
        assert self._writer is not None
        self._writer.close()
        self._writer, self._rows_in_shard = None, 0
        self._shards += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and (self._rows_in_shard or not self._shards):
            self._end_shard()
        elif self._writer is not None:
            self._writer.close()
        self._replacing.__exit__(kind, error, trace)


def _read_file(path: Path, contract: pa.Schema) -> pa.Table:
    with open_parquet(path) as file:
        absent = [name for name in contract.names if name in LATER_COLUMNS and name not in file.schema_arrow.names]
        there = [name for name in contract.names if name not in absent]
        _check_columns(path, file.schema_arrow, there)
        try:
            table = file.read(columns=there)
            check_rows(path, file, table.num_rows)
            for name in absent:
                table = table.append_column(contract.field(name), pa.nulls(table.num_rows, contract.field(name).type))
            return table.select(contract.names).cast(contract)
        except (*DAMAGED, ValueError) as error:  # ValueError: a null in a column that allows none
            types = ", ".join(f"{field.name}: {field.type}" for field in contract)
            raise InputError(f"{path}: expected the columns {types}; {error}") from error


def _check_columns(path: Path, found: pa.Schema, wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found.names]
    if missing:
        raise InputError(
            f"{path}: expected the columns {', '.join(wanted)}; missing: {', '.join(missing)}. "
            "It was written by another program or version: run the stage that makes it again."
        )
