"""Journal of a crawl: a SQLite file with one row per requested page, so that a resumed crawl repeats no request.

A row records the last crawl that requested the page. Rows of the current crawl are done and are not requested again
when it resumes. Rows of an earlier crawl serve for conditional requests. Each row is its own transaction: after `put`
only a power failure can lose it, and only within `SYNC_S` seconds; then the page is fetched again.

Each row has a checksum. Damaged rows are deleted when the journal is opened, and their pages are requested again.

The links from categories to products are recorded anew in each run, because they determine the shop's current products.
They are in the file rather than in memory because a shop may have a million products. Items are stored as text.
"""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import make_folder
from atlas_model.core.progress import say
from atlas_model.core.row_checksums import DAMAGED, CheckedTable, add_checksums, structural_fault
from crawlers.crawl.product_grouping import IDENTITIES, Identity, group

LISTING, PRODUCT, SITEMAP, ROBOTS = "listing", "product", "sitemap", "robots"  # kinds of pages
VARIANTS = 3  # equal pages whose URLs differ only in the query, after which further ones are not requested

SYNC_S = 2.0  # s between writes that wait for the disk: waiting for each row would take longer than many requests

VERSION = 2  # 1: without checksums of the rows
STATE = CheckedTable("state", ("number", "snapshot", "finished"))
PAGES = CheckedTable(
    "pages",
    ("kind", "url", "crawl", "said", "dropped", "reader", "final_url", "etag", "last_modified", "sha256"),
)
CHECKED_TABLES = (STATE, PAGES)
TABLES = f"""
CREATE TABLE IF NOT EXISTS state (
    number INTEGER NOT NULL, snapshot TEXT NOT NULL, finished INTEGER NOT NULL, {STATE.definition}
);
CREATE TABLE IF NOT EXISTS pages (
    kind TEXT NOT NULL, url TEXT NOT NULL, crawl INTEGER NOT NULL, said TEXT, dropped TEXT, reader TEXT NOT NULL,
    final_url TEXT, etag TEXT, last_modified TEXT, sha256 BLOB, {PAGES.definition}, PRIMARY KEY (kind, url)
);
-- tables of one run
CREATE TABLE IF NOT EXISTS found (id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, site TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS found_of_site ON found (site, id);
CREATE TABLE IF NOT EXISTS labels (found INTEGER, rank INTEGER, PRIMARY KEY (found, rank)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS faults (kind TEXT, url TEXT, reason TEXT NOT NULL, PRIMARY KEY (kind, url)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS variants (bare TEXT PRIMARY KEY, said TEXT NOT NULL, url TEXT, times INTEGER) WITHOUT ROWID;
"""
FROM_VERSION_1 = f"""
BEGIN;
ALTER TABLE state RENAME TO old_state;
ALTER TABLE pages RENAME TO old_pages;
{TABLES}
INSERT INTO state ({", ".join(STATE.columns)}) SELECT {", ".join(STATE.columns)} FROM old_state;
INSERT INTO pages ({", ".join(PAGES.columns)}) SELECT {", ".join(PAGES.columns)} FROM old_pages;
DROP TABLE old_state;
DROP TABLE old_pages;
PRAGMA user_version = {VERSION};
COMMIT;
"""  # noqa: S608 (our own names)
TABLES_OF_A_RUN = ("found", "labels", "faults", "variants")


class JournalPage(NamedTuple):
    """A page's row in the journal."""

    item: str | None = None  # the item read from the page, as JSON
    dropped: str | None = None  # reason for which it was discarded
    reader: str = ""  # digest of the code that read it; rows of other code are deleted
    final_url: str | None = None  # URL after redirects; None without redirects
    etag: str | None = None  # this and the next two serve to detect changes
    last_modified: str | None = None
    sha256: bytes | None = None  # of the body
    crawl: int = 0  # number of the last crawl that requested it


class FoundPage(NamedTuple):
    """A product page to which the current crawl found a link."""

    product_id: str | None  # None: not a product
    url: str
    site: str
    item: str | None
    dropped: str | None
    ranks: list[int]  # ranks of the sources that link to it, sorted


class Journal:
    """The journal at ``path``, created if missing. Use as a context manager, inside `locked`.

    Its attribute ``was_damaged`` tells whether pages were lost because the file was damaged.

    Raises:
        AtlasError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._synced_s = time.monotonic()
        try:
            self._db, self.was_damaged = _open_or_recreate(path)
        except sqlite3.OperationalError as error:
            raise AtlasError(
                f"{path}: expected a file that can be written, got: {error}. Free some space, or make its folder "
                "writable, and run again"
            ) from error
        (number,) = self._db.execute("SELECT max(number) FROM state").fetchone()
        if number is None:  # a new journal, or the row was damaged: all pages are of earlier crawls then
            (number,) = self._db.execute("SELECT coalesce(max(crawl), 0) FROM pages").fetchone()
        self.crawl: int = number
        self.found = 0  # product pages to which this run found links
        self._shared = 0
        self._last_asked: dict[str, int] = {}  # site -> id of the last requested page in the table found

    def begin(self, snapshot: str, readers: Collection[str], *, again: bool = True) -> None:
        """Resume the crawl ``snapshot`` if it is unfinished, else start it; delete rows of other ``reader_digests``.

        Args:
            snapshot: name of the crawl.
            readers: digests of the current ``reader_digests``.
            again: start it also if the last crawl of this name is finished; False: resume that one.
        """
        last = self._db.execute("SELECT snapshot, finished FROM state").fetchone()
        with self._transaction():
            if last == (snapshot, 1) and not again:
                self._db.execute("UPDATE state SET finished = 0")
            elif last != (snapshot, 0):
                self._db.execute("DELETE FROM state")
                values = (self.crawl + 1, snapshot)
                self._db.execute("INSERT INTO state (number, snapshot, finished) VALUES (?, ?, 0)", values)
                self.crawl += 1
            for table in TABLES_OF_A_RUN:
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 (our own names)
            marks = ", ".join("?" * len(readers))
            self._db.execute(f"DELETE FROM pages WHERE reader NOT IN ({marks})", tuple(readers))  # noqa: S608 (marks)

    def delete_outdated(self, reader_of: Callable[[str], str | None]) -> None:
        """Delete pages whose recorded reader differs from the current one, which is ``reader_of`` their URL."""
        self._db.create_function("reader_of", 1, reader_of, deterministic=True)
        self._db.execute("DELETE FROM pages WHERE kind IN ('listing', 'product') AND reader IS NOT reader_of(url)")

    def finish(self) -> None:
        """Mark the crawl as accepted, and delete rows of older crawls."""
        self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            self._db.execute("DELETE FROM pages WHERE crawl < ?", (self.crawl,))
            self._db.execute("UPDATE state SET finished = 1")

    def invalidate(self, is_invalid: Callable[[str], bool]) -> None:
        """Request again those pages of the current crawl that were discarded and whose URL ``is_invalid``."""
        self._db.create_function("is_invalid", 1, is_invalid, deterministic=True)
        self._db.execute(
            "UPDATE pages SET crawl = crawl - 1 WHERE crawl = ? AND dropped IS NOT NULL AND is_invalid(url)",
            (self.crawl,),
        )

    def page(self, kind: str, url: str) -> JournalPage | None:
        """The page's row, of any crawl; None if there is none."""
        row = self._db.execute(
            "SELECT said, dropped, reader, final_url, etag, last_modified, sha256, crawl FROM pages "
            "WHERE kind = ? AND url = ?",
            (kind, url),
        ).fetchone()
        return row and JournalPage(*row)

    def put(self, kind: str, url: str, page: JournalPage) -> None:
        """Store a page of the current crawl."""
        values = (kind, url, *page[:-1], self.crawl)
        if synced := time.monotonic() - self._synced_s >= SYNC_S:
            self._db.execute("PRAGMA synchronous = FULL")  # syncs all that was written since the last time
        self._db.execute(
            "INSERT OR REPLACE INTO pages (kind, url, said, dropped, reader, final_url, etag, last_modified, sha256, "
            "crawl) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        if synced:
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._synced_s = time.monotonic()

    def link(self, urls: Sequence[str], rank: int, site: str) -> int:
        """Record links from the source of ``rank`` to product pages; returns how many are new for that source."""
        with self._transaction():
            rows = [(url, site) for url in urls]
            self.found += self._db.executemany("INSERT OR IGNORE INTO found (url, site) VALUES (?, ?)", rows).rowcount
            return self._db.executemany(
                "INSERT OR IGNORE INTO labels SELECT id, ? FROM found WHERE url = ?", ((rank, url) for url in urls)
            ).rowcount

    def next_products(self, site: str, count: int) -> list[str]:
        """The next ``count`` product pages (fewer at the end) to request, in the order in which they were found."""
        rows = self._db.execute(
            "SELECT id, found.url FROM found LEFT JOIN pages ON kind = 'product' AND pages.url = found.url "
            "WHERE site = ? AND id > ? AND (crawl IS NULL OR crawl < ?) ORDER BY id LIMIT ?",
            (site, self._last_asked.get(site, 0), self.crawl, count),
        ).fetchall()
        if rows:
            self._last_asked[site] = rows[-1][0]
        return [url for _, url in rows]

    def count_variant(self, url: str, said: str) -> None:
        """Count a page with a query in its URL, to detect queries that do not change the page."""
        self._db.execute(
            "INSERT INTO variants VALUES (?, ?, ?, 1) ON CONFLICT (bare) DO UPDATE SET "
            "times = CASE WHEN said = excluded.said AND times > 0 THEN times + 1 ELSE -1 END",
            (url.partition("?")[0], said, url),
        )

    def variant_of(self, url: str) -> JournalPage | None:
        """The page that ``url`` is equal to, if at least `VARIANTS` URLs that differ only in the query had it."""
        bare, query, _ = url.partition("?")
        row = (
            query
            and self._db.execute("SELECT url FROM variants WHERE bare = ? AND times >= ?", (bare, VARIANTS)).fetchone()
        )
        return self.page(PRODUCT, row[0]) if row else None

    def fault(self, kind: str, url: str, reason: str) -> None:
        """Record why a page could not be fetched in this run; the next run retries it."""
        self._db.execute("INSERT OR REPLACE INTO faults VALUES (?, ?, ?)", (kind, url, reason))

    def count_products_read(self) -> int:
        """Number of product pages that the current crawl has read."""
        query = "SELECT count(*) FROM pages WHERE kind = 'product' AND crawl = ?"
        return int(self._db.execute(query, (self.crawl,)).fetchone()[0])

    def faults(self, kind: str) -> Iterator[tuple[str, str, str | None]]:
        """URL, reason and site (None except for product pages) of each failed page of this run, sorted by URL."""
        query = "SELECT url, reason, site FROM faults LEFT JOIN found USING (url) WHERE kind = ? ORDER BY url"
        yield from self._db.execute(query, (kind,))

    def found_by_site(self) -> dict[str, int]:
        """Number of product pages to which this run found links, per site."""
        return dict(self._db.execute("SELECT site, count(*) FROM found GROUP BY site ORDER BY site"))

    def products(self, identify: Callable[[str, int], Identity]) -> Iterator[FoundPage]:
        """All product pages found in this run, sorted by product and URL; pages that are not products come first.

        `crawlers.crawl.product_grouping` decides which pages are one product.

        Args:
            identify: computes a page's identity from its item and the lowest rank that links to it.
        """
        with self._transaction():
            pages = self._db.execute(_PAGES, (self.crawl,))
            self._shared = group(self._db, ((number, identify(said, rank)) for number, said, rank in pages))
        rows = self._db.execute(_PRODUCTS, (self.crawl,))
        for product_id, url, site, said, dropped, ranks in rows:
            yield FoundPage(product_id, url, site, said, dropped, sorted(map(int, ranks.split(","))))

    def shared_numbers(self) -> int:
        """Number of product numbers that `products` found to be shared by several products."""
        return self._shared

    def sitemaps(self) -> Iterator[str]:
        """The content of each sitemap that the current crawl has read."""
        for (said,) in self._db.execute(
            "SELECT said FROM pages WHERE kind = 'sitemap' AND crawl = ? AND dropped IS NULL ORDER BY url",
            (self.crawl,),
        ):
            yield said

    def add_known_url(self, url: str) -> None:
        """Record the canonical URL of a product."""
        self._db.execute("INSERT OR IGNORE INTO met VALUES (?)", (url,))

    def is_known_url(self, url: str) -> bool:
        """Whether ``url`` is a product's canonical URL, or a page to which this run found a link."""
        query = "SELECT 1 FROM met WHERE url = ?1 UNION ALL SELECT 1 FROM found WHERE url = ?1"
        return self._db.execute(query, (url,)).fetchone() is not None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:  # commits, or rolls back
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()


_PAGES = """
SELECT found.id, said, min(rank) FROM found
JOIN labels ON found = found.id
JOIN pages ON pages.kind = 'product' AND pages.url = found.url AND crawl = ?
WHERE dropped IS NULL GROUP BY found.id
"""
_PRODUCTS = """
SELECT product_id, url, site, said, dropped, ranks FROM (
    SELECT found.id AS id, found.url, site, said, group_concat(rank) AS ranks,
           CASE WHEN pages.url IS NULL THEN coalesce(reason, 'not_asked') ELSE dropped END AS dropped
    FROM found
    JOIN labels ON found = found.id
    LEFT JOIN pages ON pages.kind = 'product' AND pages.url = found.url AND crawl = ?
    LEFT JOIN faults ON faults.kind = 'product' AND faults.url = found.url
    GROUP BY found.id
) AS found_pages LEFT JOIN identities ON identities.id = found_pages.id AND dropped IS NULL
ORDER BY 1, url
"""


def _open_or_recreate(path: Path) -> tuple[sqlite3.Connection, bool]:
    """The open journal, and whether something in it was damaged."""
    try:
        return _opened(path)
    except sqlite3.OperationalError:  # disk full or no permission: the content is not damaged
        raise
    except DAMAGED as error:
        say(f"{path}: damaged or of another version; its pages are requested again ({error})")
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _opened(path)[0], True


def _opened(path: Path) -> tuple[sqlite3.Connection, bool]:
    database = sqlite3.connect(path, isolation_level=None)
    try:
        add_checksums(database)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, 1, VERSION):
            raise sqlite3.DatabaseError(f"expected version {VERSION}, got {version}")
        database.executescript(TABLES if version != 1 else FROM_VERSION_1)
        fault = structural_fault(database, TABLES)
        if fault is not None:
            raise sqlite3.DatabaseError(fault)
        damaged = sum(table.delete_damaged(database) for table in CHECKED_TABLES)
        if damaged:
            say(f"{path}: {damaged} rows are damaged on disk; their pages are requested again")
        database.executescript(IDENTITIES)
        database.execute("CREATE TEMP TABLE met (url TEXT PRIMARY KEY) WITHOUT ROWID")
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        database.close()
        raise
    return database, damaged > 0
