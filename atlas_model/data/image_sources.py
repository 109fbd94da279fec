"""Where many images come from: files below a folder, or Parquet that holds them; in order, from any place on.

Nothing is decoded here, and an image that cannot be read is its reader's concern. Knows nothing of models.
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
from atlas_model.data.schemas import open_parquet, shard_paths
from atlas_model.data.titles import split_words

BATCH_ROWS = 64  # of a Parquet file, in memory at once
PRODUCT_ID = "product_id"  # column
TITLE = "title"  # likewise


@dataclass(frozen=True)
class SourceImage:
    """An image that has not been read yet."""

    name: str  # its image_id, or its path: in the struct, or relative to the folder; without one, <file>#<row from 0>
    read: Callable[[], bytes]  # raises OSError, ImageError
    product_id: str | None = None  # whose image it is; None where nobody asked for that
    title: str | None = None  # of its product; None where there is none, or nobody asked for it


@dataclass(frozen=True)
class ImageSource:
    """Images in an order that stays."""

    count: int
    key: str  # another one if the files have other names, sizes or times
    start_at: Callable[[int], Iterator[SourceImage]]  # all from that number on
    titled: int = 0  # images with a title
    skipped: Counter[str] = field(default_factory=Counter)  # files that are called no images, by suffix


def open_source(path: Path, *, products: bool = False, titles: bool = False) -> ImageSource:
    """The images in ``path``.

    Args:
        path: a Parquet file, or a folder of them in name order, with the columns ``image_id`` and ``bytes``
            (`records.IMAGES`) or ``image``, a struct of ``bytes`` and ``path`` (`records.SPLIT`); or a folder without
            any, for the image files in it and below it.
        products: whether each image says whose image it is: in Parquet by the column ``product_id``, in a folder by
            the folder that it lies in, named by its path. What lies in ``path`` itself is a product of its own.
        titles: whether the column ``title`` of Parquet is read, where there is one.

    Raises:
        InputError: it is none of these, or holds no image, or an image does not say whose image it is, or titles
            are no texts.
    """
    if path.is_dir() and not any(path.glob("*.parquet")):
        source = _folder_source(path)
    elif path.exists():
        source = _parquet_source(path, [PRODUCT_ID] * products + [TITLE] * titles)
    else:
        raise InputError(f"{path}: expected a folder of images or a Parquet file, got nothing of that name")
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
        while first >= (size := opened.metadata.row_group(groups[0]).num_rows):  # it need not be read
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
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file}: expected a whole Parquet file, got a damaged one: {error}") from error


def _bytes(cell: pa.Scalar, name: str) -> bytes:
    found: bytes | None = cell.as_py()
    if found is None:
        raise ImageError(
            "not_in_file", f"the image is not in the file: expected its bytes, got its name alone, {name!r}"
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
    """Fail unless each row says whose image it is: to learn that at the end would be late."""
    if PRODUCT_ID not in opened.schema_arrow.names:
        raise InputError(
            f"{file}: expected the column {PRODUCT_ID}, which says whose image each row is; got "
            f"{', '.join(opened.schema_arrow.names)}. Add it, or ask for no answers of products"
        )
    _check_texts(file, opened, PRODUCT_ID)
    row = 0
    try:
        for batch in opened.iter_batches(columns=[PRODUCT_ID]):
            if batch[PRODUCT_ID].null_count:
                row += pc.index(batch[PRODUCT_ID].is_null(), True).as_py()
                raise InputError(f"{file}: expected a {PRODUCT_ID} in each row, got none in row {row}, counted from 0")
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: expected a whole Parquet file, got a damaged one: {error}") from error


def _count_titles(file: Path, opened: pq.ParquetFile) -> int:
    """Rows with a title that has a word in it."""
    if TITLE not in opened.schema_arrow.names:
        return 0
    _check_texts(file, opened, TITLE)
    try:
        batches = opened.iter_batches(columns=[TITLE])
        return sum(bool(split_words(title or "")) for batch in batches for title in batch[TITLE].to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: expected a whole Parquet file, got a damaged one: {error}") from error


def _check_texts(file: Path, opened: pq.ParquetFile, column: str) -> None:
    kind = opened.schema_arrow.field(column).type
    if not any(is_text(kind) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise InputError(f"{file}: expected texts in the column {column}, got {kind}")


def _is_binary(kind: pa.DataType) -> bool:
    return any(is_one(kind) for is_one in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _key(files: Iterable[Path]) -> tuple[int, str]:
    """How many, and what changes with them."""
    count, digest = 0, hashlib.sha256()
    for file in files:
        try:
            found = file.stat()
        except OSError:  # a link that leads nowhere: who reads it will say so
            found = file.lstat()
        digest.update(f"{_text(file)}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
        count += 1
    return count, digest.hexdigest()


def _text(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")  # a file's name may be in no encoding
