"""Groups pages of a crawl that show the same product, in SQLite, so that memory is bounded.

- Pages with the same product number of the shop are one product. If such pages have several URLs and several
  appearances (title and first image), the number is not a product's but a style's or a manufacturer's; it is ignored.
- Pages without a number are one product if they have the same canonical URL (after redirects, without session ids).
- They are also one product if their content and the keys of their URLs (`product_urls.product_key`) are equal.

A product without a number gets the smallest of its stable URLs (`product_urls.stable_url`) as product_id.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

IDENTITIES = """
CREATE TEMP TABLE identities (
    id INTEGER PRIMARY KEY, number TEXT, page_url TEXT, stable_name TEXT, looks BLOB, same BLOB,
    first TEXT,  -- smallest URL of the pages that are the same product; null if there is a number
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
    """Keys by which pages of one product are recognised."""

    number: str | None  # product number of the shop, if the page has one
    page_url: str
    stable_name: str  # URL without session, tracking and listing parameters
    looks: str  # title and first image; equal for all pages of one product with a number
    same: str  # content; equal for all pages of one product without a number


def group(database: sqlite3.Connection, pages: Iterable[tuple[int, Identity]]) -> int:
    """Fill the table `IDENTITIES` of ``database`` from ``pages`` (id and identity).

    Returns:
        The number of product numbers that several products share.
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
        pass  # until no row changes, because equality is transitive; mostly one pass
    database.execute(NAMED)
    return len(shared)


def _rows(pages: Iterable[tuple[int, Identity]]) -> Iterator[tuple[object, ...]]:
    for number, page in pages:
        yield (number, page.number, page.page_url, page.stable_name, _digest(page.looks), _digest(page.same))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
