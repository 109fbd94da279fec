"""References to local images: ``file:`` with a path in the folder, or ``row:`` with a row number of the table.

They are used where other sources have URLs: ``image_urls`` of products.parquet and ``image_url`` of refs.parquet. In a
table of URLs an empty field has the reference `NO_IMAGE`; other fields are there as they are.
"""

from pathlib import PurePosixPath

FILE, ROW = "file:", "row:"
NO_IMAGE = FILE  # of an empty field
FAULT = "fault"  # key in the details of an unusable product; its value is the status of the product's images


def path_reference(path: str) -> str:
    """The reference of the file ``path``, normalised (``./a.jpg`` and ``a.jpg`` are the same)."""
    return FILE + (str(PurePosixPath(path)) if path else "")


def row_reference(number: int) -> str:
    """The reference of the image in row ``number`` (from 1); references sort like row numbers."""
    return f"{ROW}{number:012d}"


def path_of(reference: str) -> str | None:
    """The path in a ``file:`` reference; None for another reference."""
    return reference.removeprefix(FILE) if reference.startswith(FILE) else None


def row_of(reference: str) -> int | None:
    """The row number in a ``row:`` reference; None for another reference."""
    return int(reference.removeprefix(ROW)) if reference.startswith(ROW) else None


def shown(reference: str) -> str:
    """A reference for messages: the path, the row number, or the URL."""
    for prefix in (FILE, ROW):
        if reference.startswith(prefix):
            return reference.removeprefix(prefix)
    return reference
