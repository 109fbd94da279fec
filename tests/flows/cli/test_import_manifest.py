"""``atlas import-manifest``: labelled images from a manifest of their URLs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from atlas_model.core.errors import RetryError
from atlas_model.data.schemas import LABELLED, read_table
from flows.cli.import_manifest import import_manifest
from tests.support.fetching import Server, jpeg, options, serving, url, with_body, with_status
from tests.support.paths import ROOT

ZVSN = ROOT.parent / "shared/manifests/zvsn_data.json"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


def import_options(server: Server, **changes: Any) -> dict[str, Any]:
    given = options(server, max_attempts=1, shard_rows=1000) | changes
    del given["snapshot"]  # it is the manifest
    return given


def manifest(folder: Path, rows: list[tuple[str, str]]) -> Path:
    path = folder / "manifest.json"
    entries = [
        {"filename": f"{number}.jpg", "image_url": each, "label": label, "title": f"Title {number}"}
        for number, (each, label) in enumerate(rows)
    ]
    path.write_text(json.dumps(entries))
    return path


def test_drops_conflicting_and_duplicate_rows_with_reason(server: Server, tmp_path: Path) -> None:
    server.odd = {
        "/gone": with_status(404),
        "/same": with_body(jpeg("/images/1")),
        "/twin": with_body(jpeg("/images/2")),
    }
    rows = [
        (url("/images/1"), "normal"),
        (url("/images/2"), "zoomed"),
        (url("/images/3"), "zoomed"),
        (url("/both"), "zoomed"),
        (url("/both"), "normal"),
        (url("/twin"), "normal"),  # the image of row 1 with the other label
        (url("/same"), "normal"),  # the image of row 0 again
        (url("/images/3"), "zoomed"),
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
    assert found["Title 0"]["bytes"] == jpeg("/images/1")
    assert found["Title 0"]["source_id"] == found["Title 0"]["image_id"]


def test_empty_import_keeps_previous_output(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404)}
    output = tmp_path / "labelled"
    output.mkdir()
    (output / "part-00000.parquet").write_bytes(b"old")
    with pytest.raises(RetryError):
        import_manifest(manifest(tmp_path, [(url("/gone"), "normal")]), output, tmp_path, **import_options(server))
    assert (output / "part-00000.parquet").read_bytes() == b"old"


def test_changed_manifest_fetches_new_urls_only(server: Server, tmp_path: Path) -> None:
    rows = [(url("/images/1"), "normal"), (url("/images/2"), "zoomed")]
    given = import_options(server, reuse="always")
    import_manifest(manifest(tmp_path, rows), tmp_path / "labelled", tmp_path / "work", **given)
    rows.append((url("/images/3"), "normal"))
    report = import_manifest(manifest(tmp_path, rows), tmp_path / "labelled", tmp_path / "work", **given)
    assert report.kept == {"normal": 2, "zoomed": 1}
    assert server.asked == {"/images/1": 1, "/images/2": 1, "/images/3": 1}


@pytest.mark.slow
@pytest.mark.skipif(not ZVSN.exists(), reason="the original project's manifest is not here")
def test_imports_original_manifest(server: Server, tmp_path: Path) -> None:
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
