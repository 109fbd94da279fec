"""Tables of the index of a spool, and the statements that upgrade those of earlier versions."""

from atlas_model.core.row_checksums import CheckedTable

VERSION = 3  # of the tables: 1 had other names, 2 had no checksums; an index of an unknown version is not read

URLS = CheckedTable(
    "urls",  # without `wanted`, which each run sets anew
    (
        *("id", "url", "host", "status", "settled", "limit_value", "image_id", "final_url", "etag", "last_modified"),
        *("snapshot", "file"),
    ),
)
STORED = CheckedTable(
    "images",
    ("image_id", "file", "offset", "size", "width", "height", "format", "mode", "orientation", "n_frames"),
)
CHECKED_TABLES = (URLS, STORED)

TABLES = f"""
CREATE TABLE IF NOT EXISTS urls (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    wanted INTEGER NOT NULL,  -- by this run
    status TEXT,              -- as in `outcome.FetchOutcome`; null: never requested
    settled INTEGER,          -- whether it is not requested again in its snapshot
    limit_value INTEGER,      -- limit, if status is too_large or too_many_pixels
    image_id TEXT,            -- its last image
    final_url TEXT,
    etag TEXT,
    last_modified TEXT,
    snapshot TEXT,            -- in which it was last requested
    file INTEGER,             -- current blob file at that time
    {URLS.definition}
);
CREATE INDEX IF NOT EXISTS urls_by_image ON urls (image_id);
CREATE INDEX IF NOT EXISTS urls_by_file ON urls (file, status);
CREATE TABLE IF NOT EXISTS images (
    image_id TEXT PRIMARY KEY,
    file INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, format TEXT NOT NULL, mode TEXT NOT NULL,
    orientation INTEGER NOT NULL, n_frames INTEGER NOT NULL,
    {STORED.definition}
) WITHOUT ROWID;
DROP TABLE IF EXISTS queue;
CREATE TABLE queue (host TEXT, turn INTEGER, id INTEGER, PRIMARY KEY (host, turn, id)) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""

FROM_VERSION_1 = "ALTER TABLE pictures RENAME TO images; ALTER TABLE urls RENAME COLUMN than TO limit_value;"
FROM_VERSION_2 = f"""
ALTER TABLE urls RENAME TO old_urls;
ALTER TABLE images RENAME TO old_images;
DROP INDEX IF EXISTS urls_by_image;
DROP INDEX IF EXISTS urls_by_file;
{TABLES}
INSERT INTO urls (wanted, {", ".join(URLS.columns)}) SELECT wanted, {", ".join(URLS.columns)} FROM old_urls;
INSERT INTO images ({", ".join(STORED.columns)}) SELECT {", ".join(STORED.columns)} FROM old_images;
DROP TABLE old_urls;
DROP TABLE old_images;
"""  # noqa: S608 (our own names)
