"""Which pages of a crawl are one product, for any number of pages: in SQLite, beside the journal.

- Pages with one of the shop's numbers are one product, whatever their URLs. Where pages with that number have several
  URLs and several looks, it is no product's number (but a style's, or a maker's), and names none of them.
- Pages without a number that have one URL of their own (after redirects, as they name it, without sessions) are one.
- So are pages that say the same, and whose URLs name the same (`product_urls.names`).

A product without a number is named by the least of its URLs, without what says how one came there. Knows nothing of
what a page says.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

IDENTITIES = """
CREATE TEMP TABLE identities (
    id INTEGER PRIMARY KEY, number TEXT, page_url TEXT, stable_name TEXT, looks BLOB, same BLOB,
    first TEXT,  -- the least URL of the pages that are the same product; null where there is a number
    product_id TEXT
);
CREATE INDEX temp.by_number ON identities (number);
CREATE INDEX temp.by_same ON identities (same);
CREATE INDEX temp.by_url ON identities (page_url);
"""
SHARED = """
SELECT number FROM identities WHERE number IS NOT NULL
GROUP BY number HAVING count(DISTINCT stable_name) > 1 AND count(DISTINCT looks) > 1
"""
LEAST = """
UPDATE identities SET first = least.first FROM (
    SELECT {column} AS value, min(first) AS first FROM identities WHERE first IS NOT NULL GROUP BY {column}
) AS least WHERE identities.{column} = least.value AND identities.first > least.first
"""
NAMED = """
UPDATE identities SET product_id = CASE WHEN names.products = 1 THEN names.name ELSE identities.first END FROM (
    SELECT first, name, count(*) OVER (PARTITION BY name) AS products FROM (
        SELECT first, min(stable_name) AS name FROM identities WHERE first IS NOT NULL GROUP BY first
    )
) AS names WHERE identities.first = names.first
"""


class Identity(NamedTuple):
    """Which product a page is about."""

    number: str | None  # the shop's, if the page has one
    page_url: str
    stable_name: str  # the URL, without what may be another one tomorrow
    looks: str  # what all pages of one product with a number have in common
    same: str  # what all pages of one product without a number have in common


def group(database: sqlite3.Connection, pages: Iterable[tuple[int, Identity]]) -> int:
    """Fill the table `IDENTITIES` of ``database`` from ``pages`` (an id, and whose page it is).

    Returns:
        How many numbers are those of several products.
    """
    database.execute("DELETE FROM identities")
    database.executemany(
        "INSERT INTO identities (id, number, page_url, stable_name, looks, same) VALUES (?, ?, ?, ?, ?, ?)",
        _rows(pages),
    )
    shared = database.execute(SHARED).fetchall()
    database.executemany("UPDATE identities SET number = NULL WHERE number = ?", shared)
    database.execute("UPDATE identities SET product_id = number, first = CASE WHEN number IS NULL THEN page_url END")
    while sum(database.execute(LEAST.format(column=column)).rowcount for column in ("same", "page_url")):
        pass  # what is the same as the same is the same; mostly once
    database.execute(NAMED)
    return len(shared)


def _rows(pages: Iterable[tuple[int, Identity]]) -> Iterator[tuple[object, ...]]:
    for number, page in pages:
        yield (number, page.number, page.page_url, page.stable_name, _digest(page.looks), _digest(page.same))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
