"""Reading of both manifest formats and of JSON streams, and the error messages."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_model.core.errors import InputError, MissingError
from atlas_model.data.schemas import PRODUCTS
from crawlers.sources import json_stream
from crawlers.sources.json_stream import JsonStream
from crawlers.sources.manifest import MAX_FAULTS_SHOWN, read_labelled_manifest, read_manifest_products
from tests.support.paths import ROOT


def product(filename: str = "a.jpg", **changes: object) -> dict[str, object]:
    return {
        "filename": filename,
        "title": "A shirt",
        "sentences": [{"tokens": ["Clothing", "Tops", "Shirt"]}],
        "image_url": f"http://shop.test/{filename}",
        "split": "train",
    } | changes


def labelled(**changes: object) -> dict[str, object]:
    return {"filename": "a.jpg", "image_url": "http://shop.test/a.jpg", "label": "zoomed", "title": "A"} | changes


def write(folder: Path, content: object) -> Path:
    path = folder / "manifest.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_row_becomes_a_product(tmp_path: Path) -> None:
    table = read_manifest_products(write(tmp_path, {"images": [product("b.jpg"), product("a.jpg", split=None)]}))
    assert table.schema.equals(PRODUCTS)
    first, second = table.to_pylist()
    assert (first["product_id"], second["product_id"]) == ("manifest:a.jpg", "manifest:b.jpg")
    assert first["split_hint"] is None
    assert second["split_hint"] == "train"
    assert second["taxonomy"] == ["Clothing", "Tops", "Shirt"]
    assert second["image_urls"] == ["http://shop.test/b.jpg"]
    assert second["site"] == "manifest"


def test_rows_with_one_filename_are_separate_products(tmp_path: Path) -> None:
    names = ["a.jpg", "a.jpg", "a.jpg#2", "a.jpg"]
    rows = [product(name, title=str(row)) for row, name in enumerate(names)]
    table = read_manifest_products(write(tmp_path, {"images": rows}))
    titles = dict(zip(table["product_id"].to_pylist(), table["title"].to_pylist(), strict=True))
    assert titles == {"manifest:a.jpg": "0", "manifest:a.jpg#3": "1", "manifest:a.jpg#2": "2", "manifest:a.jpg#4": "3"}


def test_keeps_unusual_names_and_urls(tmp_path: Path) -> None:
    odd = product("../../etc/passwd", image_url="ftp:///etc/passwd")
    (row,) = read_manifest_products(write(tmp_path, {"images": [odd]})).to_pylist()
    assert row["product_id"] == "manifest:../../etc/passwd"
    assert row["image_urls"] == ["ftp:///etc/passwd"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", " FILE:a.jpg", "file://localhost/a.jpg"])
def test_rejects_file_urls_and_names_the_source_for_local_files(tmp_path: Path, url: str) -> None:
    path = write(tmp_path, {"images": [product(), product(image_url=url), product(image_url="file:///b.jpg")]})
    with pytest.raises(InputError, match=r"got 2 that begin with file: \(first: .*crawl\.source to files") as caught:
        read_manifest_products(path)
    assert len(str(caught.value).splitlines()) == 1
    assert "atlas init --images DIR --table FILE" in str(caught.value)


def test_labelled_rows_keep_order_and_repetitions(tmp_path: Path) -> None:
    rows = read_labelled_manifest(write(tmp_path, [labelled(), labelled(label="normal"), labelled()]))
    assert [row.label for row in rows] == ["zoomed", "normal", "zoomed"]


def test_reports_all_errors_at_once(tmp_path: Path) -> None:
    rows = [
        product(),
        {"filename": "x"},
        product(sentences=[]),
        product(sentences=[{"tokens": ["A", " "]}]),
        product(image_url=None),
        product(split=3),
        "text",
        product(title="\ud83d"),
    ]
    with pytest.raises(InputError) as caught:
        read_manifest_products(write(tmp_path, {"images": rows}))
    text = str(caught.value)
    assert "7 of 8 images are invalid" in text
    for part in (
        "image 1: missing: title, image_url; sentences: expected",
        "image 2: sentences: expected",
        "image 3: sentences: expected",
        "image 4: image_url: expected text, got None",
        "image 5: split: expected text or null, got 3",
        "image 6: expected an object, got 'text'",
        "image 7: title: expected text, got '\\ud83d'",
    ):
        assert part in text


def test_counts_many_errors_and_shows_the_first(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_labelled_manifest(write(tmp_path, [labelled(label="blurred")] * 1000))
    text = str(caught.value)
    assert "1000 of 1000 images are invalid" in text
    assert f"image {MAX_FAULTS_SHOWN - 1}: label: expected normal or zoomed, got 'blurred'" in text
    assert f"and {1000 - MAX_FAULTS_SHOWN} more" in text
    assert f"image {MAX_FAULTS_SHOWN}:" not in text


@pytest.mark.parametrize("content", ["", "<html>", "[" * 100_000, "3", '{"images": {}}', '{"images": []}', "{}"])
def test_rejects_other_content(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="expected"):
        read_manifest_products(write(tmp_path, content))


def test_rejects_non_utf8_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "image.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InputError, match="expected a manifest"):
        read_labelled_manifest(tmp_path / "image.json")
    with pytest.raises(MissingError, match="no such file"):
        read_labelled_manifest(tmp_path / "none.json")


def test_error_for_the_other_manifest_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="atlas import-manifest"):
        read_manifest_products(write(tmp_path, [labelled()]))
    with pytest.raises(InputError, match="set crawl"):
        read_labelled_manifest(write(tmp_path, {"images": [product()]}))


# The stream


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(JSON), st.integers(1, 9), st.sampled_from([None, 1, "\t"]))
def test_json_stream_reads_the_same_as_json(values: list[object], window: int, indent: int | str | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW", window)
        text = json.dumps({"before": values, "images": values}, indent=indent)
        stream = JsonStream(io.StringIO(text))
        read = {key: stream.value() if key == "before" else list(stream.array()) for key in stream.members()}
        stream.end()
    assert json.dumps(read) == json.dumps({"before": values, "images": values})


@pytest.mark.parametrize(
    "text",
    [
        "[1",
        "[1 2]",
        "[1,]",
        "[1}",
        "{1: 2}",
        '{"a" 1}',
        '{"a": 1,}',
        '{"a": }',
        "[1] 2",
        '["\\x"]',
        "[tru]",
        "[01]",
        ",",
    ],
)
def test_json_stream_rejects_what_json_rejects(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", 2)
    with pytest.raises(ValueError):
        json.loads(text)
    stream = JsonStream(io.StringIO(text))
    with pytest.raises(ValueError, match="at character"):
        for _ in stream.members() if text.startswith("{") else stream.array():
            if text.startswith("{"):
                stream.value()
        stream.end()


def test_json_stream_bounds_the_length_of_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", 100)
    monkeypatch.setattr(json_stream, "MAX_VALUE", 1_000)
    file = io.StringIO('["' + "x" * 100_000)
    with pytest.raises(ValueError, match="Unterminated string starting at at character 1"):
        list(JsonStream(file).array())
    assert file.tell() < 2_000


@pytest.mark.slow
def test_memory_is_bounded_for_manifests_of_the_original_size(tmp_path: Path) -> None:
    rows = 184_000
    path = tmp_path / "manifest.json"
    with path.open("w") as file:
        file.write('{"images": [')
        file.writelines(f"{',' * (n > 0)}{json.dumps(product(f'{n}.jpg'))}" for n in range(rows))
        file.write("]}")
    child = f"""
from pathlib import Path
from crawlers.sources.manifest import read_manifest_products
from tests.support.memory import peak_mb
before = peak_mb()
table = read_manifest_products(Path({str(path)!r}))
print(table.num_rows, round(peak_mb() - before))
"""
    done = subprocess.run([sys.executable, "-c", child], cwd=ROOT, check=True, capture_output=True, text=True)
    count, megabytes = map(int, done.stdout.split())
    assert count == rows
    assert 0 < megabytes < 250  # the list of dicts alone took 420 MB
