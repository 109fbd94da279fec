"""Fetching in several processes: identical outputs, and each host in one process."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import web

from crawlers.fetch.asking import FetchCounts
from crawlers.fetch.collect import write_images, write_refs
from crawlers.fetch.images import FetchReport, fetch_images
from crawlers.fetch.parts import MOST_PARTS, _balanced
from crawlers.fetch.spool import Spool
from tests.support.fetching import Server, jpeg, options, serving, url, with_body, with_status, write_products

HOSTS = [f"host-{number}.test" for number in range(5)]
URLS = [
    *(url(f"/images/{number}", host) for number in range(6) for host in HOSTS),
    *(url(path, host) for path in ("/gone", "/busy") for host in HOSTS[:3]),
    "x:/",
]

Work = Callable[[Path], FetchCounts]


class ManyHosts(Server):
    @property
    def connect_map(self) -> dict[str, tuple[str, int]]:
        return dict.fromkeys(HOSTS, ("127.0.0.1", self.port))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ManyHosts()) as running:
        running.odd = {"/gone": with_status(404), "/busy": with_status(503), "/images/5": with_body(jpeg("same"))}
        yield running


def in_threads(work: Work, parts: Sequence[Path]) -> Iterator[FetchCounts]:
    with ThreadPoolExecutor(3) as pool:
        yield from pool.map(work, parts)


def fetch(server: Server, folder: Path, **changes: object) -> tuple[FetchReport, dict[str, bytes]]:
    """Run a fetch; returns the report and the written files."""
    products = write_products(folder / "products.parquet", {"p": URLS})
    with Spool(folder / "spool") as spool:
        report = fetch_images(URLS, spool, **options(server, **changes))
        write_images(folder / "shards", spool, shard_rows=4)
        write_refs(folder / "refs.parquet", products, spool)
        spool.drop_unwanted()
    files = [*(folder / "shards").iterdir(), folder / "refs.parquet"]
    return report, {path.name: path.read_bytes() for path in files}


def test_parts_yield_the_same_outputs_and_reports(server: Server, tmp_path: Path) -> None:
    alone, written = fetch(server, tmp_path / "alone")
    requests = server.asked.copy()
    together, also_written = fetch(server, tmp_path / "together", parallel_map=in_threads)
    assert also_written == written
    assert server.asked == requests + requests
    same = {name: value for name, value in together.to_json().items() if name not in ("seconds", "images_per_s")}
    assert same.items() <= alone.to_json().items()
    assert together.statuses == {"bad_url": 1, "http_404": 3, "http_503": 3, "ok": 30}
    assert not list((tmp_path / "together/spool/parts").iterdir())


def test_either_mode_resumes_the_spool_of_the_other(server: Server, tmp_path: Path) -> None:
    tagged = {f"/images/{number}": with_status(200, jpeg(number), ETag=f'"{number}"') for number in range(6)}
    server.odd |= tagged
    _, written = fetch(server, tmp_path)
    server.asked.clear()
    report, again = fetch(server, tmp_path, parallel_map=in_threads)
    assert (report.spooled, again) == (34, written), "all except transient failures"
    assert set(server.asked) == {"/busy"}
    server.odd |= dict.fromkeys(tagged, with_status(304))
    report, again = fetch(server, tmp_path, parallel_map=in_threads, snapshot="two")
    assert (report.unchanged, again) == (30, written), "the parts know which image there was"
    server.asked.clear()
    report, again = fetch(server, tmp_path, snapshot="two")
    assert (report.spooled, again) == (34, written)
    assert set(server.asked) == {"/busy"}


def test_each_host_is_requested_by_one_process_only(server: Server, tmp_path: Path) -> None:
    """A host responds only when the allowed number of requests waits for it, and others wait for other hosts."""

    async def held(server: Server, request: web.Request) -> web.StreamResponse:
        while server.most_in_flight[request.host] < 2 or server.most_in_flight["all"] <= 2:
            await asyncio.sleep(0.01)
        return web.Response(body=jpeg(request.raw_path), content_type="image/jpeg")

    server.delay_s = 0.05  # so that an excess request would be seen
    server.odd |= {f"/images/{number}": held for number in range(5)}
    fetch(server, tmp_path, parallel_map=in_threads, concurrency_per_host=2)
    most = {host: server.most_in_flight[host] for host in HOSTS}
    assert set(most.values()) == {2}
    assert server.most_in_flight["all"] > 2, "else this would prove nothing"


def test_killed_run_keeps_its_results(server: Server, tmp_path: Path) -> None:
    def killed(work: Work, parts: Sequence[Path]) -> Iterator[FetchCounts]:
        for part in parts[:3]:
            found = work(part)
        yield found
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, parallel_map=killed)
    asked = server.asked.copy()
    server.asked.clear()
    _, written = fetch(server, tmp_path)
    assert server.asked.total() < 40 - 3 * 6
    assert written == fetch(server, tmp_path / "alone")[1]
    assert asked.total() > 3 * 6


def test_parts_have_similar_sizes() -> None:
    sizes = {f"h{number}": number for number in range(1, 200)} | {"large": 1000}
    parts = _balanced(sizes)
    assert len(parts) == MOST_PARTS
    assert sorted(host for part in parts for host in part) == sorted(sizes)
    others = [sum(sizes[host] for host in part) for part in parts if part != ["large"]]
    assert len(others) == MOST_PARTS - 1 and max(others) < 1.2 * min(others)
    assert _balanced({"a": 1, "b": 5}) == [["b"], ["a"]]
    assert _balanced({}) == []
