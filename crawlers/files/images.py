"""Reads the products' images from a folder or a table into a spool, and records the status of each.

A file whose inode, modification time and size are unchanged since the last run is not read again (DVC uses the same
test). An interrupted run resumes.
"""

import hashlib
import os
import stat
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas_model.core.errors import ImageError, InputError
from atlas_model.core.machine import check_machine
from atlas_model.core.progress import Progress, say
from atlas_model.core.threads import ThreadPool
from atlas_model.data.schemas import PRODUCTS, REFS, iterate_shards, write_rows
from crawlers.fetch.check import check
from crawlers.fetch.client.outcome import FetchOutcome, ImageRequest
from crawlers.fetch.images import FetchReport
from crawlers.fetch.index import Plan, UrlStatus
from crawlers.fetch.spool import Spool
from crawlers.files.folder import Folder, RefusedError
from crawlers.files.references import FAULT, path_of, row_of
from crawlers.files.table import printable, read_images

READERS = 2  # threads
AT_ONCE = 32  # images; embedded ones are in memory together
PRODUCTS_AT_ONCE = 4_096
MAX_TOLD = 3  # examples of each status in a message
COLUMNS = pa.schema([PRODUCTS.field(name) for name in ("product_id", "details", "image_urls")])


def read_all(
    products: Path,
    spool: Spool,
    *,
    table: Path,
    images: Path,
    column: str,
    max_bytes: int,
    max_pixels: int,
    max_failed_share: float | None,
) -> FetchReport:
    """Read the images of ``products`` into ``spool``.

    Args:
        products: table that `products.write_products` wrote.
        spool: spool of earlier runs, or an empty one.
        table: table that ``row:`` references refer to.
        images: folder that ``file:`` references refer to.
        column: column of the table with embedded images.
        max_bytes: a larger image gets the status ``too_large`` and is not read.
        max_pixels: an image with more pixels in its header gets the status ``too_many_pixels``.
        max_failed_share: largest accepted share of unusable images among all images of all products. A larger share is
            an error, and so is a run without any usable image. None: no check.

    Returns:
        The counts. In ``statuses`` and ``urls`` an image counts once for each product that has it.

    Raises:
        MissingError: the folder or the table does not exist.
        InputError: too many images are unusable; the text counts the reasons with examples.
    """
    started = time.monotonic()
    plan = Plan(str(time.time_ns()), "validate", max_bytes, max_pixels)  # a new snapshot name: all files are checked
    wanted, _ = spool.begin(_references(products), plan)
    unchanged = _fill(
        spool, wanted, Folder(images), _TableImages(table, column), max_bytes=max_bytes, max_pixels=max_pixels
    )
    statuses, told = count(products, spool)
    if max_failed_share is not None:
        _check_enough(table, statuses, told, max_failed_share)
    n_images, size = spool.totals()
    seconds = time.monotonic() - started
    return FetchReport(
        urls=statuses.total(),
        spooled=0,
        unchanged=unchanged,
        images=n_images,
        statuses=dict(sorted(statuses.items())),
        bytes=size,
        retries=0,
        seconds=round(seconds, 3),
        images_per_s=round(wanted / seconds, 1) if wanted else None,
    )


def write_refs(path: Path, products: Path, spool: Spool) -> None:
    """Write the status of each image of each product (refs.parquet), sorted by (product_id, position)."""
    rows = (
        {"product_id": product_id, "image_url": name, "position": position, **found._asdict()}
        for product_id, name, position, found in outcomes(products, spool)
    )
    write_rows(path, rows, REFS)


def _fill(spool: Spool, total: int, folder: Folder, rows: "_TableImages", *, max_bytes: int, max_pixels: int) -> int:
    """Read the images that the spool lacks; returns how many are unchanged."""
    unchanged = 0
    wanted = spool.wanted()
    take = partial(_take, spool=spool, max_pixels=max_pixels)
    try:
        with ThreadPool(READERS, "read") as readers, Progress("fetch", total, "images") as progress:
            while some := list(islice(wanted, AT_ONCE)):
                sources = [_source(one, folder, rows, max_bytes) for one in some]
                for one, outcome in zip(some, readers.map(take, sources), strict=True):
                    spool.keep(one, outcome)
                    unchanged += outcome.unchanged
                    progress.advance(1, unchanged=unchanged)
    finally:
        spool.flush()
        spool.write_status()
    return unchanged


Read = tuple[bytes | None, FetchOutcome]
"""An image's bytes with the outcome if they are a valid image; or None with the final outcome."""


def _source(wanted: ImageRequest, folder: Folder, rows: "_TableImages", max_bytes: int) -> Callable[[], Read]:
    """A function that reads the image."""
    number = row_of(wanted.url)
    if number is None:
        return partial(_from_file, path_of(wanted.url) or "", folder, wanted, max_bytes)
    value = rows.get(number)
    if isinstance(value, dict):  # Hugging Face: the image, else its path
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str):
        return partial(_from_file, value, folder, wanted, max_bytes)
    return partial(_from_row, value, wanted, max_bytes)


def _from_file(name: str, folder: Folder, wanted: ImageRequest, max_bytes: int) -> Read:
    try:
        with os.fdopen(folder.open(name), "rb") as file:
            state = os.fstat(file.fileno())
            etag = f"{state.st_ino}-{state.st_mtime_ns}-{state.st_size}"
            if not stat.S_ISREG(state.st_mode):  # replaced since `Folder.open` checked it
                raise RefusedError("not_a_file")
            if wanted.image_id is not None and wanted.etag == etag:
                return None, FetchOutcome("ok", True, None, wanted.image_id, etag=etag, unchanged=True)
            data = file.read(max_bytes + 1) if state.st_size <= max_bytes else b""
            if state.st_size > max_bytes or len(data) > max_bytes:  # the file may be growing
                raise RefusedError("too_large")
            return data, FetchOutcome("ok", True, etag=etag)
    except RefusedError as refused:
        return None, FetchOutcome(refused.status, permanent=True)
    except OSError as error:
        check_machine(error)
        return None, FetchOutcome("unreadable", permanent=True)


def _from_row(value: bytes | None, wanted: ImageRequest, max_bytes: int) -> Read:
    if value is None:
        return None, FetchOutcome("no_image", permanent=True)
    if len(value) > max_bytes:
        return None, FetchOutcome("too_large", permanent=True)
    if wanted.image_id is not None and hashlib.sha256(value).hexdigest() == wanted.image_id:
        return None, FetchOutcome("ok", True, None, wanted.image_id, unchanged=True)
    return value, FetchOutcome("ok", permanent=True)


def _take(source: Callable[[], Read], spool: Spool, max_pixels: int) -> FetchOutcome:
    """Read an image, check it, and store its bytes; runs in a worker thread."""
    data, outcome = source()
    if data is None:
        return outcome
    try:
        info = check(data, max_pixels)
    except ImageError as error:
        return FetchOutcome(error.status, permanent=True)
    image_id = hashlib.sha256(data).hexdigest()
    spool.store(image_id, data, info)
    return outcome._replace(image_id=image_id)


class _TableImages:
    """The embedded images of a table, read in its order."""

    def __init__(self, table: Path, column: str) -> None:
        self._table, self._column = table, column
        self._values: Iterator[Any] | None = None
        self._number = 0

    def get(self, number: int) -> Any:
        """The image in row ``number``, which must be greater than in the last call; None after the last row."""
        if self._values is None:
            self._values = read_images(self._table, self._column)
        value = None
        while self._number < number:
            value = next(self._values, None)
            self._number += 1
        return value


def _references(products: Path) -> Iterator[str]:
    """The image references of usable products, which may repeat."""
    for batch in iterate_shards(products, COLUMNS, "crawl", PRODUCTS_AT_ONCE):
        for details, names in zip(batch["details"].to_pylist(), batch["image_urls"].to_pylist(), strict=True):
            if FAULT not in dict(details):
                yield from names


def outcomes(products: Path, spool: Spool) -> Iterator[tuple[str, str, int, UrlStatus]]:
    """For each image of each product: product id, reference, position, status. Call when all images are read."""
    for batch in iterate_shards(products, COLUMNS, "crawl", PRODUCTS_AT_ONCE):
        for product_id, details, names in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            fault = dict(details).get(FAULT)
            for position, name in enumerate(names):
                yield product_id, name, position, UrlStatus(fault, None, None) if fault else spool.lookup(name)


def count(products: Path, spool: Spool) -> tuple[Counter[str], dict[str, list[str]]]:
    """Count the products' images by status, and collect example names of each status."""
    statuses: Counter[str] = Counter()
    told: defaultdict[str, list[str]] = defaultdict(list)
    for product_id, name, _, found in outcomes(products, spool):
        statuses[found.status] += 1
        if len(told[found.status]) < MAX_TOLD:
            told[found.status].append(printable(name.partition(":")[2] or product_id))
    return statuses, told


def _check_enough(table: Path, statuses: Counter[str], told: dict[str, list[str]], max_failed_share: float) -> None:
    reasons = [
        f"{status} {count}: {', '.join(told[status])}{', ...' if count > MAX_TOLD else ''}"
        for status, count in statuses.most_common()
        if status != "ok"
    ]
    failed = statuses.total() - statuses["ok"]
    if statuses["ok"] and failed <= max_failed_share * statuses.total():
        if reasons:
            say(f"warning: {failed} of {statuses.total()} images are unusable:\n  - " + "\n  - ".join(reasons))
        return
    allowed = f"fetch.max_failed_share, {max_failed_share:g}, allows fewer" if statuses["ok"] else "none is left"
    raise InputError(
        f"{table}: {failed} of {statuses.total()} images are unusable, and {allowed}. Correct the table or the folder "
        "(docs/files.md explains each reason), or raise that share\n  - " + "\n  - ".join(reasons)
    )
