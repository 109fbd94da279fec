"""Work in progress of downloads: an append-only folder of shards, so that a killed run continues where it was.

One row per URL with a lasting outcome, whatever it is; a passing one (a time-out, a 503) is not kept and is asked
again by the next run. A shard is an uncompressed Arrow file of bounded size, written whole, read by memory map. A
kill loses what is not yet flushed: at most FLUSH_ROWS, FLUSH_BYTES or FLUSH_S worth of it.

A spool believes what it has: the bytes behind a URL are not checked again. So each crawl snapshot, and each
manifest, has a spool of its own. Knows nothing of HTTP or of the outputs.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from atlas_model.files import replacing
from atlas_model.progress import say
from atlas_model.records import IMAGES
from crawlers.fetch.client import Outcome

FLUSH_ROWS = 256
FLUSH_BYTES = 32_000_000
FLUSH_S = 2.0

SHARD = "{:06d}.arrow"
SCHEMA = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("limit", pa.int64()),  # where status is too_large or too_many_pixels: than this
        pa.field("size", pa.int64(), nullable=False),  # bytes
        *(field.with_nullable(True) for field in IMAGES),  # null unless status is ok
    ]
)
INDEX_COLUMNS = ["url", "status", "limit", "size", "image_id", "width", "height"]


class Place(NamedTuple):
    """Where a row is: the shard's number and the row's in it."""

    shard: int
    row: int


class Entry(NamedTuple):
    """A row without its bytes."""

    status: str
    limit: int | None
    size: int  # bytes
    image_id: str | None
    width: int | None
    height: int | None
    place: Place


class Spool:
    """The spool in ``folder``, which is made if needed; one process writes to it at a time.

    Args:
        folder: for nothing else.
        max_bytes: the limits of this run: an entry that came about under others, and would be another under
            these, counts as not there.
        max_pixels: likewise.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_pixels: int) -> None:
        self._folder, self._max_bytes, self._max_pixels = folder, max_bytes, max_pixels
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a killed run
            leftover.unlink()
        shards = sorted(folder.glob("*.arrow"))
        self._next = int(shards[-1].stem) + 1 if shards else 0
        self.entries: dict[str, Entry] = {}
        for shard in shards:
            self.entries.update(self._read_index(shard))

    async def add(self, url: str, outcome: Outcome) -> None:
        """Keep a lasting ``outcome``; returns when a shard that it filled is on disk."""
        limits = {"too_large": self._max_bytes, "too_many_pixels": self._max_pixels}
        row = {"url": url, "status": outcome.status, "limit": limits.get(outcome.status), "size": len(outcome.data)}
        if outcome.info is not None:
            row |= {"image_id": outcome.image_id, "bytes": outcome.data, **asdict(outcome.info)}
        self._rows.append(row)
        self._bytes += len(outcome.data)
        if len(self._rows) >= FLUSH_ROWS or self._bytes >= FLUSH_BYTES:
            await asyncio.to_thread(self._write, *self._take())

    async def flush_regularly(self) -> None:
        """Flush every FLUSH_S seconds, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.to_thread(self._write, *self._take())

    def flush(self) -> None:
        """Write what is not yet on disk."""
        self._write(*self._take())

    def gather(self, places: Iterable[Place]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """The pictures at ``places`` as rows of `records.IMAGES`; in the shards' order, each mapped once."""
        for shard, group in groupby(sorted(places), key=lambda place: place.shard):
            with pa.memory_map(str(self._folder / SHARD.format(shard))) as source:
                table = pa.ipc.open_file(source).read_all().select(IMAGES.names)
                for place in group:
                    yield place, table.slice(place.row, 1).to_pylist()[0]

    def _take(self) -> tuple[int, list[dict[str, Any]]]:
        rows, self._rows, self._bytes = self._rows, [], 0
        number = self._next
        self._next += bool(rows)
        return number, rows

    def _write(self, number: int, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        with replacing(self._folder / SHARD.format(number)) as temporary, pa.ipc.new_file(temporary, SCHEMA) as sink:
            sink.write_table(table)
        self.entries.update(_index(table, number))

    def _read_index(self, shard: Path) -> dict[str, Entry]:
        try:
            with pa.memory_map(str(shard)) as source:
                entries = _index(pa.ipc.open_file(source).read_all(), int(shard.stem))
        except (pa.ArrowInvalid, KeyError) as error:
            say(f"{shard}: damaged, its pictures are fetched again ({error})")
            return {}
        return {url: entry for url, entry in entries.items() if self._holds(entry)}

    def _holds(self, entry: Entry) -> bool:
        if entry.status == "ok":
            pixels = (entry.width or 0) * (entry.height or 0)
            return entry.size <= self._max_bytes and pixels <= self._max_pixels
        return entry.limit in (None, self._max_bytes if entry.status == "too_large" else self._max_pixels)


def _index(table: pa.Table, shard: int) -> dict[str, Entry]:
    columns = table.select(INDEX_COLUMNS).to_pydict()
    urls = columns.pop("url")
    places = [Place(shard, row) for row in range(len(urls))]
    return dict(zip(urls, map(Entry._make, zip(*columns.values(), places, strict=True)), strict=True))
