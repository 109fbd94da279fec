"""Reads sources.csv, which maps category pages of shops to category paths.

The file has a column ``Taxonomy`` (case-insensitive; cells such as ``A->B->C``) and one column per shop. The cells of a
shop's column hold URLs of category pages, separated by white space, or are empty. The column may have any name, because
the host of a URL identifies the shop.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from atlas_model.core.errors import TaxonomyError
from atlas_model.taxonomy.files import split_path
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath
from crawlers.http.urls import request_url

COLUMN = "taxonomy"


@dataclass(frozen=True)
class Source:
    """A category page, and the label of the products that it lists."""

    site: str  # host
    taxonomy: CategoryPath
    url: str


def read_sources(path: Path) -> list[Source]:
    """Read the sources at ``path``, in the file's order, without duplicates.

    Raises:
        TaxonomyError: the file is unreadable, not UTF-8, lacks the column or any URL, or has invalid cells; the text
            lists all errors with their lines.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaxonomyError(f"{path}: expected UTF-8, got something else at byte {error.start}") from error
    except OSError as error:
        raise TaxonomyError(f"{path}: cannot be read: {error.strerror}") from error
    faults: list[str] = []
    line_of: dict[Source, int] = {}
    try:
        for number, source in _read_rows(text, faults):
            line_of.setdefault(source, number)
    except csv.Error as error:
        faults.append(f"it is not CSV: {error}")
    faults += _doubly_labelled(line_of)
    if not line_of and not faults:
        faults.append("expected at least one category URL, got none")
    if faults:
        raise TaxonomyError.from_faults(str(path), faults)
    return list(line_of)


def _read_rows(text: str, faults: list[str]) -> Iterator[tuple[int, Source]]:
    rows = csv.reader(io.StringIO(text, newline=""))
    header = [cell.strip() for cell in next(rows, [])]
    columns = [index for index, name in enumerate(header) if name.lower() == COLUMN]
    if len(columns) != 1:
        found = ", ".join(map(repr, header)) or "nothing"
        faults.append(f"line 1: expected one column Taxonomy and a column per shop, got {found}")
        return
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        number = rows.line_num
        if len(row) > len(header):
            faults.append(f"line {number}: expected {len(header)} cells as in line 1, got {len(row)}")
        label = row.pop(columns[0]) if columns[0] < len(row) else ""
        taxonomy = split_path(label)
        if not all(taxonomy):
            faults.append(f"line {number}: a level is empty in Taxonomy {label!r}")
        for url in " ".join(row).split():
            fault, site = _examine(url)
            if fault:
                faults.append(f"line {number}: {fault}")
            else:
                yield number, Source(site, taxonomy, url.partition("#")[0])


def _examine(url: str) -> tuple[str | None, str]:
    """The error in ``url`` (None if it is valid), and its host."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # validated only when it is read
    except ValueError as error:
        return f"{url!r} is not a valid URL: {error}", ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"expected http://... or https://..., got {url!r}", ""
    if parts.username or parts.password:
        return f"the URL of {parts.hostname} has a user name or password, which would be written to the data", ""
    try:
        request_url(url)
    except ValueError as error:
        return f"{url!r} is not a valid URL: {error}", ""
    return None, parts.hostname


def _doubly_labelled(line_of: dict[Source, int]) -> Iterator[str]:
    first: dict[str, Source] = {}
    for source, number in line_of.items():
        other = first.setdefault(source.url, source)
        if other.taxonomy != source.taxonomy:
            label = SEPARATOR.join(other.taxonomy)
            yield f"line {number}: {source.url} is labelled {label!r} on line {line_of[other]} already"
