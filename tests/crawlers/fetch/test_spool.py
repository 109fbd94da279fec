"""The spool of a fetch: resuming, damaged files, changed limits, snapshots."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from atlas_model.core.errors import AtlasError, RetryError
from atlas_model.data.schemas import IMAGES, read_table
from crawlers.fetch import blobs, index
from crawlers.fetch.collect import image_urls, write_images, write_refs
from crawlers.fetch.images import fetch_images
from crawlers.fetch.spool import INDEX, Spool
from tests.support.fetching import (
    HOST,
    Answer,
    Server,
    get,
    jpeg,
    moved,
    options,
    serving,
    url,
    with_body,
    with_status,
    write_products,
)
from tests.support.paths import ROOT


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


def outputs(server: Server, folder: Path, catalogue: dict[str, list[str]], **changes: Any) -> dict[str, bytes]:
    """The files that a complete run writes, by name."""
    products = write_products(folder / "products.parquet", catalogue)
    with Spool(folder / "spool") as spool:
        fetch_images(image_urls(products), spool, **options(server, **changes))
        write_images(folder / "shards", spool, shard_rows=150)
        write_refs(folder / "refs.parquet", products, spool)
        spool.drop_unwanted()
    written = [folder / "refs.parquet", *sorted((folder / "shards").iterdir())]
    return {path.name: path.read_bytes() for path in written}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.blob"))


def test_rerun_requests_only_unsettled_urls(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404), "/down": with_status(500), "/html": with_body(b"<html>")}
    urls = [url("/images/1"), *map(url, server.odd)]
    first = get(server, urls, tmp_path, max_attempts=1)
    second = get(server, urls, tmp_path, max_attempts=1)
    assert first.statuses == second.statuses
    assert server.asked == {"/images/1": 1, "/gone": 1, "/html": 1, "/down": 2}
    assert (second.report.spooled, second.report.images) == (3, 1)


def test_changed_limits_request_only_affected_urls_again(server: Server, tmp_path: Path) -> None:
    server.odd = {"/large": with_body(jpeg(1, side=200)), "/small": with_body(jpeg(2, side=20))}
    urls = [*map(url, server.odd)]
    size = len(jpeg(1, side=200))
    for limits, status, asked in (
        ({}, "ok", 1),
        ({"max_pixels": 30_000}, "too_many_pixels", 2),
        ({"max_pixels": 30_000}, "too_many_pixels", 2),
        ({"max_bytes": size - 1}, "too_large", 3),
        ({"max_bytes": size - 1}, "too_large", 3),
        ({"max_bytes": size - 2}, "too_large", 3),
        ({"max_bytes": size}, "ok", 4),
    ):
        assert get(server, urls, tmp_path, **limits).statuses == {url("/large"): status, url("/small"): "ok"}
        assert server.asked == {"/large": asked, "/small": 1}


def damage(spool: Path) -> None:
    (blob,) = spool.glob("*.blob")
    content = bytearray(blob.read_bytes())
    content[5] ^= 255
    blob.write_bytes(content)


def test_damaged_bytes_are_not_written_to_outputs(server: Server, tmp_path: Path) -> None:
    catalogue = {"p": [url(f"/images/{number}") for number in range(3)]}
    whole = outputs(server, tmp_path, catalogue)
    damage(tmp_path / "spool")
    with pytest.raises(RetryError, match="1 images are damaged on disk"):
        outputs(server, tmp_path, catalogue)
    assert (tmp_path / "shards/part-00000.parquet").read_bytes() == whole["part-00000.parquet"]
    server.asked.clear()
    assert outputs(server, tmp_path, catalogue) == whole
    assert server.asked.total() == 1


@pytest.mark.parametrize("left", [0, 50, None])
def test_missing_bytes_are_fetched_again(server: Server, tmp_path: Path, left: int | None) -> None:
    urls = [url(f"/images/{number}") for number in range(3)]
    get(server, urls, tmp_path)
    (blob,) = (tmp_path / "spool").glob("*.blob")
    if left is None:
        blob.unlink()
    else:
        os.truncate(blob, left)
    assert get(server, urls, tmp_path).report.statuses == {"ok": 3}
    assert server.asked.total() == 6


def test_incomplete_bytes_after_a_kill_are_truncated(server: Server, tmp_path: Path) -> None:
    urls = [url(f"/images/{number}") for number in range(3)]
    get(server, urls, tmp_path)
    (blob,) = (tmp_path / "spool").glob("*.blob")
    whole = blob.read_bytes()
    blob.write_bytes(whole + b"half a pict")
    stray = tmp_path / "spool/000007.blob"
    stray.write_bytes(b"of which the index knows nothing")
    assert get(server, urls, tmp_path).report.spooled == 3
    assert blob.read_bytes() == whole
    assert not stray.exists()


def test_replaces_an_invalid_index(server: Server, tmp_path: Path) -> None:
    urls = [url("/images/1")]
    for content in (b"no database" * 1000, b""):
        get(server, urls, tmp_path)
        (tmp_path / "spool" / INDEX).write_bytes(content)
        assert get(server, urls, tmp_path).report.statuses == {"ok": 1}
    assert server.asked.total() == 3
    with closing(sqlite3.connect(tmp_path / "spool" / INDEX)) as database:
        database.execute("PRAGMA user_version = 99")
    assert get(server, urls, tmp_path).report.spooled == 0


def test_upgrades_an_index_of_version_1(server: Server, tmp_path: Path) -> None:
    urls = [url(f"/images/{number}") for number in range(3)]
    get(server, urls, tmp_path)
    with closing(sqlite3.connect(tmp_path / "spool" / INDEX)) as database:
        database.executescript(
            "ALTER TABLE images RENAME TO pictures; ALTER TABLE urls RENAME COLUMN limit_value TO than;"
            "PRAGMA user_version = 1;"
        )
    assert get(server, urls, tmp_path).report.spooled == 3, "nothing is fetched again"
    assert server.asked.total() == 3


def test_replaces_a_damaged_index(server: Server, tmp_path: Path) -> None:
    urls = [url(f"/images/{number}") for number in range(300)]
    get(server, urls, tmp_path)
    path = tmp_path / "spool" / INDEX
    whole = path.read_bytes()
    page = 4096
    for share in (0.1, 0.5, 0.8):
        at = int(len(whole) * share) // page * page
        path.write_bytes(whole[:at] + b"\xa5" * page + whole[at + page :])
        assert get(server, urls, tmp_path).report.statuses == {"ok": 300}
    assert server.asked.total() == 4 * 300


def test_error_if_the_spool_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "spool" / INDEX).mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "spool"):
        with pytest.raises(AtlasError, match=r"cannot be opened: .*remove it"), Spool(folder):
            pass


def test_spool_allows_one_process_at_a_time(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "READ_S", 0.1)
    with Spool(tmp_path / "spool"), pytest.raises(RetryError, match="another process is fetching into it"):
        get(server, [url("/images/1")], tmp_path)


def test_spool_waits_for_a_process_that_reads_its_index(server: Server, tmp_path: Path) -> None:
    get(server, [url("/images/1")], tmp_path)
    (path,) = tmp_path.rglob(INDEX)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as reader:
        assert reader.execute("SELECT count(*) FROM images").fetchone() == (1,)
        end = threading.Timer(0.5, reader.close)
        end.start()
        assert get(server, [url("/images/1"), url("/images/2")], tmp_path).statuses == dict.fromkeys(
            [url("/images/1"), url("/images/2")], "ok"
        )
        end.join()


def test_each_blob_file_has_a_file_with_counts(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "FILE_BYTES", 5_000)
    monkeypatch.setattr("crawlers.fetch.spool.FLUSH_ROWS", 4)
    server.odd = {"/gone": with_status(404)}
    urls = [url("/gone"), *(url(f"/images/{number}") for number in range(40))]
    get(server, urls, tmp_path)
    counts = [json.loads(path.read_text()) for path in sorted((tmp_path / "spool").glob("*.json"))]
    assert len(counts) == len(list((tmp_path / "spool").glob("*.blob"))) > 3
    assert sum(count["urls"] for count in counts) == 41
    assert sum(count["statuses"].get("http_404", 0) for count in counts) == 1


# Snapshots


def tagged(body: bytes) -> Answer:
    """An image with an ETag, which is not sent again to those who have it."""

    async def answer(server: Server, request: web.Request) -> web.StreamResponse:
        tag = f'"{hash(body)}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304)
        return web.Response(body=body, headers={"ETag": tag, "Last-Modified": "Sun, 06 Nov 2022 08:49:37 GMT"})

    return answer


@pytest.mark.parametrize(
    ("reuse", "asked", "spooled", "unchanged"), [("always", 2, 3, 0), ("validate", 5, 0, 2), ("never", 5, 0, 0)]
)
def test_next_snapshot_sends_conditional_requests(
    server: Server, tmp_path: Path, reuse: str, asked: int, spooled: int, unchanged: int
) -> None:
    server.odd = {
        "/same": tagged(jpeg("same")),
        "/changes": tagged(jpeg("before")),
        "/moved": moved("/same"),
        "/gone": with_status(404),
    }
    urls = [url("/same"), url("/changes"), url("/moved"), url("/gone")]
    before = outputs(server, tmp_path, {"p": urls}, snapshot="one")
    server.asked.clear()
    server.odd["/changes"] = tagged(jpeg("after"))
    server.odd["/gone"] = with_body(jpeg("came back"))
    second = get(server, urls, tmp_path, snapshot="two", reuse=reuse)
    assert (second.report.spooled, second.report.unchanged) == (spooled, unchanged)
    assert server.asked.total() == asked - (reuse == "always")
    assert second.report.statuses == {"ok": 4}
    assert second.fetched[url("/moved")].final_url == url("/same")
    server.asked.clear()
    assert get(server, urls, tmp_path, snapshot="two", reuse=reuse).report.spooled == 4  # one snapshot asks once
    assert server.asked.total() == 0
    fresh = outputs(server, tmp_path / "fresh", {"p": urls}, snapshot="two")
    kept = outputs(server, tmp_path, {"p": urls}, snapshot="two", reuse=reuse)
    assert (kept == fresh) == (reuse != "always")
    assert kept["refs.parquet"] != before["refs.parquet"]


def test_validators_are_not_sent_after_a_changed_redirect(server: Server, tmp_path: Path) -> None:
    async def easily_satisfied(server: Server, request: web.Request) -> web.StreamResponse:
        return web.Response(status=304) if "If-None-Match" in request.headers else web.Response(body=jpeg("new"))

    server.odd = {"/moved": moved("/old"), "/old": tagged(jpeg("old")), "/new": easily_satisfied}
    old = get(server, [url("/moved")], tmp_path, snapshot="one")
    server.odd["/moved"] = moved("/new")
    new = get(server, [url("/moved")], tmp_path, snapshot="two")
    assert new.report.unchanged == 0
    assert new.fetched[url("/moved")].image_id != old.fetched[url("/moved")].image_id


def test_image_is_validated_after_a_transient_failure(server: Server, tmp_path: Path) -> None:
    server.odd = {"/same": tagged(jpeg("same"))}
    urls = [url("/same"), url("/images/1")]
    get(server, urls, tmp_path, snapshot="one")
    server.odd["/same"] = with_status(503)
    assert get(server, urls, tmp_path, snapshot="two").fetched[url("/same")] == ("http_503", None, None)
    server.odd["/same"] = tagged(jpeg("same"))
    third = get(server, urls, tmp_path, snapshot="two")
    assert third.statuses == dict.fromkeys(urls, "ok")
    assert third.report.unchanged == 1


def test_stores_identical_images_once(server: Server, tmp_path: Path) -> None:
    server.odd = {f"/copy-{number}": with_body(jpeg("one")) for number in range(20)}
    images = get(server, [*map(url, server.odd)], tmp_path)
    assert images.report.images == 1
    assert images.report.bytes == 20 * len(jpeg("one"))
    assert size_of(tmp_path / "spool") == len(jpeg("one"))


def test_drops_images_that_no_snapshot_uses(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "FILE_BYTES", 3_000)
    survivors: list[str] = []
    for snapshot in range(6):  # a fifth of each snapshot stays
        names = [*survivors, *(f"/images/{snapshot * 20 + number}" for number in range(20))]
        whole = outputs(server, tmp_path, {"p": [*map(url, names)]}, snapshot=str(snapshot), reuse="always")
        needed = sum(len(jpeg(name)) for name in names)
        assert size_of(tmp_path / "spool") <= 2 * needed + 2 * 3_000
        survivors = names[::5]
    assert max(server.asked.values()) == 1
    assert outputs(server, tmp_path / "fresh", {"p": [*map(url, names)]}) == whole


# Kills


CHILD = """
import json, sys
from pathlib import Path
from crawlers.fetch import spool
from crawlers.fetch.images import fetch_images
spool.FLUSH_ROWS = 40
options = json.load(sys.stdin)
with spool.Spool(Path(options.pop("folder"))) as opened:
    fetch_images(options.pop("urls"), opened, **options)
"""


def known_to(spool: Path) -> set[str]:
    """The URLs whose answers a running process has committed."""
    if not (spool / INDEX).exists():
        return set()
    copy = spool.with_suffix(".copy")  # the process has the index for itself
    copy.mkdir(exist_ok=True)
    for name in (INDEX, f"{INDEX}-wal"):
        if (spool / name).exists():
            (copy / name).write_bytes((spool / name).read_bytes())
    with closing(sqlite3.connect(copy / INDEX)) as database:
        try:
            return {each for (each,) in database.execute("SELECT url FROM urls WHERE settled")}
        except sqlite3.DatabaseError:  # copied while it was written to
            return set()


def test_killed_run_resumes_with_identical_outputs(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404)}
    urls = [*(url(f"/images/{number}") for number in range(400)), url("/gone")]
    catalogue = {f"p{number:03d}": urls[number:][:2] for number in range(len(urls))}
    whole = outputs(server, tmp_path / "whole", catalogue)
    server.asked.clear()
    server.hang_after = 200

    spool = tmp_path / "killed/spool"
    told = options(server, concurrency=8, concurrency_per_host=8, timeout_s=300) | {"urls": urls, "folder": str(spool)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
    )
    assert child.stdin is not None
    with child, child.stdin:
        json.dump(told, child.stdin)
        child.stdin.close()
        deadline = time.monotonic() + 30
        while len(known_to(spool)) < 80:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL

    kept = known_to(spool)
    assert 80 <= len(kept) < len(urls)
    before = server.asked.copy()
    server.hang_after = None
    assert outputs(server, tmp_path / "killed", catalogue, concurrency=3) == whole
    again = {path for path, count in server.asked.items() if count > before[path]}
    assert again == {each.removeprefix(f"http://{HOST}") for each in urls if each not in kept}
    image_ids = read_table(tmp_path / "killed/shards", IMAGES, "fetch", ["image_id"])["image_id"].to_pylist()
    assert image_ids == sorted(image_ids)


def test_bytes_after_the_end_of_a_spool_go_to_no_other_file(tmp_path: Path) -> None:
    late = blobs.Blobs(tmp_path, {})
    late.close()
    with (tmp_path / "other").open("wb"), pytest.raises(OSError, match="Bad file descriptor"):
        late.append(b"image")
    assert (tmp_path / "other").read_bytes() == b""
