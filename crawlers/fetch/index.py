"""Index of a spool in one SQLite file: URLs with their status, and the places of image bytes.

Memory is independent of the number of URLs. Each row has a checksum. Damaged rows are deleted when the index is opened,
and their URLs are requested again.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from atlas_model.core.row_checksums import add_checksums, structural_fault
from atlas_model.data.images import ImageInfo
from crawlers.fetch.blobs import Place
from crawlers.fetch.client.outcome import FORBIDDEN, FetchOutcome, ImageRequest
from crawlers.fetch.tables import CHECKED_TABLES, FROM_VERSION_1, FROM_VERSION_2, STORED, TABLES, VERSION

Reuse = Literal["never", "validate", "always"]
"""What to do with an image of an earlier snapshot: fetch it again, send a conditional request, or reuse it."""

READ_S = 5.0  # how long a fetch waits for `atlas verify`, which reads the index
ROWS_AT_ONCE = 64  # rows that are read at a time from a host's queue

# A URL is not requested if it has a result of this snapshot (or a reusable image of another one) that would be the same
# under the limits of this run.
ENQUEUE = """
INSERT INTO queue SELECT host, random(), id FROM urls LEFT JOIN images USING (image_id)
WHERE wanted AND NOT coalesce(
    settled AND (snapshot = :snapshot OR :reuse = 'always' AND status = 'ok') AND CASE status
        WHEN 'ok' THEN size <= :max_bytes AND width * height <= :max_pixels
        WHEN 'too_large' THEN limit_value >= :max_bytes
        WHEN 'too_many_pixels' THEN limit_value >= :max_pixels
        ELSE TRUE
    END, FALSE)
"""
# Validators are sent only if the stored image exists and is within the limits.
PENDING = """
SELECT turn, id, url,
    iif(usable, image_id, NULL), iif(usable, final_url, NULL), iif(usable, etag, NULL), iif(usable, last_modified, NULL)
FROM (
    SELECT turn, id, url, urls.image_id, final_url, etag, last_modified,
        coalesce(size <= :max_bytes AND width * height <= :max_pixels AND :reuse <> 'never', FALSE) AS usable
    FROM queue JOIN urls USING (id) LEFT JOIN images USING (image_id)
    WHERE queue.host = :host AND (turn, id) > (:turn, :id) ORDER BY turn, id LIMIT :rows
)
"""
SETTLED = """
UPDATE urls SET status = ?, settled = ?, limit_value = ?, snapshot = ?, file = ?,
    image_id = ?, final_url = ?, etag = ?, last_modified = ? WHERE id = ?
"""
FAILED = "UPDATE urls SET status = ?, settled = ?, limit_value = ?, snapshot = ?, file = ? WHERE id = ?"
RESTORE = """
INSERT INTO urls (url, host, wanted, status, settled, image_id, final_url, snapshot) VALUES (?, ?, 1, 'ok', 1, ?, ?, ?)
ON CONFLICT (url) DO UPDATE SET
    etag = iif(image_id = excluded.image_id, etag, NULL),
    last_modified = iif(image_id = excluded.image_id, last_modified, NULL),
    status = 'ok', settled = 1, image_id = excluded.image_id, final_url = excluded.final_url,
    snapshot = excluded.snapshot
"""
# To the index of a part: the queue, and the images that the spool has; file 0 means that their bytes are elsewhere.
EXPORT = """
INSERT INTO part.urls (id, url, host, wanted, status, settled, limit_value, image_id, final_url, etag, last_modified,
    snapshot) SELECT id, url, urls.host, 1, status, settled, limit_value, image_id, final_url, etag,
    last_modified, snapshot FROM queue JOIN urls USING (id) WHERE queue.host = ?;
INSERT OR IGNORE INTO part.images (image_id, file, offset, size, width, height, format, mode, orientation, n_frames)
    SELECT image_id, 0, 0, size, width, height, format, mode, orientation,
    n_frames FROM images WHERE image_id IN (SELECT image_id FROM part.urls WHERE host = ?);
"""
# Like PENDING for all URLs of a run, sorted by URL.
WANTED = """
SELECT id, url,
    iif(usable, image_id, NULL), iif(usable, final_url, NULL), iif(usable, etag, NULL), iif(usable, last_modified, NULL)
FROM (
    SELECT id, url, urls.image_id, final_url, etag, last_modified,
        coalesce(status = 'ok' AND size <= :max_bytes AND width * height <= :max_pixels, FALSE) AS usable
    FROM urls LEFT JOIN images USING (image_id)
    WHERE wanted AND url > :url ORDER BY url LIMIT :rows
)
"""
ASKED = """
SELECT status, settled, limit_value, snapshot, ?, image_id, final_url, etag, last_modified, url FROM urls WHERE file
"""
MERGE = SETTLED.replace("WHERE id", "WHERE url")
MARKS = ", ".join("?" for _ in STORED.columns)
ADD_IMAGE = f"INSERT OR REPLACE INTO images ({', '.join(STORED.columns)}) VALUES ({MARKS})"  # noqa: S608 (our own names)
IMAGES = f"SELECT {', '.join(STORED.columns)} FROM images"  # noqa: S608 (our own names)
WANTED_IMAGES = f"""
{IMAGES}
WHERE EXISTS (SELECT 1 FROM urls WHERE urls.image_id = images.image_id AND wanted AND status = 'ok')
ORDER BY image_id
"""  # noqa: S608 (our own names)
TOTALS = """
SELECT count(DISTINCT image_id), coalesce(sum(size), 0) FROM urls JOIN images USING (image_id)
WHERE wanted AND status = 'ok'
"""


class UrlStatus(NamedTuple):
    """Stored status of a URL."""

    status: str  # as in `outcome.FetchOutcome`
    image_id: str | None  # this and the next are None unless status is ok
    final_url: str | None


class StoredImage(NamedTuple):
    """An image in the spool."""

    image_id: str
    place: Place
    info: ImageInfo


@dataclass(frozen=True)
class Plan:
    """Settings that decide which URLs a run requests."""

    snapshot: str
    reuse: Reuse
    max_bytes: int
    max_pixels: int


class Index:
    """The index at ``path``, created if missing; beside another process that uses it: `sqlite3.OperationalError`."""

    def __init__(self, path: Path) -> None:
        # Used by worker threads as well; SQLite serialises the access.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=READ_S)
        try:
            self._open()
        except (sqlite3.Error, UnicodeDecodeError):
            self._db.close()
            raise

    def _open(self) -> None:
        add_checksums(self._db)
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # a power failure loses no committed row
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version in (1, 2):
            upgrade = (FROM_VERSION_1 if version == 1 else "") + FROM_VERSION_2
            self._db.executescript(f"BEGIN; {upgrade} COMMIT;")
        elif version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"version {version}")
        self._db.executescript(TABLES)
        fault = structural_fault(self._db, TABLES)
        if fault is not None:
            raise sqlite3.DatabaseError(fault)
        self.damaged = sum(table.delete_damaged(self._db) for table in CHECKED_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # The URLs of a run

    def want(self, urls: Iterable[str]) -> int:
        """Set the URLs of this run (they may repeat); returns their number."""
        with self._transaction():
            self._db.execute("UPDATE urls SET wanted = 0 WHERE wanted")
            self._db.executemany(
                "INSERT INTO urls (url, host, wanted) VALUES (?, ?, 1) ON CONFLICT (url) DO UPDATE SET wanted = 1",
                ((url, _host(url)) for url in urls),
            )
        return self._count("SELECT count(*) FROM urls WHERE wanted")

    def enqueue(self, plan: Plan) -> int:
        """Fill the queue with the URLs to request; returns their number."""
        self._plan: dict[str, str | int] = {"snapshot": plan.snapshot, "reuse": plan.reuse}
        self._plan |= {"max_bytes": plan.max_bytes, "max_pixels": plan.max_pixels}
        with self._transaction():
            self._db.execute("DELETE FROM queue")
            self._db.execute(ENQUEUE, self._plan)
        return self._count("SELECT count(*) FROM queue")

    def hosts(self) -> Iterator[str]:
        """The hosts in the queue."""
        find = "SELECT min(host) FROM queue WHERE host > ?"
        (host,) = self._db.execute("SELECT min(host) FROM queue").fetchone()
        while host is not None:
            yield host
            (host,) = self._db.execute(find, (host,)).fetchone()

    def pending(self, host: str) -> Iterator[ImageRequest]:
        """The requests in the queue of ``host``, shuffled."""
        turn, last = -(2**63), 0
        while rows := self._db.execute(
            PENDING, {**self._plan, "host": host, "turn": turn, "id": last, "rows": ROWS_AT_ONCE}
        ).fetchall():
            yield from (ImageRequest(*row[1:]) for row in rows)
            turn, last = rows[-1][:2]

    def wanted(self) -> Iterator[ImageRequest]:
        """Requests for all URLs of this run, sorted by URL, whether queued or not."""
        last = ""
        while rows := self._db.execute(WANTED, {**self._plan, "url": last, "rows": ROWS_AT_ONCE}).fetchall():
            yield from (ImageRequest(*row) for row in rows)
            last = rows[-1][1]

    def queue_sizes(self) -> dict[str, int]:
        """Host -> number of its URLs in the queue."""
        return self._counts("SELECT host, count(*) FROM queue GROUP BY host ORDER BY host")

    def export_queue(self, path: Path, hosts: Iterable[str]) -> None:
        """Create an index at ``path`` with the queue of ``hosts``."""
        Index(path).close()
        self._db.execute("ATTACH ? AS part", (str(path),))
        try:
            with self._transaction():
                for host in hosts:
                    for statement in EXPORT.split(";")[:-1]:
                        self._db.execute(statement, (host,))
        finally:
            self._db.execute("DETACH part")

    def merge(self, part: "Index", file: int) -> None:
        """Copy the results of ``part``, an exported index, as if its URLs had been requested here."""
        with self._transaction():
            self._db.executemany(MERGE, part._db.execute(ASKED, (file,)))

    # Results

    def has_image(self, image_id: str) -> bool:
        """Whether the image ``image_id`` is stored."""
        return self._db.execute("SELECT 1 FROM images WHERE image_id = ?", (image_id,)).fetchone() is not None

    def record(
        self, images: Iterable[StoredImage], outcomes: Iterable[tuple[ImageRequest, FetchOutcome]], file: int
    ) -> None:
        """Store ``images``, whose bytes are written, and ``outcomes`` that arrived while ``file`` was current.

        An outcome that is not settled keeps the earlier image, which the next run may find unchanged.
        """
        plan = self._plan
        limits = {"too_large": plan["max_bytes"], "too_many_pixels": plan["max_pixels"]}
        settled, failed = [], []
        for request, found in outcomes:
            common = (found.status, found.settled, limits.get(found.status), plan["snapshot"], file)
            if found.settled:
                settled.append((*common, found.image_id, found.final_url, found.etag, found.last_modified, request.id))
            else:
                failed.append((*common, request.id))
        with self._transaction():
            self._add_images(images)
            self._db.executemany(SETTLED, settled)
            self._db.executemany(FAILED, failed)

    def restore(self, found: Iterable[tuple[str, UrlStatus]], snapshot: str) -> None:
        """Record images of URLs as results of ``snapshot``; URLs without an image become unsettled."""
        with self._transaction():
            self._db.execute("UPDATE urls SET settled = 0 WHERE status <> 'ok'")
            self._db.executemany(
                RESTORE,
                ((url, _host(url), one.image_id, one.final_url, snapshot) for url, one in found if one.status == "ok"),
            )

    def add_images(self, images: Iterable[StoredImage]) -> None:
        """Store ``images``, whose bytes are written."""
        with self._transaction():
            self._add_images(images)

    # Queries

    def lookup(self, url: str) -> UrlStatus | None:
        """The status of ``url``; None if it was never requested."""
        row = self._db.execute("SELECT status, image_id, final_url FROM urls WHERE url = ?", (url,)).fetchone()
        if row is None or row[0] is None:
            return None
        return UrlStatus(*row) if row[0] == "ok" else UrlStatus(row[0], None, None)

    def wanted_images(self) -> Iterator[StoredImage]:
        """The distinct images of this run's URLs, sorted by image_id."""
        return self._images(WANTED_IMAGES)

    def statuses(self) -> dict[str, int]:
        """Status -> number of this run's URLs."""
        return self._counts("SELECT status, count(*) FROM urls WHERE wanted GROUP BY status ORDER BY status")

    def transient_failures(self) -> int:
        """Number of this run's URLs that the next run requests again, without those that the shop forbids."""
        query = "SELECT status, count(*) FROM urls WHERE wanted AND NOT settled GROUP BY status"
        return sum(count for status, count in self._counts(query).items() if status not in FORBIDDEN)

    def totals(self) -> tuple[int, int]:
        """Number of distinct images of this run's URLs, and the total bytes of all URLs with an image."""
        images, size = self._db.execute(TOTALS).fetchone()
        return images, size

    def statuses_of_file(self, file: int) -> dict[str, int]:
        """Status -> number of URLs that were last requested while blob ``file`` was current."""
        return self._counts("SELECT status, count(*) FROM urls WHERE file = ? GROUP BY status ORDER BY status", (file,))

    def ends_of_files(self) -> dict[int, int]:
        """Blob file -> end of its last image."""
        return self._counts("SELECT file, max(offset + size) FROM images WHERE file > 0 GROUP BY file")

    def sizes_of_files(self) -> dict[int, int]:
        """Blob file -> total bytes of its images."""
        return self._counts("SELECT file, sum(size) FROM images GROUP BY file")

    def own_images(self) -> Iterator[StoredImage]:
        """All images whose bytes are in this spool."""
        return self._images(f"{IMAGES} WHERE file > 0 ORDER BY file, offset")

    def images_of_file(self, file: int) -> Iterator[StoredImage]:
        """The images of a blob file, in order."""
        return self._images(f"{IMAGES} WHERE file = ? ORDER BY offset", (file,))

    # Deletion

    def delete_images(self, image_ids: Iterable[str]) -> None:
        """Delete damaged images, so that their URLs are requested again."""
        with self._transaction():
            self._db.executemany("DELETE FROM images WHERE image_id = ?", ((image_id,) for image_id in image_ids))

    def delete_images_beyond(self, file: int, end: int) -> int:
        """Delete the images of blob ``file`` that end after ``end``; returns their number."""
        return self._db.execute("DELETE FROM images WHERE file = ? AND offset + size > ?", (file, end)).rowcount

    def delete_unwanted(self) -> None:
        """Delete all URLs that are not of this run, and images without a URL."""
        with self._transaction():
            self._db.execute("DELETE FROM urls WHERE NOT wanted")
            self._db.execute(
                "DELETE FROM images WHERE NOT EXISTS (SELECT 1 FROM urls WHERE urls.image_id = images.image_id)"
            )

    def _add_images(self, images: Iterable[StoredImage]) -> None:
        self._db.executemany(
            ADD_IMAGE,
            ((image_id, *place, *vars(info).values()) for image_id, place, info in images),
        )

    def _images(self, query: str, values: tuple[int, ...] = ()) -> Iterator[StoredImage]:
        for row in self._db.execute(query, values):
            yield StoredImage(row[0], Place(*row[1:4]), ImageInfo(*row[4:]))

    def _count(self, query: str) -> int:
        (count,) = self._db.execute(query).fetchone()
        return int(count)

    def _counts(self, query: str, values: tuple[int, ...] = ()) -> dict[Any, int]:
        return dict(self._db.execute(query, values).fetchall())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # the client reports the error
        return ""
