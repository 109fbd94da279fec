"""How a product names a local image: ``file:`` and a path in the folder, or ``row:`` and a row of the table.

They stand where other sources have URLs (``image_urls`` of `records.PRODUCTS`, ``image_url`` of `records.REFS`).
"""

from pathlib import PurePosixPath

FILE, ROW = "file:", "row:"
FAULT = "fault"  # in the details of a product that cannot be used: why; the status of its images


def of_path(path: str) -> str:
    """The image in the file ``path``; spellings of one path (``./a.jpg``, ``a//b.jpg``) give one name."""
    return FILE + (str(PurePosixPath(path)) if path else "")


def of_row(number: int) -> str:
    """The image in row ``number`` (from 1) of the table; names sort as their rows do."""
    return f"{ROW}{number:012d}"


def path_in(reference: str) -> str | None:
    """What `of_path` was given, if it is one of those."""
    return reference.removeprefix(FILE) if reference.startswith(FILE) else None


def row_in(reference: str) -> int | None:
    """What `of_row` was given, if it is one of those."""
    return int(reference.removeprefix(ROW)) if reference.startswith(ROW) else None
