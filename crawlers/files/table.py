"""Rows of tables that people write: CSV (or TSV), JSONL and Parquet, one after the other, in bounded memory.

The name of the file says which it is. Fields keep the types that the file gives them (CSV: text); what they mean is
another module's matter (`entries`). Knows nothing of images.
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
from atlas_model.data.schemas import open_parquet

DELIMITED, JSON_LINES, PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet",)
SUFFIXES = (*DELIMITED, *JSON_LINES, *PARQUET)
DELIMITERS = ",;\t|"
MAX_LINE = 16_000_000  # characters of a line of JSONL
ROWS_AT_ONCE = 1_024  # of a Parquet file
IMAGES_AT_ONCE = 16  # rows of one that hold images
MAX_COLUMNS_TOLD = 30


class Row(NamedTuple):
    """A row, or what stands in place of one."""

    number: int  # the line of CSV and JSONL, the row (from 1) of Parquet
    fields: dict[str, Any] | None  # None: it cannot be read as a row
    fault: str = ""  # why


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of the table at ``path``, in its order.

    Args:
        path: its suffix is one of `SUFFIXES`.
        columns: the ones that are wanted; None: all. Bytes in Parquet are not read, but given as True; a struct of
            bytes and path as its path.

    Raises:
        MissingError: no such file.
        InputError: it is no such table, has no rows, or lacks a wanted column; the text lists those that it has.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a table whose name ends with {', '.join(SUFFIXES)}")
    if not path.exists():
        raise MissingError(f"{path}: no such file; expected a table (CSV, JSONL or Parquet)")
    if not path.is_file():
        raise InputError(f"{path}: expected a table, got something that is no file")
    if suffix in PARQUET:
        rows = _parquet_rows(path, columns)
    else:
        rows = _text_rows(path, columns, "\t" if suffix == ".tsv" else None if suffix in DELIMITED else "")
    count = 0
    for row in rows:
        count += 1
        yield row
    if not count:
        raise InputError(f"{path}: expected at least one row, got an empty table")


def read_images(path: Path, column: str) -> Iterator[Any]:
    """What ``column`` of the Parquet file at ``path`` holds, row by row: bytes, a text, or a struct of both.

    Raises:
        InputError: it is no Parquet file, or has no such column.
    """
    with _reading_parquet(path) as file:
        _check_columns(path, [column], file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=IMAGES_AT_ONCE, columns=[column]):
            yield from (value.as_py() for value in batch.column(0))


def holds_images(path: Path, column: str) -> bool:
    """Whether ``column`` of the table at ``path`` holds images themselves, rather than paths.

    Raises:
        InputError: it is no Parquet file, though it is called so.
    """
    if path.suffix.lower() not in PARQUET or not path.is_file():
        return False
    with open_parquet(path) as file:
        return column in file.schema_arrow.names and _is_image(file.schema_arrow.field(column).type)


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
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
                yield Row(number, fields)


@contextmanager
def _reading_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    with open_parquet(path) as file:
        try:
            yield file
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read to its end: {error}") from error


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
    """Bytes, or Hugging Face's struct of bytes and path."""
    if pa.types.is_struct(kind):
        return "bytes" in (field.name for field in kind) and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _has_path(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and "path" in (field.name for field in kind)


def _text_rows(path: Path, columns: Sequence[str] | None, delimiter: str | None) -> Iterator[Row]:
    """Of CSV (``delimiter`` None: to be found out) or, with an empty one, of JSONL."""
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
    """The first line that is no UTF-8; decoding in blocks does not tell."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _csv_rows(path: Path, file: TextIO, columns: Sequence[str] | None, delimiter: str | None) -> Iterator[Row]:
    header = file.readline()
    file.seek(0)
    if not header.strip():
        raise InputError(f"{path}: expected a first line with the names of the columns, got an empty one")
    reader = csv.reader(file, delimiter=delimiter or max(DELIMITERS, key=header.count))
    names = [name.strip() for name in next(reader)]
    _check_columns(path, columns or (), names)
    for values in reader:
        if not any(values):
            continue
        if len(values) != len(names):
            fault = f"expected {len(names)} fields as in the first line, got {len(values)}"
            yield Row(reader.line_num, None, fault)
        else:
            yield Row(reader.line_num, dict(zip(names, values, strict=True)))


def _json_rows(path: Path, file: TextIO, columns: Sequence[str] | None) -> Iterator[Row]:
    met: dict[str, None] = {}
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
            yield Row(number, None, f"expected JSON: {error}")
            continue
        if not isinstance(value, dict):
            yield Row(number, None, f"expected a JSON object, got {brief(value)}")
            continue
        rows += 1
        if len(met) < 1_000:
            met.update(dict.fromkeys(value))
        yield Row(number, value)
    if rows:
        _check_columns(path, columns or (), met)


def _check_columns(path: Path, wanted: Iterable[str], there: Iterable[str]) -> None:
    names = list(there)
    missing = [name for name in dict.fromkeys(wanted) if name not in names]
    if missing:
        told = ", ".join(map(repr, names[:MAX_COLUMNS_TOLD])) + (", ..." if len(names) > MAX_COLUMNS_TOLD else "")
        raise InputError(
            f"{path}: no column {', '.join(map(repr, missing))}; there are: {told}. Name the right ones in "
            "crawl.files.columns of params.yaml, or null for what the table does not have"
        )
    doubled = [name for name in dict.fromkeys(wanted) if names.count(name) > 1]
    if doubled:
        raise InputError(
            f"{path}: column {', '.join(map(repr, doubled))} stands there more than once: rename the others"
        )


def brief(value: Any) -> str:
    """``value`` as a message shows it: no character that steers a terminal."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def named(text: str) -> str:
    """The same of a name, without quotation marks."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:120])
    return shown if len(text) <= 120 else f"{shown}..."
