"""Persistent store of download results: an index, and the bytes of each distinct image once.

Bytes are written and synced before their index rows, so a kill or a power failure loses only results since the last
flush (at most FLUSH_ROWS rows or FLUSH_S seconds). For each blob file, ``<number>.json`` counts the statuses of the
URLs that were requested while it was the current file.
"""

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from atlas_model.core.errors import AtlasError, RetryError
from atlas_model.core.files import make_folder, write_json
from atlas_model.core.progress import say
from atlas_model.core.row_checksums import DAMAGED
from atlas_model.data.images import ImageInfo
from crawlers.fetch.blobs import DISK_FAULTS, Blobs
from crawlers.fetch.client.outcome import FetchOutcome, ImageRequest
from crawlers.fetch.index import Index, Plan, StoredImage, UrlStatus

FLUSH_ROWS = 256
FLUSH_S = 2.0

INDEX = "index.sqlite"


class Spool:
    """The spool in ``folder``, created if missing, for one process at a time. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()  # worker threads store images
        self._new: dict[str, StoredImage] = {}  # bytes are written, the index row is not; likewise the next
        self._outcomes: list[tuple[ImageRequest, FetchOutcome]] = []

    def __enter__(self) -> Self:
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            remedy = "Free some space, or make the folder writable; or remove it to fetch everything again"
            raise AtlasError(f"{self.folder}: the spool cannot be opened: {error}. {remedy}") from error
        return self

    def _open(self) -> None:
        make_folder(self.folder)
        self._index = self._open_index()
        if self._index.damaged:
            say(f"{self.folder}: {self._index.damaged} rows of the index are damaged; their URLs are requested again")
        self._blobs = Blobs(self.folder, self._index.ends_of_files())
        self._file = self._blobs.current
        sizes = self._blobs.sizes()
        for file, end in self._index.ends_of_files().items():
            if end > sizes.get(file, 0):
                lost = self._index.delete_images_beyond(file, sizes.get(file, 0))
                say(f"{self.folder}: file {file} is damaged; {lost} images are fetched again")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blobs.close()
        self._index.close()
        fault = _disk_error(error)
        if fault is not None:
            remedy = "The results so far are kept. Free some space, or make the folder writable, and run again"
            raise AtlasError(f"{self.folder}: cannot be written: {fault}. {remedy}") from error

    def begin(self, urls: Iterable[str], plan: Plan) -> tuple[int, int]:
        """Start a run for ``urls`` (they may repeat); returns their number, and how many must be requested."""
        return self._index.want(urls), self._index.enqueue(plan)

    def resume(self, plan: Plan) -> int:
        """Like `begin`, for the URLs that were exported to this spool; returns how many must be requested."""
        return self._index.enqueue(plan)

    # Queue and results: see `Index`.

    def hosts(self) -> Iterator[str]:
        """The hosts in the queue."""
        return self._index.hosts()

    def pending(self, host: str) -> Iterator[ImageRequest]:
        """The requests in the queue of ``host``, shuffled."""
        return self._index.pending(host)

    def wanted(self) -> Iterator[ImageRequest]:
        """Requests for all URLs of this run, sorted by URL, whether queued or not."""
        return self._index.wanted()

    def queue_sizes(self) -> dict[str, int]:
        """Host -> number of its URLs in the queue."""
        return self._index.queue_sizes()

    def statuses(self) -> dict[str, int]:
        """Status -> number of this run's URLs."""
        return self._index.statuses()

    def transient_failures(self) -> int:
        """Number of this run's URLs with a transient failure."""
        return self._index.transient_failures()

    def totals(self) -> tuple[int, int]:
        """Number of distinct images of this run's URLs, and the total bytes of all URLs with an image."""
        return self._index.totals()

    def export_queue(self, folder: Path, hosts: Sequence[str]) -> None:
        """Create a spool in ``folder`` with the queue of ``hosts``."""
        make_folder(folder)
        self._index.export_queue(folder / INDEX, hosts)

    def merge(self, part: "Spool") -> None:
        """Copy the results of an exported spool."""
        self.restore((one.image_id, part._blobs.read(one.place), one.info) for one in part._index.own_images())
        self._index.merge(part._index, self._file)
        self.flush()
        self.write_status()

    def store(self, image_id: str, data: bytes, info: ImageInfo) -> None:
        """Store an image's bytes unless they are stored already; thread-safe."""
        with self._lock:
            if image_id not in self._new and not self._index.has_image(image_id):
                self._new[image_id] = StoredImage(image_id, self._blobs.append(data), info)

    def keep(self, request: ImageRequest, outcome: FetchOutcome) -> None:
        """Record the outcome of a URL, whose image is stored."""
        self._outcomes.append((request, outcome))
        if len(self._outcomes) >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write pending images and outcomes to the index."""
        with self._lock:
            if self._outcomes or self._new:
                self._blobs.sync()
                self._index.record(self._new.values(), self._outcomes, self._file)
                self._new, self._outcomes = {}, []
            while self._file < self._blobs.current:
                self.write_status()
                self._file += 1

    def write_status(self) -> None:
        """Write the counts of the current file."""
        statuses = self._index.statuses_of_file(self._file)
        write_json(self.folder / f"{self._file:06d}.json", {"urls": sum(statuses.values()), "statuses": statuses})

    def restore(self, images: Iterable[tuple[str, bytes, ImageInfo]]) -> None:
        """Store images from another source than a download."""
        for image_id, data, info in images:
            self.store(image_id, data, info)
            if len(self._new) >= FLUSH_ROWS:
                self._merge()
        self._merge()

    def settle(self, found: Iterable[tuple[str, UrlStatus]], snapshot: str) -> None:
        """Record images of URLs as results of ``snapshot``; URLs without an image become unsettled."""
        self._index.restore(found, snapshot)

    def lacks(self, image_id: str) -> bool:
        """Whether an image is not stored."""
        return image_id not in self._new and not self._index.has_image(image_id)

    def lookup(self, url: str) -> UrlStatus:
        """The status of a URL of this run."""
        found = self._index.lookup(url)
        assert found is not None  # every URL of the run was requested
        return found

    def images(self) -> Iterator[dict[str, Any]]:
        """Each distinct image of this run, as a row of the table of images, sorted by image_id.

        Raises:
            RetryError: after the last one, if bytes are damaged on disk; their URLs will be requested again.
        """
        damaged = []
        for image in self._index.wanted_images():
            data = self._blobs.read(image.place)
            if hashlib.sha256(data).hexdigest() == image.image_id:
                yield {"image_id": image.image_id, "bytes": data, **vars(image.info)}
            else:
                damaged.append(image.image_id)
        if damaged:
            self._index.delete_images(damaged)
            raise RetryError(
                f"{self.folder}: {len(damaged)} images are damaged on disk, such as {damaged[0]}. "
                "Run again: only those are fetched again"
            )

    def infos(self) -> Iterator[tuple[str, ImageInfo]]:
        """The description of each distinct image of this run, sorted by image_id."""
        return ((image.image_id, image.info) for image in self._index.wanted_images())

    def drop_unwanted(self) -> None:
        """Delete what this run did not use, and compact files of which less than half is used."""
        self._index.delete_unwanted()
        kept = self._index.sizes_of_files()
        for file, size in self._blobs.sizes().items():
            if file == self._blobs.current or kept.get(file, 0) > size / 2:
                continue
            moved = list(self._index.images_of_file(file))
            copies = [image._replace(place=self._blobs.append(self._blobs.read(image.place))) for image in moved]
            self._blobs.sync()
            self._index.add_images(copies)
            self._blobs.remove(file)
            (self.folder / f"{file:06d}.json").unlink(missing_ok=True)

    def _merge(self) -> None:
        self._blobs.sync()
        self._index.add_images(self._new.values())
        self._new = {}

    def _open_index(self) -> Index:
        try:
            return Index(self.folder / INDEX)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise RetryError(
                f"{self.folder}: another process is fetching into it, or `atlas verify` is reading it; run again when "
                "it has ended"
            ) from error
        except DAMAGED as error:
            say(f"{self.folder}: the index is damaged; everything is fetched again ({error})")
            for path in filter(Path.is_file, self.folder.iterdir()):
                path.unlink()
            return Index(self.folder / INDEX)


def _disk_error(error: BaseException | None) -> BaseException | None:
    """The disk error that ``error`` is or contains (tasks raise exception groups); None for other errors."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_disk_error, error.exceptions)), None)
    of_disk = isinstance(error, sqlite3.Error) or (isinstance(error, OSError) and error.errno in DISK_FAULTS)
    return error if of_disk else None
