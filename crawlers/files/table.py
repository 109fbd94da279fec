"""Reads the rows of CSV (or TSV), JSONL and Parquet tables, and of plain lists, in bounded memory.

The suffix of the file name decides the format. Fields keep the file's types (CSV: text); `entries` interprets them. The
lines of a list (.txt) are the column `LIST_COLUMN`; empty lines and those that begin with ``#`` are ignored.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from atlas_model.core.errors import InputError, MissingError
from atlas_model.data.schemas import DAMAGED, check_rows, open_parquet

DELIMITED, JSON_LINES, PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet",)
LISTS = (".txt",)
SUFFIXES = (*DELIMITED, *JSON_LINES, *PARQUET, *LISTS)
LIST_COLUMN = "url"
DELIMITERS = ",;\t|"
MAX_LINE = 16_000_000  # characters of a line of JSONL
ROWS_AT_ONCE = 1_024  # rows per batch of a Parquet file
IMAGES_AT_ONCE = 16  # rows per batch of one with embedded images
MAX_COLUMNS_TOLD = 30


class TableRow(NamedTuple):
    """A row, or the error in its place."""

    number: int  # line of CSV and JSONL, row (from 1) of Parquet
    fields: dict[str, Any] | None  # None: the row cannot be parsed
    fault: str = ""  # the reason


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[TableRow]:
    """Read the rows of the table at ``path``, in order.

    Args:
        path: file with one of `SUFFIXES`.
        columns: columns to read; None: all. Binary values of Parquet are not read but replaced by True, and a struct of
            bytes and path by its path.

    Raises:
        MissingError: the file does not exist.
        InputError: it is not such a table, has no rows, or lacks a column; the text lists its columns.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a table whose name ends with {', '.join(SUFFIXES)}")
    if not path.exists():
        raise MissingError(f"{path}: no such file; expected a table (CSV, JSONL, Parquet, or a list of URLs)")
    if not path.is_file():
        raise InputError(f"{path}: expected a table, got something that is not a regular file")
    if suffix in PARQUET:
        rows = _parquet_rows(path, columns)
    elif suffix in LISTS:
        rows = _list_rows(path, columns)
    else:
        rows = _text_rows(path, columns, "\t" if suffix == ".tsv" else None if suffix in DELIMITED else "")
    count = 0
    for row in rows:
        count += 1
        yield row
    if not count:
        raise InputError(f"{path}: expected at least one row, got an empty table")


def read_images(path: Path, column: str) -> Iterator[Any]:
    """Read ``column`` of the Parquet file at ``path`` row by row: bytes, a text, or a struct of both.

    Raises:
        InputError: it is not a Parquet file, or has no such column.
    """
    with _reading_parquet(path) as file:
        _check_columns(path, [column], file.schema_arrow.names)
        rows = 0
        for batch in file.iter_batches(batch_size=IMAGES_AT_ONCE, columns=[column]):
            rows += batch.num_rows
            yield from (value.as_py() for value in batch.column(0))
        check_rows(path, file, rows)


def has_embedded_images(path: Path, column: str) -> bool:
    """Whether ``column`` of the table at ``path`` contains images instead of paths.

    Raises:
        InputError: the file has the suffix of Parquet but another format.
    """
    if path.suffix.lower() not in PARQUET or not path.is_file():
        return False
    with open_parquet(path) as file:
        return column in file.schema_arrow.names and _is_image(file.schema_arrow.field(column).type)


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[TableRow]:
    with _reading_parquet(path) as file:
        schema = file.schema_arrow
        _check_columns(path, columns or (), schema.names)
        wanted = list(dict.fromkeys(columns or schema.names))
        images = {name for name in wanted if _is_image(schema.field(name).type)}
        paths = {name for name in images if _has_path(schema.field(name).type)}
        read = [f"{name}.path" if name in paths else name for name in wanted if name not in images - paths]
        number = 0
        batches = file.iter_batches(batch_size=ROWS_AT_ONCE, columns=read) if read else _counted(file)
        for batch in batches:
            found = {name: _column(batch, name) for name in wanted if name not in images - paths}
            for row in range(batch.num_rows):
                number += 1
                fields = {name: values[row] for name, values in found.items()}
                for name in images:
                    fields[name] = (fields[name] or {}).get("path") if name in paths else True
                yield TableRow(number, fields)
        check_rows(path, file, number)


@contextmanager
def _reading_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    with open_parquet(path) as file:
        try:
            yield file
        except DAMAGED as error:
            raise InputError(f"{path}: cannot be read completely: {error}") from error


def _counted(file: Any) -> Iterator[Any]:
    """Batches without columns."""
    left = file.metadata.num_rows
    while left > 0:
        rows = min(left, ROWS_AT_ONCE)
        yield pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
        left -= rows


def _column(batch: pa.RecordBatch, name: str) -> list[Any]:
    return list(batch.column(name).to_pylist())


def _is_image(kind: pa.DataType) -> bool:
    """Whether the type is binary or Hugging Face's struct of bytes and path."""
    if pa.types.is_struct(kind):
        return "bytes" in (field.name for field in kind) and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _has_path(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and "path" in (field.name for field in kind)


def _list_rows(path: Path, columns: Sequence[str] | None) -> Iterator[TableRow]:
    _check_columns(path, columns or (), [LIST_COLUMN])
    with _reading(path) as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            if line.strip() and not line.lstrip().startswith("#"):
                yield TableRow(number, {LIST_COLUMN: line.strip()})


def _text_rows(path: Path, columns: Sequence[str] | None, delimiter: str | None) -> Iterator[TableRow]:
    """Rows of CSV (``delimiter`` None: detected) or, with an empty delimiter, of JSONL."""
    with _reading(path) as file:
        yield from _json_rows(path, file, columns) if delimiter == "" else _csv_rows(path, file, columns, delimiter)


@contextmanager
def _reading(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8, got other bytes in line {_line_of_fault(path)}. Save it as UTF-8 (in Excel: "
            '"CSV UTF-8")'
        ) from error
    except csv.Error as error:
        raise InputError(f"{path}: expected CSV, got something else: {error}") from error


def _line_of_fault(path: Path) -> int:
    """The first line that is not UTF-8; the decoder of `_reading` reports no line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _csv_rows(path: Path, file: TextIO, columns: Sequence[str] | None, delimiter: str | None) -> Iterator[TableRow]:
    header = file.readline()
    file.seek(0)
    if not header.strip():
        raise InputError(f"{path}: expected a first line with the column names, got an empty one")
    reader = csv.reader(file, delimiter=delimiter or max(DELIMITERS, key=header.count))
    names = [name.strip() for name in next(reader)]
    _check_columns(path, columns or (), names)
    for values in reader:
        if not any(values):
            continue
        if len(values) != len(names):
            fault = f"expected {len(names)} fields as in the first line, got {len(values)}"
            yield TableRow(reader.line_num, None, fault)
        else:
            yield TableRow(reader.line_num, dict(zip(names, values, strict=True)))


def _json_rows(path: Path, file: TextIO, columns: Sequence[str] | None) -> Iterator[TableRow]:
    keys: dict[str, None] = {}
    number = rows = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if not line.strip():
            continue
        if len(line) == MAX_LINE:
            raise InputError(f"{path}: line {number}: expected at most {MAX_LINE} characters. Is it JSONL?")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield TableRow(number, None, f"expected JSON: {error}")
            continue
        if not isinstance(value, dict):
            yield TableRow(number, None, f"expected a JSON object, got {short_repr(value)}")
            continue
        rows += 1
        if len(keys) < 1_000:
            keys.update(dict.fromkeys(value))
        yield TableRow(number, value)
    if rows:
        _check_columns(path, columns or (), keys)


def _check_columns(path: Path, wanted: Iterable[str], there: Iterable[str]) -> None:
    names = list(there)
    missing = [name for name in dict.fromkeys(wanted) if name not in names]
    if missing:
        told = ", ".join(map(repr, names[:MAX_COLUMNS_TOLD])) + (", ..." if len(names) > MAX_COLUMNS_TOLD else "")
        raise InputError(
            f"{path}: no column {', '.join(map(repr, missing))}; its columns are: {told}. Give the right names in "
            "crawl.files.columns of params.yaml, or null for a column that the table does not have"
        )
    doubled = [name for name in dict.fromkeys(wanted) if names.count(name) > 1]
    if doubled:
        raise InputError(f"{path}: column {', '.join(map(repr, doubled))} occurs more than once: rename the others")


def short_repr(value: Any) -> str:
    """``value`` for a message: its repr, which has no control characters, truncated."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def printable(text: str) -> str:
    """``text`` for a message: unprintable characters replaced, truncated, without quotation marks."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:120])
    return shown if len(text) <= 120 else f"{shown}..."
