"""Comparison of two snapshots: products added, removed, and changed in price, title, images, availability, ..."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas_model.core.errors import InputError
from atlas_model.core.files import replacing
from atlas_model.data.csv_cells import for_cell
from atlas_model.data.schemas import CHECKSUMS, COMPRESSION

if TYPE_CHECKING:
    import pandas as pd  # imported inside functions, because it takes tenths of a second

PLAIN = ("availability", "brand", "gtin", "mpn")  # columns whose values are compared directly
KINDS = ("added", "removed", "price", "title", "images", *PLAIN)  # kinds of changes that are counted
COLUMNS = (  # columns of products.parquet that are used
    "product_id", "site", "title", "price", "currency", "image_urls", *PLAIN
)  # fmt: skip
SCHEMA = pa.schema(
    [
        pa.field("site", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("change", pa.string(), nullable=False),  # added, removed, changed
        pa.field("field", pa.string(), nullable=False),  # title, price, images, ...; title if added or removed
        pa.field("old", pa.string()),  # a price with its currency; image URLs, one per line
        pa.field("new", pa.string()),
    ]
)
BLOCK = 10_000  # products that are compared at a time, which bounds the additional memory


def changes(old: pa.Table, new: pa.Table) -> Iterator["pd.DataFrame"]:
    """The changes from ``old`` to ``new`` (tables with `COLUMNS`), sorted by product, as blocks with `SCHEMA`.

    A column that is empty in one of the tables was not read by that crawl, and is not compared.
    """
    plain = [name for name in PLAIN if all(table[name].null_count < table.num_rows for table in (old, new))]
    tables = [table.select(COLUMNS).sort_by("product_id") for table in (old, new)]
    firsts = {table["product_id"][row].as_py() for table in tables for row in range(0, table.num_rows, BLOCK)}
    for first, end in pairwise([*sorted(firsts), None]):
        before, after = (_between(table, first, end) for table in tables)
        yield _compared(before, after, ("title", "price", "images", *plain))


def write_changes(path: Path, found: Iterable["pd.DataFrame"]) -> "pd.DataFrame":
    """Write ``found`` to ``path`` (.csv or .parquet), atomically.

    In CSV, a text that a spreadsheet would interpret as a formula is prefixed with an apostrophe.

    Returns:
        The number of changed products, by site (rows) and by each of `KINDS` (columns).

    Raises:
        InputError: the path ends neither in .csv nor in .parquet.
    """
    import pandas as pd

    if path.suffix not in {".csv", ".parquet"}:
        raise InputError(f"{path}: expected a name that ends in .csv or .parquet")
    counts = pd.DataFrame(columns=list(KINDS), dtype=int)
    with replacing(path) as temporary:
        write = _write_csv if path.suffix == ".csv" else _write_parquet
        for block in write(temporary, found):
            kinds = block["field"].where(block["change"] == "changed", block["change"])
            counts = counts.add(pd.crosstab(block["site"], kinds), fill_value=0)
    return counts.reindex(columns=list(KINDS)).fillna(0).astype(int)


def as_table(counts: "pd.DataFrame") -> list[str]:
    """``counts`` as lines of an aligned table: one per site, and one for all."""
    import pandas as pd

    every = pd.concat([counts, counts.sum().to_frame("all").T]).reset_index(names="site")
    lines = [every.columns.tolist(), *every.astype(str).to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _between(table: pa.Table, first: str, end: str | None) -> pa.Table:
    """The products with ids from ``first`` to before ``end`` (None: to the last one)."""
    ids = table["product_id"]
    rows = [
        table.num_rows if edge is None else bisect_left(range(table.num_rows), edge, key=lambda row: ids[row].as_py())
        for edge in (first, end)
    ]
    return table.slice(rows[0], rows[1] - rows[0])


def _compared(before: pa.Table, after: pa.Table, fields: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    both = _texts(before).merge(_texts(after), how="outer", on="product_id", suffixes=("_old", "_new"), indicator=True)
    change = both["_merge"].astype(str).map({"left_only": "removed", "right_only": "added", "both": "changed"})
    site = both["site_new"].fillna(both["site_old"])
    found = []
    for field in fields:
        old, new = both[f"{field}_old"], both[f"{field}_new"]
        is_changed = (old != new) & (old.notna() | new.notna()) & ((change == "changed") | (field == "title"))
        columns = {
            "site": site,
            "product_id": both["product_id"],
            "change": change,
            "field": field,
            "old": old,
            "new": new,
        }
        found.append(pd.DataFrame(columns)[is_changed])
    return pd.concat(found).sort_index(kind="stable")


def _texts(table: pa.Table) -> "pd.DataFrame":
    """The compared values of each product, as texts for the report."""
    price = pc.binary_join_element_wise(pc.cast(table["price"], pa.string()), pc.fill_null(table["currency"], ""), " ")
    texts: pd.DataFrame = table.drop_columns(["currency", "image_urls"]).to_pandas(ignore_metadata=True)
    return texts.assign(
        price=pc.utf8_trim_whitespace(price).to_pandas(), images=pc.binary_join(table["image_urls"], "\n").to_pandas()
    )


def _write_csv(path: Path, found: Iterable["pd.DataFrame"]) -> Iterator["pd.DataFrame"]:
    """Write each of ``found``, and yield it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(",".join(SCHEMA.names) + "\r\n")
        for block in found:
            block.map(for_cell, na_action="ignore").to_csv(file, index=False, header=False, lineterminator="\r\n")
            yield block


def _write_parquet(path: Path, found: Iterable["pd.DataFrame"]) -> Iterator["pd.DataFrame"]:
    """Write each of ``found``, and yield it."""
    with pq.ParquetWriter(path, SCHEMA, compression=COMPRESSION, **CHECKSUMS) as writer:
        for block in found:
            writer.write_table(pa.Table.from_pandas(block, SCHEMA, preserve_index=False))
            yield block
