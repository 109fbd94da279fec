"""Reads many images from a folder or from Parquet files, in a fixed order, starting at any position.

Images are not decoded here; errors of single images are raised when they are read.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas_model.core.errors import ImageError, InputError
from atlas_model.data.image_files import describe_skipped, image_files, read_image
from atlas_model.data.schemas import DAMAGED, check_rows, open_parquet, shard_paths
from atlas_model.data.titles import split_words

BATCH_ROWS = 64  # rows of a Parquet file in memory
PRODUCT_ID = "product_id"  # column
TITLE = "title"  # likewise


@dataclass(frozen=True)
class SourceImage:
    """An image that has not been read yet."""

    name: str  # image_id; or path, of the struct or relative to the folder; else <file>#<row from 0>
    read: Callable[[], bytes]  # raises OSError, ImageError
    product_id: str | None = None  # None if not requested
    title: str | None = None  # of its product; None if it has none, or if not requested


@dataclass(frozen=True)
class ImageSource:
    """Images in a fixed order."""

    count: int
    key: str  # digest of the files' names, sizes and times
    start_at: Callable[[int], Iterator[SourceImage]]  # the images from that position on
    titled: int = 0  # images with a title
    skipped: Counter[str] = field(default_factory=Counter)  # files that are not images, by suffix


def open_source(path: Path, *, products: bool = False, titles: bool = False) -> ImageSource:
    """Open the images in ``path``.

    Args:
        path: a Parquet file, or a folder of them (in name order), with the columns ``image_id`` and ``bytes``
            (`schemas.IMAGES`) or ``image``, a struct of ``bytes`` and ``path`` (`schemas.SPLIT`). Or a folder without
            Parquet files: the image files in it and below it.
        products: whether to read product ids: from the column ``product_id`` of Parquet; in a folder, the path of the
            folder that holds the image, and an image in ``path`` itself is a product of its own.
        titles: whether to read the column ``title`` of Parquet, if there is one.

    Raises:
        InputError: ``path`` is none of these or has no images, a product id is missing, or titles are not strings.
    """
    if path.is_dir() and not any(path.glob("*.parquet")):
        source = _folder_source(path)
    elif path.exists():
        source = _parquet_source(path, [PRODUCT_ID] * products + [TITLE] * titles)
    else:
        got = "a link that leads nowhere" if path.is_symlink() else "nothing of that name"
        raise InputError(f"{path}: expected a folder of images or a Parquet file, got {got}")
    if not source.count:
        skipped = f" ({describe_skipped(source.skipped)})" if source.skipped else ""
        raise InputError(f"{path}: expected images, got none{skipped}")
    return source


def _folder_source(folder: Path) -> ImageSource:
    def start_at(first: int) -> Iterator[SourceImage]:
        for file in islice(image_files(folder), first, None):
            name = file.relative_to(folder)
            yield SourceImage(_text(name), partial(read_image, file), _text(name.parent if name.parent.name else name))

    skipped: Counter[str] = Counter()
    count, key = _key(image_files(folder, skipped))
    return ImageSource(count, key, start_at, skipped=skipped)


def _parquet_source(path: Path, more: Sequence[str]) -> ImageSource:
    files = shard_paths(path, made_by="fetch")
    rows, titled = [], 0
    for file in files:
        with open_parquet(file) as opened:
            _check_columns(file, opened.schema_arrow)
            if PRODUCT_ID in more:
                _check_product_ids(file, opened)
            if TITLE in more:
                titled += _count_titles(file, opened)
            rows.append(opened.metadata.num_rows)

    def start_at(first: int) -> Iterator[SourceImage]:
        for file, count in zip(files, rows, strict=True):
            if first < count:
                yield from _images(file, first, more)
            first = max(0, first - count)

    return ImageSource(sum(rows), _key(files)[1], start_at, titled)


def _images(file: Path, first: int, more: Sequence[str]) -> Iterator[SourceImage]:
    with open_parquet(file) as opened:
        groups, row = list(range(opened.num_row_groups)), 0
        while first >= (size := opened.metadata.row_group(groups[0]).num_rows):  # skip this row group
            first -= size
            row += size
            del groups[0]
        columns = [name for name in ("image_id", "bytes", "image", *more) if name in opened.schema_arrow.names]
        try:
            for batch in opened.iter_batches(BATCH_ROWS, groups, columns):
                names = batch["image_id"] if "image_id" in columns else pc.struct_field(batch["image"], "path")
                cells = batch["bytes"] if "bytes" in columns else pc.struct_field(batch["image"], "bytes")
                named = [name or f"{file.name}#{row + index}" for index, name in enumerate(names.to_pylist())]
                row += batch.num_rows
                owners, titles = (
                    batch[name].to_pylist() if name in more and name in columns else [None] * batch.num_rows
                    for name in (PRODUCT_ID, TITLE)
                )
                for name, cell, owner, title in list(zip(named, cells, owners, titles, strict=True))[first:]:
                    yield SourceImage(str(name), partial(_bytes, cell, str(name)), owner, title)
                first = max(0, first - batch.num_rows)
            check_rows(file, opened, row)
        except DAMAGED as error:
            raise InputError(f"{file}: expected a whole Parquet file, got a damaged one: {error}") from error


def _bytes(cell: pa.Scalar, name: str) -> bytes:
    found: bytes | None = cell.as_py()
    if found is None:
        raise ImageError(
            "not_in_file", f"the image is not in the file: expected its bytes, got only its name, {name!r}"
        )
    return found


def _check_columns(file: Path, schema: pa.Schema) -> None:
    columns = {field.name: field.type for field in schema}
    image = columns.get("image", pa.null())
    in_struct = {field.name: field.type for field in image} if pa.types.is_struct(image) else {}
    named = "image_id" in columns or "path" in in_struct
    if not named or not _is_binary(columns.get("bytes", in_struct.get("bytes", pa.null()))):
        raise InputError(
            f"{file}: expected the columns image_id and bytes (binary), or image (a struct of bytes and path), "
            f"got {', '.join(f'{name} ({kind})' for name, kind in columns.items())}"
        )


def _check_product_ids(file: Path, opened: pq.ParquetFile) -> None:
    """Raise unless each row has a product_id: before the work, not at its end."""
    if PRODUCT_ID not in opened.schema_arrow.names:
        raise InputError(
            f"{file}: expected the column {PRODUCT_ID}, the product of each image; got "
            f"{', '.join(opened.schema_arrow.names)}. Add it, or do not request predictions for products"
        )
    _check_texts(file, opened, PRODUCT_ID)
    row = 0
    try:
        for batch in opened.iter_batches(columns=[PRODUCT_ID]):
            if batch[PRODUCT_ID].null_count:
                row += pc.index(batch[PRODUCT_ID].is_null(), True).as_py()
                raise InputError(f"{file}: expected a {PRODUCT_ID} in each row, got none in row {row}, counted from 0")
            row += batch.num_rows
    except DAMAGED as error:
        raise InputError(f"{file}: expected a whole Parquet file, got a damaged one: {error}") from error


def _count_titles(file: Path, opened: pq.ParquetFile) -> int:
    """Count the rows with a title that has a word."""
    if TITLE not in opened.schema_arrow.names:
        return 0
    _check_texts(file, opened, TITLE)
    try:
        batches = opened.iter_batches(columns=[TITLE])
        return sum(bool(split_words(title or "")) for batch in batches for title in batch[TITLE].to_pylist())
    except DAMAGED as error:
        raise InputError(f"{file}: expected a whole Parquet file, got a damaged one: {error}") from error


def _check_texts(file: Path, opened: pq.ParquetFile, column: str) -> None:
    kind = opened.schema_arrow.field(column).type
    if not any(is_text(kind) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise InputError(f"{file}: expected strings in the column {column}, got {kind}")


def _is_binary(kind: pa.DataType) -> bool:
    return any(is_one(kind) for is_one in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _key(files: Iterable[Path]) -> tuple[int, str]:
    """Number of files, and a digest of their names, sizes and times."""
    count, digest = 0, hashlib.sha256()
    for file in files:
        try:
            found = file.stat()
        except OSError:  # a dangling link: reading it will report the error
            found = file.lstat()
        digest.update(f"{_text(file)}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
        count += 1
    return count, digest.hexdigest()


def _text(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")  # a file name may be invalid UTF-8
