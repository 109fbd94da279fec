"""What a row of a table, or a file in a folder, says of a product: checked field by field.

A row without an image or a category that can be used is faulty; its fault has one word, which becomes the status of its
image. A title, a price or a split that cannot be used is left out and counted: the image is worth as much without it.
Knows nothing of other rows.
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
from crawlers.files.references import of_path, of_row
from crawlers.files.table import PARQUET, brief, holds_images, named, read_rows
from crawlers.pages.text.values import currency_code, parse_amount

NO_CATEGORY, BAD_CATEGORY, BAD_ROW, BAD_NAME = "no_category", "bad_category", "bad_row", "bad_name"
SEPARATOR_IN_NAME = "separator_in_name"


@dataclass(frozen=True)
class Columns:
    """The names of the columns; None: the table has none such."""

    image: str
    category: Sequence[str]  # one that holds the whole path, or one per level
    product: str | None
    title: str | None
    price: str | None
    split: str | None

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        named = [self.image, *self.category, self.product, self.title, self.price, self.split]
        return list(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True)
class Entry:
    """A row's part of a product."""

    place: str  # where it stands, for messages: "line 3", "row 3"
    product: str  # what tells products apart; not unique where `is_product`
    is_product: bool  # whether the row is a product by itself, whatever others are called
    image: str  # a reference
    category: CategoryPath  # empty: the row says none
    fault: str = ""  # why it cannot be used
    title: str | None = None
    price: Decimal | None = None
    currency: str | None = None
    split: str | None = None


@dataclass
class Discarded:
    """Fields that were left out because they are of another type than they should be: for each column, how often."""

    fields: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def count(self, column: str, usable: bool, text: str) -> None:
        """Count a field of ``column`` that is not empty; ``text`` says what is wrong with it if it is not usable."""
        (self.kept if usable else self.fields)[column] += 1
        if not usable:
            self.first.setdefault(column, text)

    def check(self, path: Path) -> None:
        """Whether some column holds nothing that can be used.

        Raises:
            InputError: one does; the text lists all of them.
        """
        useless = [column for column in self.fields if not self.kept[column]]
        faults = [
            f"column {column!r}: {self.first[column]}, and none that can be used in any row. Name another column in "
            "crawl.files.columns, or null"
            for column in useless
        ]
        if faults:
            raise InputError.from_faults(str(path), faults)


def entries_of_table(path: Path, columns: Columns, separator: str | None, discarded: Discarded) -> Iterator[Entry]:
    """One per row of the table at ``path``.

    Raises:
        MissingError: no such file.
        InputError: it is no table, is empty, or lacks a column.
    """
    embedded = holds_images(path, columns.image)
    unit = "row" if path.suffix.lower() in PARQUET else "line"
    for row in read_rows(path, columns.names):
        place = f"{unit} {row.number}"
        if row.fields is None:
            yield Entry(place, place, True, of_path(""), (), BAD_ROW)
            continue
        optional = _Optional(columns, row.fields, place, discarded)
        image, image_fault = _image(row.fields.get(columns.image), row.number, embedded)
        name, is_product, product_fault = _product(row.fields, columns, place)
        category, fault = _category([row.fields.get(column) for column in columns.category], separator)
        yield Entry(
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


def entries_of_folder(folder: Path, left_out: Counter[str]) -> Iterator[Entry]:
    """One per image file in ``folder``: the folders that it is in are its category path.

    Args:
        folder: which.
        left_out: counts the other files, as of `image_files`.

    Raises:
        InputError: a folder cannot be listed, or none of them holds an image file.
    """
    met = False
    for path in image_files(folder, left_out):
        met = True
        relative = path.relative_to(folder)
        name = relative.as_posix()
        if not _is_storable(name):
            name = name.encode(errors="replace").decode()
            yield Entry(f"file {name}", name, True, of_path(name), (), BAD_NAME)
            continue
        category = tuple(map(clean_name, relative.parts[:-1]))
        yield Entry(f"file {name}", name, True, of_path(name), category, _fault_of(category))
    if not met:
        told = f" ({describe_skipped(left_out)})" if left_out else ""
        raise InputError(f"{folder}: expected image files in folders that are named after categories, found none{told}")


def _product(fields: dict[str, Any], columns: Columns, place: str) -> tuple[str, bool, str]:
    """What it is called, whether the row is one by itself, and the fault if that cannot be told."""
    given = None if columns.product is None else fields.get(columns.product)
    product = _identity(given)
    if product is not None:
        return product, False, ""
    path = fields.get(columns.image)
    name = path if isinstance(path, str) and path.strip() and _is_storable(path) else place
    return name, True, "" if _is_empty(given) else BAD_ROW


def _image(value: Any, number: int, embedded: bool) -> tuple[str, str]:
    """Its reference, and the fault if it is none; that it is empty is found when it is read."""
    if embedded:
        return of_row(number), ""
    if value is None:
        return of_path(""), ""
    if not isinstance(value, str) or not _is_storable(value):
        return of_path(""), BAD_ROW
    return of_path(value.strip()), ""


def _category(values: Sequence[Any], separator: str | None) -> tuple[CategoryPath, str]:
    """The path, and the fault if it has one; neither where nothing is said."""
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
    """The levels in one field; an arrow is read whichever of the two it is."""
    return list(split_path(text) if separator in (LEVEL_SEPARATOR, f"-{LEVEL_SEPARATOR}") else text.split(separator))


def _fault_of(category: CategoryPath) -> str:
    """What is wrong with a whole path."""
    if any(LEVEL_SEPARATOR in name for name in category):
        return SEPARATOR_IN_NAME
    return "" if category and all(category) else BAD_CATEGORY if category else NO_CATEGORY


def _identity(value: Any) -> str | None:
    """A text or a whole number, as a text; None where it is empty or something else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value)) if float(value).is_integer() else None  # pandas makes 12.0 of 12 where others are empty
    if not isinstance(value, str) or not _is_storable(value):
        return None
    return " ".join(value.split()) or None


class _Optional:
    """The fields of a row that are left out where they cannot be used."""

    def __init__(self, columns: Columns, fields: dict[str, Any], place: str, discarded: Discarded) -> None:
        self._columns, self._fields, self._place, self._discarded = columns, fields, place, discarded

    def title(self) -> str | None:
        value = self._given(self._columns.title)
        usable = isinstance(value, str) and _is_storable(value)
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
        # Another name stays: where splits are respected, who draws them has to know that there is one.
        return split if split is not None or value is None else named(str(value))

    def _given(self, column: str | None) -> Any:
        value = None if column is None else self._fields.get(column)
        return None if _is_empty(value) else value

    def _count(self, column: str | None, value: Any, usable: bool, expected: str) -> None:
        if column is not None and value is not None:
            self._discarded.count(column, usable, f"expected {expected}, got {brief(value)} in {self._place}")


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_storable(text: str) -> bool:
    """JSON may spell half a character (a lone surrogate), and a file's name any bytes; UTF-8 cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
