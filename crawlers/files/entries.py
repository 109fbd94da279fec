"""Validation of a table's row, or of a file in a folder, field by field.

A row without a usable image or category has a fault, a single word that becomes the status of its image. An unusable
title, price or split is discarded and counted, and the row is kept.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from atlas_model.core.errors import InputError
from atlas_model.data.image_files import describe_skipped, image_files
from atlas_model.split.names import parse_split
from atlas_model.taxonomy.files import split_path
from atlas_model.taxonomy.names import LEVEL_SEPARATOR, clean_name
from atlas_model.taxonomy.tree import CategoryPath
from crawlers.files.references import NO_IMAGE, path_reference, row_reference
from crawlers.files.table import PARQUET, has_embedded_images, printable, read_rows, short_repr
from crawlers.pages.text.values import currency_code, parse_amount

NO_CATEGORY, BAD_CATEGORY, BAD_ROW, BAD_NAME = "no_category", "bad_category", "bad_row", "bad_name"
SEPARATOR_IN_NAME = "separator_in_name"


@dataclass(frozen=True)
class Columns:
    """Names of the table's columns; None: the table has no such column."""

    image: str
    category: Sequence[str]  # one column with the whole path, or one per level; none: the images have no labels
    product: str | None
    title: str | None
    price: str | None
    split: str | None

    @property
    def names(self) -> list[str]:
        """All column names, without duplicates."""
        named = [self.image, *self.category, self.product, self.title, self.price, self.split]
        return list(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True)
class ProductEntry:
    """One row's data about a product."""

    place: str  # position for messages: "line 3", "row 3"
    product: str  # product id; may repeat if `is_product`
    is_product: bool  # whether the row is a product of its own, even if another row has the same id
    image: str  # reference, see `references`
    category: CategoryPath  # empty: not stated
    fault: str = ""  # reason for which the row cannot be used
    title: str | None = None
    price: Decimal | None = None
    currency: str | None = None
    split: str | None = None


@dataclass
class DiscardedFields:
    """Counts of fields that were discarded because of a wrong type, per column."""

    fields: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def count(self, column: str, usable: bool, text: str) -> None:
        """Count a non-empty field of ``column``; ``text`` describes the error if it is not usable."""
        (self.kept if usable else self.fields)[column] += 1
        if not usable:
            self.first.setdefault(column, text)

    def check(self, path: Path) -> None:
        """Check that each column has at least one usable field.

        Raises:
            InputError: a column has none; the text lists all such columns.
        """
        useless = [column for column in self.fields if not self.kept[column]]
        faults = [
            f"column {column!r}: {self.first[column]}, and no usable value in any row. Name another column in "
            "crawl.files.columns, or null"
            for column in useless
        ]
        if faults:
            raise InputError.from_faults(str(path), faults)


def entries_of_table(
    path: Path, columns: Columns, separator: str | None, discarded: DiscardedFields, *, urls: bool = False
) -> Iterator[ProductEntry]:
    """Read one entry per row of the table at ``path``.

    Args:
        path: the table.
        columns: its columns.
        separator: as in `products.write_products`.
        discarded: counts discarded fields.
        urls: whether the image column holds URLs instead of paths. The fetch checks them: an invalid one gets a status.

    Raises:
        MissingError: the file does not exist.
        InputError: it is not a table, is empty, or lacks a column; or it contains images where URLs are expected.
    """
    embedded = has_embedded_images(path, columns.image)
    if embedded and urls:
        raise InputError(
            f"{path}: expected URLs in the column {columns.image!r}, got images. For a table that contains its images, "
            "set crawl.source to files"
        )
    unit = "row" if path.suffix.lower() in PARQUET else "line"
    for row in read_rows(path, columns.names):
        place = f"{unit} {row.number}"
        if row.fields is None:
            yield ProductEntry(place, place, True, path_reference(""), (), BAD_ROW)
            continue
        optional = _OptionalFields(columns, row.fields, place, discarded)
        value = row.fields.get(columns.image)
        image, image_fault = _url(value) if urls else _image(value, row.number, embedded)
        name, is_product, product_fault = _product(row.fields, columns, place)
        category, fault = _category([row.fields.get(column) for column in columns.category], separator)
        yield ProductEntry(
            place=place,
            product=name,
            is_product=is_product,
            image=image,
            category=category,
            fault=image_fault or product_fault or fault,
            title=optional.title(),
            **optional.price(),
            split=optional.split(),
        )


def entries_of_folder(folder: Path, left_out: Counter[str]) -> Iterator[ProductEntry]:
    """Read one entry per image file in ``folder``; the subfolders of a file are its category path.

    Args:
        folder: the folder.
        left_out: counts the other files, as in `image_files`.

    Raises:
        InputError: a folder cannot be listed, or there is no image file.
    """
    found_any = False
    for path in image_files(folder, left_out):
        found_any = True
        relative = path.relative_to(folder)
        name = relative.as_posix()
        if not _is_valid_utf8(name):
            name = name.encode(errors="replace").decode()
            yield ProductEntry(f"file {name}", name, True, path_reference(name), (), BAD_NAME)
            continue
        category = tuple(map(clean_name, relative.parts[:-1]))
        yield ProductEntry(f"file {name}", name, True, path_reference(name), category, _fault_of(category))
    if not found_any:
        told = f" ({describe_skipped(left_out)})" if left_out else ""
        raise InputError(f"{folder}: expected image files in folders that are named after categories, found none{told}")


def _product(fields: dict[str, Any], columns: Columns, place: str) -> tuple[str, bool, str]:
    """The product id, whether the row is a product of its own, and the fault if the id is invalid."""
    given = None if columns.product is None else fields.get(columns.product)
    product = _identity(given)
    if product is not None:
        return product, False, ""
    path = fields.get(columns.image)
    name = path if isinstance(path, str) and path.strip() and _is_valid_utf8(path) else place
    return name, True, "" if _is_empty(given) else BAD_ROW


def _image(value: Any, number: int, embedded: bool) -> tuple[str, str]:
    """The image's reference, and the fault if it is invalid; an empty path is detected when the image is read."""
    if embedded:
        return row_reference(number), ""
    if value is None:
        return path_reference(""), ""
    if not isinstance(value, str) or not _is_valid_utf8(value):
        return path_reference(""), BAD_ROW
    return path_reference(value.strip()), ""


def _url(value: Any) -> tuple[str, str]:
    """The URL as it is, and the fault if it is no text."""
    if _is_empty(value):
        return NO_IMAGE, ""
    if not isinstance(value, str) or not _is_valid_utf8(value):
        return NO_IMAGE, BAD_ROW
    return value.strip(), ""


def _category(values: Sequence[Any], separator: str | None) -> tuple[CategoryPath, str]:
    """The category path, and its fault; both empty if no category is given."""
    levels: list[Any] = list(values)
    if len(levels) == 1:
        (value,) = levels
        if isinstance(value, list | tuple):
            levels = list(value)
        elif isinstance(value, str) and separator is not None:
            levels = _levels(value, separator.strip() or separator) if value.strip() else []
    texts = [_identity(level) for level in levels]
    if any(text is None and not _is_empty(level) for text, level in zip(texts, levels, strict=True)):
        return (), BAD_CATEGORY  # numbers with fractions, objects
    texts = [text and (clean_name(text) or None) for text in texts]
    while texts and texts[-1] is None:
        texts.pop()  # paths may end early
    if any(text is None for text in texts):
        return (), BAD_CATEGORY
    names = tuple(text for text in texts if text is not None)
    return names, _fault_of(names) if names else ""


def _levels(text: str, separator: str) -> list[str]:
    """The levels in one field; both arrows (``>`` and ``->``) are accepted."""
    return list(split_path(text) if separator in (LEVEL_SEPARATOR, f"-{LEVEL_SEPARATOR}") else text.split(separator))


def _fault_of(category: CategoryPath) -> str:
    """The fault of a category path; empty if there is none."""
    if any(LEVEL_SEPARATOR in name for name in category):
        return SEPARATOR_IN_NAME
    return "" if category and all(category) else BAD_CATEGORY if category else NO_CATEGORY


def _identity(value: Any) -> str | None:
    """A text or whole number as text; None if it is empty or of another type."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value)) if float(value).is_integer() else None  # pandas writes 12.0 if other fields are empty
    if not isinstance(value, str) or not _is_valid_utf8(value):
        return None
    return " ".join(value.split()) or None


class _OptionalFields:
    """The fields of a row that are discarded if they are invalid."""

    def __init__(self, columns: Columns, fields: dict[str, Any], place: str, discarded: DiscardedFields) -> None:
        self._columns, self._fields, self._place, self._discarded = columns, fields, place, discarded

    def title(self) -> str | None:
        value = self._given(self._columns.title)
        usable = isinstance(value, str) and _is_valid_utf8(value)
        self._count(self._columns.title, value, usable, "text")
        return value.strip() if usable else None

    def price(self) -> dict[str, Any]:
        value = self._given(self._columns.price)
        amount = parse_amount(value)
        self._count(self._columns.price, value, amount is not None, "a price")
        return {} if amount is None else {"price": amount, "currency": currency_code(value)}

    def split(self) -> str | None:
        value = self._given(self._columns.split)
        split = parse_split(value) if isinstance(value, str) else None
        self._count(self._columns.split, value, split is not None, "train, val or test")
        # An unknown name is kept, so that the split stage can report it when hints are respected.
        return split if split is not None or value is None else printable(str(value))

    def _given(self, column: str | None) -> Any:
        value = None if column is None else self._fields.get(column)
        return None if _is_empty(value) else value

    def _count(self, column: str | None, value: Any, usable: bool, expected: str) -> None:
        if column is not None and value is not None:
            self._discarded.count(column, usable, f"expected {expected}, got {short_repr(value)} in {self._place}")


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_valid_utf8(text: str) -> bool:
    """Whether ``text`` has no lone surrogates, which JSON and file names may contain but UTF-8 cannot encode."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
