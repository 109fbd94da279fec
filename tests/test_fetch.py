"""Fetching from a real server that does everything a server can do wrong, and from one that we kill ourselves."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from PIL import Image

from atlas_model.errors import RetryError
from atlas_model.params import Params, load_params
from atlas_model.records import IMAGES, LABELLED, PRODUCTS, REFS, read_table, write_table
from crawlers.fetch import hosts
from crawlers.fetch.collect import write_images, write_refs
from crawlers.fetch.pictures import Pictures, fetch_pictures
from crawlers.fetch.spool import Spool
from crawlers.identity import user_agent
from crawlers.shop.catalogue import load_catalogue
from flows.import_manifest import import_manifest
from flows.stages import fetch, paths

ROOT = Path(__file__).resolve().parent.parent
ZVSN = ROOT.parent / "shared/manifests/zvsn_data.json"
HOST = "pictures.test"
MAX_BYTES = 100_000
MAX_PIXELS = 1_000_000


def jpeg(seed: int | str, side: int = 24) -> bytes:
    pixels = np.random.default_rng(list(str(seed).encode())).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(data, "JPEG")
    return data.getvalue()


Answer = Callable[["Server", web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Counts what it is asked for; ``/pictures/<name>`` is a picture, other paths do as `ODD` says."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()  # by path
        self.times: dict[str, list[float]] = {}
        self.headers: list[dict[str, str]] = []
        self.in_flight: Counter[str] = Counter()  # by host
        self.most_in_flight: Counter[str] = Counter()
        self.delay_s = 0.0
        self.odd: dict[str, Answer] = {}
        self.port = 0

    @property
    def connect_map(self) -> dict[str, tuple[str, int]]:
        return dict.fromkeys((HOST, "other.test"), ("127.0.0.1", self.port))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path, host = request.raw_path, request.host
        self.asked[path] += 1
        self.times.setdefault(path, []).append(time.monotonic())
        self.headers.append(dict(request.headers))
        for key in (host, "all"):
            self.in_flight[key] += 1
            self.most_in_flight[key] = max(self.most_in_flight[key], self.in_flight[key])
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if request.path in self.odd:
                return await self.odd[request.path](self, request)
            return web.Response(body=jpeg(path), content_type="image/jpeg")
        finally:
            self.in_flight.subtract((host, "all"))


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Run ``server`` in a thread."""
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", server.answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        started.set()
        await stop.wait()
        await runner.cleanup()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as asyncio_runner:
            asyncio_runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


def url(path: str, host: str = HOST) -> str:
    return f"http://{host}{path}"


def get(server: Server, urls: list[str], folder: Path, **changes: Any) -> Pictures:
    options = {
        "connect_map": server.connect_map,
        "user_agent": "Atlas/test",
        "concurrency": 16,
        "concurrency_per_host": 16,
        "max_attempts": 2,
        "timeout_s": 5.0,
        "max_bytes": MAX_BYTES,
        "max_pixels": MAX_PIXELS,
        "max_failed_share": 1.0,
        "backoff_s": 0.01,
    }
    return fetch_pictures(urls, folder / "spool", **(options | changes))


def statuses(pictures: Pictures) -> dict[str, str]:
    return {url: found.status for url, found in pictures.fetched.items()}


# What a server can do wrong


def with_status(status: int, **headers: str) -> Answer:
    async def answer(server: Server, request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=jpeg("not to be taken"), headers=headers)

    return answer


def with_body(body: bytes, content_type: str = "image/jpeg") -> Answer:
    async def answer(server: Server, request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type)

    return answer


def moved(location: str) -> Answer:
    return with_status(302, Location=location)


def fails_first(times: int, status: int = 500, **headers: str) -> Answer:
    async def answer(server: Server, request: web.Request) -> web.StreamResponse:
        if server.asked[request.raw_path] <= times:
            return web.Response(status=status, headers=headers)
        return web.Response(body=jpeg(request.raw_path))

    return answer


async def breaks_off(server: Server, request: web.Request) -> web.StreamResponse:
    body = jpeg("broken")
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[:-100])
    assert request.transport is not None
    request.transport.close()
    return response


async def says_huge(server: Server, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(10**12)})
    await response.prepare(request)
    await asyncio.sleep(30)
    return response


async def never_ends(server: Server, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(50_000))


async def drips(server: Server, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:  # always alive, never done: only a deadline for the whole attempt ends it
        await response.write(b"x")
        await asyncio.sleep(0.05)


async def sleeps(server: Server, request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


def bomb() -> bytes:
    data = io.BytesIO()
    Image.new("1", (2000, 2000)).save(data, "PNG")
    return data.getvalue()


ODD: dict[str, tuple[Answer, str]] = {
    "/gone": (with_status(404), "http_404"),
    "/forbidden": (with_status(403), "http_403"),
    "/no-content": (with_status(204), "http_204"),
    "/broken-server": (with_status(503), "http_503"),
    "/html": (with_body(b"<html>Please log in</html>", "text/html"), "not_an_image"),
    "/empty": (with_body(b""), "empty"),
    "/half": (with_body(jpeg("half", side=200)[:-100]), "truncated"),
    "/breaks-off": (breaks_off, "truncated"),
    "/says-huge": (says_huge, "too_large"),
    "/never-ends": (never_ends, "too_large"),
    "/bomb": (with_body(bomb()), "too_many_pixels"),
    "/sleeps": (sleeps, "timeout"),
    "/drips": (drips, "timeout"),
    "/to-file": (moved("file:///etc/passwd"), "bad_redirect"),
    "/to-itself": (moved("/to-itself"), "bad_redirect"),
    "/to-nonsense": (moved("http://[half"), "bad_redirect"),
    "/to-this-machine": (moved("http://127.0.0.1:1/x"), "blocked"),
    "/to-metadata": (moved("http://169.254.169.254/latest"), "blocked"),
    "/elsewhere": (moved("//other.test/pictures/moved"), "ok"),
    "/recovers": (fails_first(1), "ok"),
    "/html-but-named-so": (with_body(jpeg("mislabelled"), "text/html"), "ok"),
}
BAD_URLS = ["", "no url", "file:///etc/passwd", "data:image/png;base64,AAAA", "http://", "http://[::1/x", "ftp://a/b"]
BAD_URLS += ["http://host:99999/", f"http://{'a' * 70}.test/x", "//host/x"]


def test_every_url_has_a_status_and_is_asked_for_no_more_than_needed(server: Server, tmp_path: Path) -> None:
    server.odd = {path: answer for path, (answer, _) in ODD.items()}
    expected = {url(path): status for path, (_, status) in ODD.items()} | dict.fromkeys(BAD_URLS, "bad_url")
    expected |= {
        url("/pictures/1"): "ok",
        "http://localhost:1/x": "blocked",
        f"http://127.0.0.1:{server.port}/x": "blocked",
    }
    expected[url("/x", "closed.test")] = "unreachable"
    everybody = list(expected) * 2  # products share pictures
    open_map = server.connect_map | {"closed.test": ("127.0.0.1", 1)}
    pictures = get(server, everybody, tmp_path, connect_map=open_map, timeout_s=1.0, concurrency_per_host=40)

    assert statuses(pictures) == dict(sorted(expected.items()))
    assert pictures.report.seconds < 5  # the deadline is one for the whole attempt
    assert Counter(pictures.report.statuses) == Counter(expected.values())
    assert pictures.report.urls == len(expected)
    tried_again = {"/broken-server", "/breaks-off", "/sleeps", "/drips", "/recovers"}
    odd = {path: count for path, count in server.asked.items() if path in ODD}
    assert odd == {path: 2 if path in tried_again else 11 if path == "/to-itself" else 1 for path in ODD}
    assert pictures.report.retries == len(tried_again) + 1  # and the closed port
    assert server.asked["/pictures/1"] == server.asked["/pictures/moved"] == 1


def test_requests_say_who_asks_and_carry_no_cookies(server: Server, tmp_path: Path) -> None:
    async def sets_cookie(server: Server, request: web.Request) -> web.StreamResponse:
        return web.Response(body=jpeg(1), headers={"Set-Cookie": "id=1; Path=/"})

    server.odd = {"/cookie": sets_cookie}
    urls = [url("/cookie"), *(url(f"/pictures/{number}") for number in range(3))]
    get(server, urls, tmp_path, concurrency=1, user_agent=user_agent("https://example.org/who"))
    assert len(server.headers) == 4
    for headers in server.headers:
        assert headers["User-Agent"].startswith("Atlas/")
        assert headers["User-Agent"].endswith(" (+https://example.org/who)")
        assert "Cookie" not in headers
        assert headers["Host"] == HOST


def test_concurrency_is_bounded_in_all_and_per_host_and_used(server: Server, tmp_path: Path) -> None:
    server.delay_s = 0.02
    urls = [url(f"/pictures/{number}", host) for number in range(20) for host in (HOST, "other.test")]
    get(server, urls, tmp_path, concurrency=5, concurrency_per_host=3)
    assert server.most_in_flight == {HOST: 3, "other.test": 3, "all": 5}


def test_retry_after_is_waited_for_by_the_whole_host(server: Server, tmp_path: Path) -> None:
    server.odd = {"/busy": fails_first(1, 429, **{"Retry-After": "1"})}
    urls = [url("/busy"), *(url(f"/pictures/{number}") for number in range(5))]
    pictures = get(server, urls, tmp_path, concurrency_per_host=1)
    assert set(statuses(pictures).values()) == {"ok"}
    times = sorted(at for times in server.times.values() for at in times)
    refused = server.times["/busy"][0]
    later = [at for at in times if at > refused]
    assert len(later) >= 1
    assert later[0] - refused >= 0.99


def test_a_host_that_always_fails_is_given_up_and_asked_again_next_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "GIVE_UP_AFTER", 3)
    down = {f"/down/{number}": with_status(503) for number in range(20)}
    server.odd = dict(down)
    urls = [*map(url, down), url("/pictures/1", "other.test")]
    first = get(server, urls, tmp_path, concurrency_per_host=1)
    assert first.report.statuses == {"given_up": 17, "http_503": 3, "ok": 1}
    assert server.asked.total() == 3 * 2 + 1
    server.odd = {}
    second = get(server, urls, tmp_path)
    assert second.report.statuses == {"ok": 21}
    assert second.report.spooled == 1


def test_too_many_passing_failures_are_an_error_and_a_rerun_asks_for_those_alone(
    server: Server, tmp_path: Path
) -> None:
    server.odd = {f"/busy-{number}": fails_first(2, 503) for number in range(2)}
    urls = [url(f"/pictures/{number}") for number in range(8)] + [url(path) for path in server.odd]
    with pytest.raises(RetryError, match=r"2 of 10 picture URLs failed .*raise fetch\.max_failed_share"):
        get(server, urls, tmp_path, max_failed_share=0.1)
    server.asked.clear()
    server.odd = {}
    assert set(statuses(get(server, urls, tmp_path, max_failed_share=0.1)).values()) == {"ok"}
    assert set(server.asked) == {"/busy-0", "/busy-1"}


def test_a_blocked_host_is_asked_once_it_is_allowed(server: Server, tmp_path: Path) -> None:
    private = f"http://127.0.0.1:{server.port}/pictures/1"
    with pytest.raises(RetryError, match=r"blocked 1\. A host in a network of your own has to be named in crawl\.con"):
        get(server, [private], tmp_path, connect_map={})
    allowed = get(server, [private], tmp_path, connect_map={"127.0.0.1": ("127.0.0.1", server.port)})
    assert {picture.status for picture in allowed.fetched.values()} == {"ok"}


def test_no_picture_at_all_is_an_error_with_counts(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404), "/html": with_body(b"<html>")}
    with pytest.raises(RetryError, match="none of 2 picture URLs gave a picture: http_404 1, not_an_image 1"):
        get(server, [url("/gone"), url("/html")], tmp_path)


# The spool


def test_a_rerun_asks_only_for_what_did_not_last(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404), "/down": with_status(500), "/html": with_body(b"<html>")}
    urls = [url("/pictures/1"), *map(url, server.odd)]
    first = get(server, urls, tmp_path, max_attempts=1)
    second = get(server, urls, tmp_path, max_attempts=1)
    assert statuses(first) == statuses(second)
    assert server.asked == {"/pictures/1": 1, "/gone": 1, "/html": 1, "/down": 2}
    assert (second.report.spooled, second.report.pictures) == (3, 1)


def test_other_limits_ask_again_only_where_they_matter(server: Server, tmp_path: Path) -> None:
    server.odd = {"/large": with_body(jpeg(1, side=200)), "/small": with_body(jpeg(2, side=20))}
    urls = [*map(url, server.odd)]
    size = len(jpeg(1, side=200))
    for limits, status, asked in (
        ({}, "ok", 1),
        ({"max_pixels": 30_000}, "too_many_pixels", 2),
        ({"max_pixels": 30_000}, "too_many_pixels", 2),
        ({"max_bytes": size - 1}, "too_large", 3),
        ({"max_bytes": size - 1}, "too_large", 3),
        ({"max_bytes": size}, "ok", 3),  # the first answer counts again
    ):
        assert statuses(get(server, urls, tmp_path, **limits)) == {url("/large"): status, url("/small"): "ok"}
        assert server.asked == {"/large": asked, "/small": 1}


def test_a_damaged_shard_and_leftovers_are_survived(server: Server, tmp_path: Path) -> None:
    urls = [url(f"/pictures/{number}") for number in range(3)]
    get(server, urls, tmp_path)
    (shard,) = (tmp_path / "spool").iterdir()
    shard.write_bytes(shard.read_bytes()[:-50])
    leftover = tmp_path / "spool/.000001.arrow.99.tmp"
    leftover.write_bytes(b"half")
    assert get(server, urls, tmp_path).report.statuses == {"ok": 3}
    assert server.asked.total() == 6
    assert not leftover.exists()
    assert get(server, urls, tmp_path).report.spooled == 3


# The outputs


def products_of(urls: dict[str, list[str]]) -> pa.Table:
    rows = [
        {
            "product_id": name,
            "site": "x",
            "title": name,
            "breadcrumb": [],
            "taxonomy": ["A"],
            "details": [],
            "image_urls": its,
        }
        for name, its in urls.items()
    ]
    return pa.Table.from_pylist(rows, schema=PRODUCTS)


def test_shards_and_refs(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404), "/same": with_body(jpeg("/pictures/1"))}
    catalogue = {
        "b": [url("/pictures/1"), url("/gone")],
        "a": [url("/pictures/2"), url("/pictures/1"), url("/same"), "x:/"],
        "c": [],
    }
    pictures = get(server, [url for urls in catalogue.values() for url in urls], tmp_path)
    assert pictures.report.pictures == 2
    write_images(tmp_path / "shards", pictures, shard_rows=1)
    write_refs(tmp_path / "refs.parquet", products_of(catalogue), pictures.fetched)

    assert [path.name for path in sorted((tmp_path / "shards").iterdir())] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    images = {row["image_id"]: row for row in read_table(tmp_path / "shards", IMAGES, "fetch").to_pylist()}
    assert list(images) == sorted(images)
    assert {row["bytes"] for row in images.values()} == {jpeg("/pictures/1"), jpeg("/pictures/2")}
    refs = read_table(tmp_path / "refs.parquet", REFS, "fetch").to_pylist()
    assert [(ref["product_id"], ref["position"], ref["status"]) for ref in refs] == [
        ("a", 0, "ok"),
        ("a", 1, "ok"),
        ("a", 2, "ok"),
        ("a", 3, "bad_url"),
        ("b", 0, "ok"),
        ("b", 1, "http_404"),
    ]
    assert refs[1]["image_id"] == refs[2]["image_id"] == refs[4]["image_id"]
    assert images[refs[1]["image_id"]]["bytes"] == jpeg("/pictures/1")
    assert refs[3]["image_id"] is None


CHILD = """
import json, sys
from pathlib import Path
from crawlers.fetch import spool
from crawlers.fetch.pictures import fetch_pictures
spool.FLUSH_ROWS = 40
options = json.load(sys.stdin)
fetch_pictures(options.pop("urls"), Path(options.pop("folder")), **options)
"""


def test_a_run_killed_in_the_middle_continues_and_ends_with_the_same_bytes(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404)}
    urls = [*(url(f"/pictures/{number}") for number in range(400)), url("/gone")]
    products = products_of({f"p{number}": urls[number:][:2] for number in range(len(urls))})

    def outputs(pictures: Pictures, folder: Path) -> dict[str, bytes]:
        write_images(folder / "shards", pictures, shard_rows=150)
        write_refs(folder / "refs.parquet", products, pictures.fetched)
        written = [folder / "refs.parquet", *sorted((folder / "shards").iterdir())]
        return {path.name: path.read_bytes() for path in written}

    whole = outputs(get(server, urls, tmp_path / "whole"), tmp_path / "whole")
    server.asked.clear()
    server.delay_s = 0.05

    spool = tmp_path / "killed/spool"
    options = {
        "urls": urls,
        "folder": str(spool),
        "connect_map": server.connect_map,
        "user_agent": "x",
        "concurrency": 8,
        "concurrency_per_host": 8,
        "max_attempts": 1,
        "timeout_s": 5,
        "max_bytes": MAX_BYTES,
        "max_pixels": MAX_PIXELS,
        "max_failed_share": 1.0,
    }
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
    )
    assert child.stdin is not None
    with child, child.stdin:
        json.dump(options, child.stdin)
        child.stdin.close()
        deadline = time.monotonic() + 30
        while len(list(spool.glob("*.arrow"))) < 2:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL

    kept = set(Spool(spool, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS).entries)
    assert 80 <= len(kept) < len(urls)
    before = server.asked.copy()
    server.delay_s = 0
    pictures = get(server, urls, tmp_path / "killed", concurrency=3)
    again = {path for path, count in server.asked.items() if count > before[path]}
    assert again == {each.removeprefix(f"http://{HOST}") for each in urls if each not in kept}
    assert pictures.report.spooled == len(kept)
    assert outputs(pictures, tmp_path / "killed") == whole
    image_ids = read_table(tmp_path / "killed/shards", IMAGES, "fetch", ["image_id"])["image_id"].to_pylist()
    assert image_ids == sorted(image_ids)


@pytest.mark.slow
def test_the_stage_fetches_from_the_demo_shop_and_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    catalogue = list(load_catalogue().products())[:40]
    rows = {f"{product.shop.host}/{product.number}": product.picture_urls for product in catalogue}
    table = products_of({name: list(urls) for name, urls in rows.items()})
    write_table(paths.PRODUCTS, table.sort_by("product_id"), PRODUCTS)
    (fetch.SPOOLS / "older-snapshot").mkdir(parents=True)
    params = load_params(ROOT / "params.yaml")
    fetch.run(Params.model_validate(params.model_dump()))

    metrics = json.loads((paths.METRICS / "fetch.json").read_text())
    assert metrics["urls"] == sum(map(len, rows.values()))
    assert metrics["statuses"]["ok"] >= 40
    assert set(metrics["statuses"]) <= {"ok", "http_404"}
    images = read_table(paths.SHARDS, IMAGES, "fetch")
    assert images.num_rows == metrics["pictures"]
    assert read_table(paths.REFS, REFS, "fetch").num_rows == metrics["urls"]
    assert list(fetch.SPOOLS.iterdir()) == []


# atlas import-manifest


def import_options(server: Server, **changes: Any) -> dict[str, Any]:
    return {
        "shard_rows": 1000,
        "connect_map": server.connect_map,
        "user_agent": "x",
        "concurrency": 16,
        "concurrency_per_host": 16,
        "max_attempts": 1,
        "timeout_s": 5.0,
        "max_bytes": MAX_BYTES,
        "max_pixels": MAX_PIXELS,
        "max_failed_share": 1.0,
    } | changes


def manifest(folder: Path, rows: list[tuple[str, str]]) -> Path:
    path = folder / "manifest.json"
    entries = [
        {"filename": f"{number}.jpg", "image_url": each, "label": label, "title": f"Title {number}"}
        for number, (each, label) in enumerate(rows)
    ]
    path.write_text(json.dumps(entries))
    return path


def test_import_drops_conflicts_and_repeats_with_a_reason(server: Server, tmp_path: Path) -> None:
    server.odd = {
        "/gone": with_status(404),
        "/same": with_body(jpeg("/pictures/1")),
        "/twin": with_body(jpeg("/pictures/2")),
    }
    rows = [
        (url("/pictures/1"), "normal"),
        (url("/pictures/2"), "zoomed"),
        (url("/pictures/3"), "zoomed"),
        (url("/both"), "zoomed"),
        (url("/both"), "normal"),
        (url("/twin"), "normal"),  # the picture of row 1 with the other label
        (url("/same"), "normal"),  # the picture of row 0 again
        (url("/pictures/3"), "zoomed"),
        (url("/gone"), "normal"),
        ("nonsense", "normal"),
    ]
    output = tmp_path / "labelled"
    output.mkdir()
    (output / "part-00007.parquet").write_bytes(b"old")
    report = import_manifest(manifest(tmp_path, rows), output, tmp_path / "work", **import_options(server))
    assert report.kept == {"normal": 1, "zoomed": 1}
    assert report.dropped == {"bad_url": 1, "duplicate": 2, "http_404": 1, "label_conflict": 4}
    assert report.label_conflicts == 2
    assert sum(report.kept.values()) + sum(report.dropped.values()) == report.rows
    assert server.asked["/both"] == 0
    assert [path.name for path in output.iterdir()] == ["part-00000.parquet"]
    found = {row["title"]: row for row in read_table(output, LABELLED, "import").to_pylist()}
    assert {title: row["label"] for title, row in found.items()} == {"Title 0": "normal", "Title 2": "zoomed"}
    assert found["Title 0"]["bytes"] == jpeg("/pictures/1")
    assert found["Title 0"]["source_id"] == found["Title 0"]["image_id"]


def test_an_import_that_gives_nothing_leaves_what_was_there(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404)}
    output = tmp_path / "labelled"
    output.mkdir()
    (output / "part-00000.parquet").write_bytes(b"old")
    with pytest.raises(RetryError):
        import_manifest(manifest(tmp_path, [(url("/gone"), "normal")]), output, tmp_path, **import_options(server))
    assert (output / "part-00000.parquet").read_bytes() == b"old"


@pytest.mark.slow
@pytest.mark.skipif(not ZVSN.exists(), reason="the original project's manifest is not here")
def test_the_original_manifest_is_imported_whole(server: Server, tmp_path: Path) -> None:
    hosts_of_manifest = {"rukmini1.flixcart.com": ("127.0.0.1", server.port)}
    options = import_options(server, connect_map=hosts_of_manifest, shard_rows=4096)
    report = import_manifest(ZVSN, tmp_path / "labelled", tmp_path / "work", **options)
    assert report.rows == 8824
    assert report.label_conflicts == 1
    assert report.kept == {"normal": 7493, "zoomed": 1329}
    assert report.dropped == {"label_conflict": 2}
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "labelled").iterdir()) == 8822
    assert max(server.asked.values()) == 1
    print(report.fetch)
