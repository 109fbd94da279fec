"""What changed between two crawls: products added, removed, and changed in price, title, images, availability, ...

A report beside the data, never a column in it. Knows nothing of where the two tables come from.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from atlas_model.core.errors import InputError
from atlas_model.core.files import replacing
from atlas_model.data.schemas import write_rows

PLAIN = ("availability", "brand", "gtin", "mpn")  # columns whose values are compared as they are
KINDS = ("added", "removed", "price", "title", "images", *PLAIN)  # of changes, as people count them
COLUMNS = (  # of products.parquet, that are compared
    "product_id", "site", "title", "price", "currency", "image_urls", *PLAIN
)  # fmt: skip
SCHEMA = pa.schema(
    [
        pa.field("site", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("change", pa.string(), nullable=False),  # added, removed, changed
        pa.field("field", pa.string(), nullable=False),  # title, price, images, ...; title where added or removed
        pa.field("old", pa.string()),  # a price with its currency; images' URLs, one a line
        pa.field("new", pa.string()),
    ]
)
# A spreadsheet takes a cell that begins so for a formula: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Change(NamedTuple):
    """A row of the report."""

    site: str
    product_id: str
    change: str
    field: str
    old: str | None
    new: str | None


def changes(old: pa.Table, new: pa.Table) -> Iterator[Change]:
    """What turns ``old`` into ``new`` (both with `COLUMNS`), sorted by product.

    A column that no product of one of them has was not read by that crawl, and is not compared.
    """
    plain = [name for name in PLAIN if all(table[name].null_count < table.num_rows for table in (old, new))]
    befores, afters = _products(old), _products(new)
    before, after = next(befores, None), next(afters, None)
    while before or after:
        if before is not None and (after is None or before["product_id"] < after["product_id"]):
            yield Change(before["site"], before["product_id"], "removed", "title", before["title"], None)
            before = next(befores, None)
        elif after is not None and (before is None or after["product_id"] < before["product_id"]):
            yield Change(after["site"], after["product_id"], "added", "title", None, after["title"])
            after = next(afters, None)
        elif before is not None and after is not None:
            yield from _changed(before, after, plain)
            before, after = next(befores, None), next(afters, None)


def write_changes(path: Path, found: Iterable[Change]) -> dict[str, Counter[str]]:
    """Write ``found`` to ``path``, as its ending says, whole; per site, the products of each of `KINDS`.

    In CSV, a text that a spreadsheet would take for a formula gets an apostrophe in front.

    Raises:
        InputError: the path ends neither in .csv nor in .parquet.
    """
    counts: dict[str, Counter[str]] = {}
    counted = _counted(found, counts)
    if path.suffix == ".parquet":
        write_rows(path, (change._asdict() for change in counted), SCHEMA)
    elif path.suffix == ".csv":
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(SCHEMA.names)
            writer.writerows([_harmless(value) for value in change] for change in counted)
    else:
        raise InputError(f"{path}: expected a name that ends in .csv or .parquet")
    return counts


def as_table(counts: Mapping[str, Counter[str]]) -> list[str]:
    """``counts`` for people: a line per site, and one for all."""
    total = sum(counts.values(), Counter())
    lines = [("site", *KINDS), *((site, *_cells(counts[site])) for site in sorted(counts)), ("all", *_cells(total))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _products(table: pa.Table) -> Iterator[dict[str, Any]]:
    ordered = table.select(COLUMNS).sort_by("product_id")
    for batch in ordered.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], plain: Sequence[str]) -> Iterator[Change]:
    texts: tuple[tuple[str, Callable[[Mapping[str, Any]], str | None]], ...] = (
        ("title", itemgetter("title")),
        ("price", _price),
        ("images", _images),
        *((name, itemgetter(name)) for name in plain),
    )
    for field, text in texts:
        if text(before) != text(after):
            yield Change(after["site"], after["product_id"], "changed", field, text(before), text(after))


def _price(row: Mapping[str, Any]) -> str | None:
    return None if row["price"] is None else f"{row['price']} {row['currency'] or ''}".strip()


def _images(row: Mapping[str, Any]) -> str:
    return "\n".join(row["image_urls"])


def _counted(found: Iterable[Change], counts: dict[str, Counter[str]]) -> Iterator[Change]:
    for change in found:
        kind = change.field if change.change == "changed" else change.change
        counts.setdefault(change.site, Counter())[kind] += 1
        yield change


def _cells(counts: Counter[str]) -> Sequence[str]:
    return [str(counts[kind]) for kind in KINDS]


def _harmless(value: str | None) -> str:
    text = value or ""
    return f"'{text}" if text.startswith(FORMULA) else text
