"""A table of images, or a folder of them, to products: rows of one product put together, sorted by product_id.

Reads no image. Memory holds the fields of all rows as Arrow does, which is a tenth of what Python objects take.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atlas_model.core.errors import InputError
from atlas_model.data.image_files import describe_skipped
from atlas_model.data.schemas import PRODUCTS, write_rows
from atlas_model.split.names import SPLITS
from atlas_model.taxonomy.tree import SEPARATOR
from crawlers.files.entries import NO_CATEGORY, Columns, Discarded, Entry, entries_of_folder, entries_of_table
from crawlers.files.references import FAULT, of_path
from crawlers.files.table import named
from crawlers.sources.manifest import number_repeats

SITE = "files"
LABEL_CONFLICT = "label_conflict"
ROWS_AT_ONCE = 4_096
MAX_TOLD = 3  # examples of each kind

ENTRIES = pa.schema(
    [
        ("product", pa.string()),
        ("is_product", pa.bool_()),
        ("place", pa.string()),
        ("image", pa.string()),
        ("category", pa.list_(pa.string())),
        ("label", pa.string()),  # the category as one text; null: none
        ("fault", pa.string()),
        ("title", pa.string()),
        ("price", PRODUCTS.field("price").type),
        ("currency", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class Counts:
    """What became of a table."""

    products: int
    rows: int
    dropped: dict[str, int]  # products that cannot be used, by the reason; their images are not read
    discarded_fields: dict[str, int]  # by column: fields of another type than they should be, which were left out
    without_title: int  # products
    images_with_two_categories: int  # of which the stage split uses none
    left_out_files: dict[str, int]  # files in the folders that are called no images, by suffix
    warnings: list[str]  # what of this somebody should know, in lines

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the names that other sources give theirs."""
        counts = asdict(self)
        del counts["warnings"]
        return {"by_site": {SITE: self.products}, **counts}


def write_products(output: Path, *, table: Path, images: Path, separator: str | None, columns: Columns) -> Counts:
    """Write ``output`` (`records.PRODUCTS`) from a table, or from the folders of ``images`` where that is the table.

    Rows with the same value in the product's column are one product: its images in the table's order, each other field
    from the first row that has it. Products whose rows name several categories have the fault ``label_conflict``.

    Args:
        output: written whole, sorted by product_id.
        table: CSV, JSONL or Parquet; or the folder ``images`` itself.
        images: the folder; it is listed only if it is the table.
        separator: between the levels of a path in one category column; None: it holds one level.
        columns: of the table.

    Raises:
        MissingError: there is no such table.
        InputError: it cannot be used as a whole, or no row of it.
    """
    left_out: Counter[str] = Counter()
    read, discarded = _read(table, images, separator, columns, left_out)
    tally = _Tally()
    products = write_rows(output, tally.usable(table, _products(read)), PRODUCTS)
    conflicts = _images_with_two_categories(read)
    warnings = tally.warnings()
    warnings += [
        f"column {column!r}: {count} fields were left out; the first: {discarded.first[column]}"
        for column, count in discarded.fields.items()
    ]
    if conflicts:
        told = ", ".join(map(named, conflicts[:MAX_TOLD]))
        warnings.append(
            f"{len(conflicts)} images stand there with two categories, such as {told}: split uses none of them"
        )
    if left_out:
        warnings.append(f"{images}: {describe_skipped(left_out)}")
    return Counts(
        products=products,
        rows=read.num_rows,
        dropped=dict(sorted(tally.faults.items())),
        discarded_fields=dict(sorted(discarded.fields.items())),
        without_title=tally.without_title,
        images_with_two_categories=len(conflicts),
        left_out_files=dict(sorted(left_out.items())),
        warnings=warnings,
    )


def check_table(table: Path, *, images: Path, separator: str | None, columns: Columns) -> None:
    """Find what `write_products` would raise, and write nothing.

    Raises:
        InputError: as there.
    """
    read, _ = _read(table, images, separator, columns, Counter())
    for _ in _Tally().usable(table, _products(read)):
        pass


def _read(
    table: Path, images: Path, separator: str | None, columns: Columns, left_out: Counter[str]
) -> tuple[pa.Table, Discarded]:
    discarded = Discarded()
    if not table.is_dir():
        entries = entries_of_table(table, columns, separator, discarded)
    elif images.is_dir() and table.samefile(images):
        entries = entries_of_folder(images, left_out)
    else:
        raise InputError(
            f"{table}: expected a table (CSV, JSONL, Parquet), got a folder. Where folders are the categories, "
            "crawl.files.table and crawl.files.images name the same one"
        )
    read = _as_table(entries)
    discarded.check(table)
    return read, discarded


class _Tally:
    """Counts the products that go through it."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.without_title = 0
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def usable(self, table: Path, products: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
        """The ``products``; each comes with the place that it begins at.

        Raises:
            InputError: at the end, if none of them can be used.
        """
        usable = 0
        for place, product in products:
            fault = dict(product["details"]).get(FAULT)
            if fault is None:
                usable += 1
            else:
                self.faults[fault] += 1
                self._examples[fault] += [place] * (len(self._examples[fault]) < MAX_TOLD)
            self.without_title += not product["title"]
            yield product
        if not usable:
            raise InputError(f"{table}: expected products with an image and a category, got none: {self._told()}")

    def warnings(self) -> list[str]:
        """What cannot be used, in a line, if there is something."""
        return [f"{self.faults.total()} products cannot be used: {self._told()}"] if self.faults else []

    def _told(self) -> str:
        return "; ".join(
            f"{fault} {count} ({', '.join(map(named, self._examples[fault]))}{', ...' if count > MAX_TOLD else ''})"
            for fault, count in self.faults.most_common()
        )


def _as_table(entries: Iterator[Entry]) -> pa.Table:
    """All entries with the column ``product_id``, sorted by it and then as they came."""
    batches = []
    while some := list(islice(entries, ROWS_AT_ONCE)):
        rows = [{**vars(entry), "label": SEPARATOR.join(entry.category) or None} for entry in some]
        batches.append(pa.RecordBatch.from_pylist(rows, schema=ENTRIES))
    table = pa.Table.from_batches(batches, ENTRIES)
    ids = pa.array(_product_ids(table["product"].to_pylist(), table["is_product"].to_pylist()))
    table = table.append_column("product_id", ids)
    order = pa.array(range(table.num_rows), pa.int64())
    return table.append_column("order", order).sort_by([("product_id", "ascending"), ("order", "ascending")])


def _product_ids(names: Sequence[str], own: Sequence[bool]) -> list[str]:
    """``files:<name>``; rows that are products by themselves get names that no other has."""
    shared = dict.fromkeys(name for name, alone in zip(names, own, strict=True) if not alone)
    alone = [name for name, alone in zip(names, own, strict=True) if alone]
    unique = iter(number_repeats([*shared, *alone])[len(shared) :])
    return [f"{SITE}:{next(unique) if alone else name}" for name, alone in zip(names, own, strict=True)]


def _products(table: pa.Table) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = (row for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE) for row in batch.to_pylist())
    for product_id, group in groupby(rows, key=lambda row: row["product_id"]):
        members = list(group)
        categories = list(dict.fromkeys(tuple(row["category"]) for row in members if row["category"]))
        fault = next((row["fault"] for row in members if row["fault"]), None)
        if fault is None and len(categories) != 1:
            fault = LABEL_CONFLICT if categories else NO_CATEGORY
        priced = next((row for row in members if row["price"] is not None), members[0])
        yield (
            members[0]["place"],
            {
                "product_id": product_id,
                "site": SITE,
                "title": next((row["title"] for row in members if row["title"]), ""),
                "price": priced["price"],
                "currency": priced["currency"],
                "breadcrumb": [],
                "taxonomy": [] if fault else list(categories[0]),
                "details": [(FAULT, fault)] if fault else [],
                "image_urls": [row["image"] for row in members],
                "split_hint": max((row["split"] for row in members), key=_guarded),
            },
        )


def _guarded(split: str | None) -> int:
    """Of the splits that rows of one product name, the one with the most counts: an unknown one hides behind none."""
    known = (None, *SPLITS)
    return known.index(split) if split in known else len(known)


def _images_with_two_categories(table: pa.Table) -> list[str]:
    named = table.filter(pc.and_(pc.is_valid(table["label"]), pc.not_equal(table["image"], of_path(""))))
    counts = named.group_by("image").aggregate([("label", "count_distinct")])
    found = counts.filter(pc.greater(counts["label_count_distinct"], 1))["image"].to_pylist()
    return sorted(reference.partition(":")[2] for reference in found)
