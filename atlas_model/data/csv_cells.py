"""Text in the cells of CSV files that people open in a spreadsheet.

A spreadsheet runs a cell that begins with one of `FORMULA` as a formula, which may start programs and send data
(https://owasp.org/www-community/attacks/CSV_Injection). Titles and categories come from strangers. Such a cell gets an
apostrophe in front, with which spreadsheets take it for text. `from_cell` removes it. The Parquet and JSON files beside
have the text itself.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# With the signs of full width, which spreadsheets of some languages take as well.
FORMULA = "=+\\-@\t\r\n\0\uff1d\uff0b\uff0d\uff20"
_GUARDED = re.compile(f"[' ]*[{FORMULA}]")


def for_cell(text: str) -> str:
    """``text`` for a cell: with an apostrophe in front if a spreadsheet could take it for a formula."""
    return f"'{text}" if _GUARDED.match(text) else text


def from_cell(text: str) -> str:
    """The text of which `for_cell` made ``text``."""
    return text[1:] if text.startswith("'") and _GUARDED.match(text) else text


def with_guarded_cells(table: "pa.Table") -> "pa.Table":
    """``table`` with its texts as `for_cell` writes them, for a table that Arrow writes as CSV."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = pc.replace_substring_regex(table[field.name], rf"\A([' ]*[{FORMULA}])", r"'\1")
            table = table.set_column(place, field, column)
    return table
