"""Groups the rows of a table, or the files of a folder, into products sorted by product_id.

Reads no image. All rows are in memory as an Arrow table, which takes a tenth of the memory of Python objects.
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
from crawlers.files.entries import (
    NO_CATEGORY,
    Columns,
    DiscardedFields,
    ProductEntry,
    entries_of_folder,
    entries_of_table,
)
from crawlers.files.references import FAULT, path_reference, shown
from crawlers.files.table import printable
from crawlers.sources.manifest import number_repeats

SITE = "files"
LABEL_CONFLICT = "label_conflict"
ROWS_AT_ONCE = 4_096
MAX_TOLD = 3  # examples of each kind in a message

ENTRIES = pa.schema(
    [
        ("product", pa.string()),
        ("is_product", pa.bool_()),
        ("place", pa.string()),
        ("image", pa.string()),
        ("category", pa.list_(pa.string())),
        ("label", pa.string()),  # the category as one text; null: no category
        ("fault", pa.string()),
        ("title", pa.string()),
        ("price", PRODUCTS.field("price").type),
        ("currency", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class ProductCounts:
    """Counts of an imported table."""

    products: int
    rows: int
    dropped: dict[str, int]  # reason -> unusable products; their images are not read
    discarded_fields: dict[str, int]  # column -> fields that were discarded because of a wrong type
    without_title: int  # products
    images_with_two_categories: int  # the stage split uses none of them
    left_out_files: dict[str, int]  # suffix -> files in the folders that are not images by their name
    warnings: list[str]  # messages about these counts

    def to_json(self) -> dict[str, Any]:
        """The counts as metrics, with the keys that other sources use."""
        counts = asdict(self)
        del counts["warnings"]
        return {"by_site": {SITE: self.products}, **counts}


def write_products(
    output: Path, *, table: Path, images: Path, separator: str | None, columns: Columns, urls: bool = False
) -> ProductCounts:
    """Write products.parquet from a table, or from the folders of ``images`` if that is the table.

    Rows with the same value in the product column are one product: its images are in the table's order, and each other
    field comes from the first row that has it. A product whose rows have different categories has the fault
    ``label_conflict``.

    Args:
        output: written atomically, sorted by product_id.
        table: CSV, JSONL or Parquet file; or the folder ``images`` itself.
        images: folder of images; it is listed only if it is the table.
        separator: between the levels of a path in a single category column; None: the column holds one level.
        columns: columns of the table. Without a category column the products have no labels.
        urls: whether the image column holds URLs; ``images`` is not used then.

    Raises:
        MissingError: the table does not exist.
        InputError: the table cannot be read, or no row is usable.
    """
    left_out: Counter[str] = Counter()
    read, discarded = _read(table, images, separator, columns, left_out, urls=urls)
    tally = _ProductTally()
    products = write_rows(output, tally.usable(table, _products(read, labelled=bool(columns.category))), PRODUCTS)
    conflicts = _images_with_two_categories(read)
    warnings = tally.warnings()
    warnings += [
        f"column {column!r}: {count} fields were discarded; the first: {discarded.first[column]}"
        for column, count in discarded.fields.items()
    ]
    if conflicts:
        told = ", ".join(map(printable, conflicts[:MAX_TOLD]))
        warnings.append(
            f"{len(conflicts)} images have two categories, such as {told}: the stage split uses none of them"
        )
    if left_out:
        warnings.append(f"{images}: {describe_skipped(left_out)}")
    return ProductCounts(
        products=products,
        rows=read.num_rows,
        dropped=dict(sorted(tally.faults.items())),
        discarded_fields=dict(sorted(discarded.fields.items())),
        without_title=tally.without_title,
        images_with_two_categories=len(conflicts),
        left_out_files=dict(sorted(left_out.items())),
        warnings=warnings,
    )


def check_table(table: Path, *, images: Path, separator: str | None, columns: Columns, urls: bool = False) -> None:
    """Check the table like `write_products`, without writing.

    Raises:
        MissingError: as in `write_products`.
        InputError: as in `write_products`.
    """
    read, _ = _read(table, images, separator, columns, Counter(), urls=urls)
    for _ in _ProductTally().usable(table, _products(read, labelled=bool(columns.category))):
        pass


def _read(
    table: Path, images: Path, separator: str | None, columns: Columns, left_out: Counter[str], *, urls: bool
) -> tuple[pa.Table, DiscardedFields]:
    discarded = DiscardedFields()
    if not table.is_dir():
        entries = entries_of_table(table, columns, separator, discarded, urls=urls)
    elif urls:
        raise InputError(f"{table}: expected a table of URLs, got a folder. For local images set crawl.source to files")
    elif images.is_dir() and table.samefile(images):
        entries = entries_of_folder(images, left_out)
    else:
        raise InputError(
            f"{table}: expected a table (CSV, JSONL, Parquet), got a folder. If folders are the categories, "
            "crawl.files.table and crawl.files.images must name the same folder"
        )
    read = _as_table(entries)
    discarded.check(table)
    return read, discarded


class _ProductTally:
    """Counts products by fault while they are written."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.without_title = 0
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def usable(self, table: Path, products: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
        """Yield all ``products``, given as pairs of place and row, and count them.

        Raises:
            InputError: after the last product, if none is usable.
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
        """A message about unusable products, if there are any."""
        return [f"{self.faults.total()} products are unusable: {self._told()}"] if self.faults else []

    def _told(self) -> str:
        return "; ".join(
            f"{fault} {count} ({', '.join(map(printable, self._examples[fault]))}{', ...' if count > MAX_TOLD else ''})"
            for fault, count in self.faults.most_common()
        )


def _as_table(entries: Iterator[ProductEntry]) -> pa.Table:
    """The entries with the additional column ``product_id``, sorted by it and then in input order."""
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
    """``files:<name>``; the names of rows that are products of their own are made unique."""
    shared = dict.fromkeys(name for name, alone in zip(names, own, strict=True) if not alone)
    alone = [name for name, alone in zip(names, own, strict=True) if alone]
    unique = iter(number_repeats([*shared, *alone])[len(shared) :])
    return [f"{SITE}:{next(unique) if alone else name}" for name, alone in zip(names, own, strict=True)]


def _products(table: pa.Table, *, labelled: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = (row for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE) for row in batch.to_pylist())
    for product_id, group in groupby(rows, key=lambda row: row["product_id"]):
        members = list(group)
        categories = list(dict.fromkeys(tuple(row["category"]) for row in members if row["category"]))
        fault = next((row["fault"] for row in members if row["fault"]), None)
        if fault is None and labelled and len(categories) != 1:
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
                "taxonomy": list(categories[0]) if categories and not fault else [],
                "details": [(FAULT, fault)] if fault else [],
                "image_urls": [row["image"] for row in members],
                "split_hint": max((row["split"] for row in members), key=_split_priority),
            },
        )


def _split_priority(split: str | None) -> int:
    """Sort key: of the splits in one product's rows the highest wins; an unknown name is the highest."""
    known = (None, *SPLITS)
    return known.index(split) if split in known else len(known)


def _images_with_two_categories(table: pa.Table) -> list[str]:
    named = table.filter(pc.and_(pc.is_valid(table["label"]), pc.not_equal(table["image"], path_reference(""))))
    counts = named.group_by("image").aggregate([("label", "count_distinct")])
    found = counts.filter(pc.greater(counts["label_count_distinct"], 1))["image"].to_pylist()
    return sorted(map(shown, found))
