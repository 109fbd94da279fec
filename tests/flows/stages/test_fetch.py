"""The stage fetch, its outputs, and ``atlas fetch --retry-failed``."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.params import Params, load_params
from atlas_model.data.schemas import IMAGES, PRODUCTS, REFS, read_table, write_table
from crawlers.fetch.collect import image_urls, write_images, write_refs
from crawlers.fetch.images import fetch_images
from crawlers.fetch.restore import restore
from crawlers.fetch.spool import Spool
from crawlers.shop.catalogue import load_catalogue
from crawlers.sources.manifest import read_manifest_products
from flows import paths
from flows.cli.main import main
from flows.dvc import repo
from flows.stages import fetch
from flows.stages.entry import read_metrics
from tests.support.fetching import Server, jpeg, moved, options, serving, url, with_body, with_status, write_products
from tests.support.paths import ROOT


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


def test_writes_shards_and_refs(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404), "/same": with_body(jpeg("/images/1"))}
    server.odd["/moved"] = moved("/images/2")
    catalogue = {
        "b": [url("/moved"), url("/images/1"), url("/gone")],
        "a": [url("/images/2"), url("/images/1"), url("/same"), "x:/"],
        "c": [],
    }
    products = write_products(tmp_path / "products.parquet", catalogue)
    with Spool(tmp_path / "spool") as spool:
        assert fetch_images(image_urls(products), spool, **options(server)).images == 2
        write_images(tmp_path / "shards", spool, shard_rows=1)
        write_refs(tmp_path / "refs.parquet", products, spool)

    assert [path.name for path in sorted((tmp_path / "shards").iterdir())] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    images = {row["image_id"]: row for row in read_table(tmp_path / "shards", IMAGES, "fetch").to_pylist()}
    assert list(images) == sorted(images)
    assert {row["bytes"] for row in images.values()} == {jpeg("/images/1"), jpeg("/images/2")}
    refs = read_table(tmp_path / "refs.parquet", REFS, "fetch").to_pylist()
    assert [(ref["product_id"], ref["position"], ref["status"]) for ref in refs] == [
        ("a", 0, "ok"),
        ("a", 1, "ok"),
        ("a", 2, "ok"),
        ("a", 3, "bad_url"),
        ("b", 0, "ok"),
        ("b", 1, "ok"),
        ("b", 2, "http_404"),
    ]
    assert refs[1]["image_id"] == refs[2]["image_id"] == refs[5]["image_id"]
    assert [ref["final_url"] for ref in refs] == [*[None] * 4, url("/images/2"), None, None]
    assert images[refs[1]["image_id"]]["bytes"] == jpeg("/images/1")
    assert refs[3]["image_id"] is None


def test_refuses_unsorted_products(server: Server, tmp_path: Path) -> None:
    table = read_table(write_products(tmp_path / "sorted.parquet", {"a": [url("/1")], "b": []}), PRODUCTS, "crawl")
    write_table(tmp_path / "products.parquet", table.sort_by([("product_id", "descending")]), PRODUCTS)
    with Spool(tmp_path / "spool") as spool:
        fetch_images([url("/1")], spool, **options(server))
        with pytest.raises(InputError, match="sorted by product_id"):
            write_refs(tmp_path / "refs.parquet", tmp_path / "products.parquet", spool)


def test_shard_boundaries_do_not_depend_on_batch_size(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas_model.data.schemas.ROW_GROUP_BYTES", 2_000)
    with Spool(tmp_path / "spool") as spool:
        fetch_images([url(f"/images/{number}") for number in range(10)], spool, **options(server))
        write_images(tmp_path / "shards", spool, shard_rows=4)
    shards = [pq.ParquetFile(path) for path in sorted((tmp_path / "shards").iterdir())]
    assert [shard.metadata.num_rows for shard in shards] == [4, 4, 2]
    assert shards[0].metadata.num_row_groups > 1
    assert read_table(tmp_path / "shards", IMAGES, "fetch").num_rows == 10


def stage_params(server: Server, **changes: Any) -> Params:
    """Those of the project, with our server in place of the shop."""
    params = load_params(ROOT / "params.yaml").model_dump(mode="json")
    connect = {host: f"{address}:{port}" for host, (address, port) in server.connect_map.items()}
    params["crawl"] |= {"source": "manifest", "connect": connect}
    params["fetch"] |= {"max_attempts": 1, "max_failed_share": 1.0} | changes
    return Params.model_validate(params)


def test_keeps_spool_for_next_snapshot(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["../../etc/passwd", "/etc/passwd", "a\\..\\b", "\x00", "con"]
    entries = [
        {
            "filename": name,
            "title": name,
            "sentences": [{"tokens": ["A"]}],
            "image_url": url(f"/images/{number}"),
            "split": None,
        }
        for number, name in enumerate(names)
    ]
    Path("manifest.json").write_text(json.dumps({"images": entries}))
    write_table(paths.PRODUCTS, read_manifest_products(Path("manifest.json")), PRODUCTS)
    before = {path for path in tmp_path.parent.rglob("*") if not path.is_relative_to(tmp_path)}
    for _ in range(2):
        fetch.run(stage_params(server, reuse="always"))
    assert server.asked.total() == len(names) + 1  # and robots.txt
    refs = read_table(paths.REFS, REFS, "fetch").to_pylist()
    assert {ref["product_id"] for ref in refs} == {f"manifest:{name}" for name in names}
    assert {ref["status"] for ref in refs} == {"ok"}
    assert {path for path in tmp_path.parent.rglob("*") if not path.is_relative_to(tmp_path)} == before
    written = {str(path) for path in Path().rglob("*") if path.is_file()}
    assert written == {
        "manifest.json",
        "data/raw/products.parquet",
        "data/images/refs.parquet",
        "data/images/shards/part-00000.parquet",
        "metrics/fetch.json",
        "reports/fetch/metrics.json",
        "reports/timings/fetch.json",
        ".atlas/fetch/manifest/index.sqlite",
        ".atlas/fetch/manifest/000001.blob",
        ".atlas/fetch/manifest/000001.json",
    }


def test_refuses_products_without_images(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_products(paths.PRODUCTS, {"a": []})
    with pytest.raises(InputError, match="expected products with image URLs, got none"):
        fetch.run(stage_params(server))


# atlas fetch --retry-failed


def test_restores_spool_from_outputs(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404), "/moved": moved("/images/0")}
    urls = [url("/gone"), url("/moved"), *(url(f"/images/{number}") for number in range(5))]
    products = write_products(tmp_path / "products.parquet", {"p": urls})

    def outputs(folder: Path) -> dict[str, bytes]:
        write_images(folder / "shards", spool, 3)
        write_refs(folder / "refs.parquet", products, spool)
        return {path.name: path.read_bytes() for path in folder.rglob("*.parquet")}

    with Spool(tmp_path / "first") as spool:
        fetch_images(urls, spool, **options(server))
        whole = outputs(tmp_path / "data")
    server.asked.clear()
    for name in ("first", "gone"):
        with Spool(tmp_path / name) as spool:
            restore(spool, tmp_path / "data/shards", tmp_path / "data/refs.parquet", "one")
            report = fetch_images(urls, spool, **options(server))
            assert report.spooled == 6
            assert outputs(tmp_path / name / "data") == whole
    assert server.asked == {"/gone": 2}
    with Spool(tmp_path / "spool") as spool, pytest.raises(MissingError, match="dvc repro fetch"):
        restore(spool, tmp_path / "none", tmp_path / "none", "one")


MINI = """
stages:
  fetch:
    cmd: exec python -m flows.stages.fetch
    params: [fetch, crawl.source]
    deps: [data/raw/products.parquet]
    outs: [data/images/shards, data/images/refs.parquet, reports/fetch]
    metrics: [{metrics/fetch.json: {cache: false}}]
"""


@pytest.mark.slow
def test_retries_failed_images_in_a_clone_without_spool(
    server: Server, mini_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(mini_project)
    Path("dvc.yaml").write_text(MINI)
    Path("params.yaml").write_text(yaml.safe_dump(stage_params(server).model_dump(mode="json")))
    server.odd = {"/gone": with_status(404), "/html": with_body(b"<html>"), "/never": with_status(410)}
    urls = [*map(url, server.odd), *(url(f"/images/{number}") for number in range(5))]
    write_products(paths.PRODUCTS, {"p": urls})
    assert main(["fetch"]) == 0
    assert json.loads(capsys.readouterr().out)["statuses"] == {
        "http_404": 1,
        "http_410": 1,
        "not_an_image": 1,
        "ok": 5,
    }

    server.asked.clear()
    server.odd = {"/never": with_status(410)}
    assert main(["fetch"]) == 0
    assert server.asked.total() == 0
    shutil.rmtree(".atlas")
    capsys.readouterr()
    assert main(["fetch", "--retry-failed"]) == 0
    assert server.asked == {"/robots.txt": 1, "/gone": 1, "/html": 1, "/never": 1}
    assert json.loads(capsys.readouterr().out)["statuses"] == {"http_410": 1, "ok": 7}
    refs = read_table(paths.REFS, REFS, "fetch").to_pylist()
    images = set(read_table(paths.SHARDS, IMAGES, "fetch", ["image_id"])["image_id"].to_pylist())
    assert {ref["image_id"] for ref in refs} - {None} == images
    assert repo.is_up_to_date("fetch")

    server.asked.clear()
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["crawl"]["snapshot"] = "later"  # crawled, not fetched yet: its images may be others
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert main(["fetch", "--retry-failed"]) == 0
    assert all(server.asked[f"/images/{number}"] == 1 for number in range(5))


@pytest.mark.slow
def test_fetches_from_demo_shop_and_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    catalogue = list(load_catalogue().products())[:40]
    rows = {f"{product.shop.host}/{product.number}": product.image_urls for product in catalogue}
    write_products(paths.PRODUCTS, {name: list(urls) for name, urls in rows.items()})
    fetch.run(load_params(ROOT / "params.yaml"))

    metrics = read_metrics("fetch")
    headline = json.loads((paths.METRICS / "fetch.json").read_text())
    assert headline == {"images": metrics["images"], "dropped": metrics["urls"] - metrics["statuses"]["ok"]}
    assert metrics.keys().isdisjoint({"seconds", "images_per_s"}), "timings would change a hash"
    assert metrics["urls"] == sum(map(len, rows.values()))
    assert metrics["statuses"]["ok"] >= 40
    assert set(metrics["statuses"]) <= {"ok", "http_404"}
    images = read_table(paths.SHARDS, IMAGES, "fetch")
    assert images.num_rows == metrics["images"]
    assert read_table(paths.REFS, REFS, "fetch").num_rows == metrics["urls"]
    assert list((paths.WORK / "fetch").iterdir()) == []
