"""Crawl and fetch of a shop with 6,000 products, with repeated kills: all products and images are complete."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import requests

from tests.support.big_shop import CATEGORIES, PAGES, PRODUCTS, image, image_urls_of
from tests.support.crawling import is_free
from tests.support.paths import ROOT
from tests.support.servers import HOST
from tests.support.waiting import wait_until

KILLS = 5
AT_WORK = 100  # limit of pages in flight at a kill: requested, or fetched and not yet read (measured: 35)


@contextmanager
def process(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.big_shop", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture
def port() -> Iterator[int]:
    with process("shop") as shop:
        assert shop.stdout is not None
        yield int(shop.stdout.readline())
        assert shop.poll() is None, "the shop has ended by itself"


def count(database: Path, query: str) -> int:
    """The result of the counting ``query``; 0 if the table does not exist yet."""
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:  # the tables are being created
            return 0


def ask(port: int, what: str) -> Any:
    return requests.get(f"http://127.0.0.1:{port}/{what}", timeout=60).json()


def run_and_kill(what: str, folder: Path, port: int, is_time: Callable[[], bool]) -> None:
    with process(what, folder, port, stderr=subprocess.DEVNULL) as child:
        while not is_time():
            assert child.poll() is None, "it ended before its time"
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)


def run_to_its_end(what: str, folder: Path, port: int) -> dict[str, Any]:
    with process(what, folder, port) as child:
        assert child.stdout is not None
        said = child.stdout.read()
    assert child.returncode == 0
    return json.loads(said)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the child is not told that its parent was killed")
def test_crawl_of_6000_products_survives_five_kills(tmp_path: Path, port: int) -> None:
    chance = random.Random(PRODUCTS)

    def pages_read() -> int:
        return count(tmp_path / "crawl/journal.sqlite", "SELECT count(*) FROM pages")

    for pages in sorted(chance.sample(range(1, PRODUCTS), KILLS)):
        run_and_kill("crawl", tmp_path, port, lambda pages=pages: pages_read() >= pages)
        wait_until(lambda: is_free(tmp_path / "crawl"))  # the grandchild has ended too
    assert run_to_its_end("crawl", tmp_path, port) == {"products": PRODUCTS, "dropped": {}, "faults": {}}

    columns = ["product_id", "title", "taxonomy", "image_urls"]
    found = pq.read_table(tmp_path / "products.parquet", columns=columns).to_pylist()
    per_category = PRODUCTS // CATEGORIES
    assert {row.pop("product_id"): row for row in found} == {
        f"{HOST}:A{number}": {
            "title": f"Product {number}",
            "taxonomy": ["Things", f"C{number // per_category}"],
            "image_urls": image_urls_of(number),
        }
        for number in range(PRODUCTS)
    }
    assert len(found) == PRODUCTS

    asked = Counter(ask(port, "asked"))
    assert asked.pop("/robots.txt") == KILLS + 1
    assert len(asked) == PRODUCTS + CATEGORIES * PAGES
    assert asked.total() - len(asked) <= KILLS * AT_WORK, "pages that were asked for twice"

    images = ask(port, "total") + PRODUCTS // 4
    run_and_kill("fetch", tmp_path, port, lambda: ask(port, "total") > images)
    names = {Path(url).name for number in range(PRODUCTS) for url in image_urls_of(number)}
    assert run_to_its_end("fetch", tmp_path, port) == {"images": len(names), "statuses": {"ok": len(names)}}
    with closing(sqlite3.connect(tmp_path / "fetch/index.sqlite")) as connection:
        kept = {image_id for (image_id,) in connection.execute("SELECT image_id FROM images")}
    assert kept == {hashlib.sha256(image(name)).hexdigest() for name in names}
