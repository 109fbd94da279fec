"""Manifests people give us: what is read, and what is said of the ones that are not right."""

import json
from pathlib import Path

import pytest

from atlas_model.errors import InputError, MissingError
from atlas_model.records import PRODUCTS
from crawlers.manifest import MAX_FAULTS_SHOWN, read_labelled_manifest, read_manifest_products


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


def test_a_row_becomes_a_product(tmp_path: Path) -> None:
    table = read_manifest_products(write(tmp_path, {"images": [product("b.jpg"), product("a.jpg", split=None)]}))
    assert table.schema.equals(PRODUCTS)
    first, second = table.to_pylist()
    assert (first["product_id"], second["product_id"]) == ("manifest:a.jpg", "manifest:b.jpg")
    assert first["split_hint"] is None
    assert second["split_hint"] == "train"
    assert second["taxonomy"] == ["Clothing", "Tops", "Shirt"]
    assert second["image_urls"] == ["http://shop.test/b.jpg"]
    assert second["site"] == "manifest"


def test_rows_of_one_filename_are_products_of_their_own(tmp_path: Path) -> None:
    names = ["a.jpg", "a.jpg", "a.jpg#2", "a.jpg"]
    rows = [product(name, title=str(row)) for row, name in enumerate(names)]
    table = read_manifest_products(write(tmp_path, {"images": rows}))
    titles = dict(zip(table["product_id"].to_pylist(), table["title"].to_pylist(), strict=True))
    assert titles == {"manifest:a.jpg": "0", "manifest:a.jpg#3": "1", "manifest:a.jpg#2": "2", "manifest:a.jpg#4": "3"}


def test_odd_names_and_urls_are_kept_as_they_are(tmp_path: Path) -> None:
    odd = product("../../etc/passwd", image_url="file:///etc/passwd")
    (row,) = read_manifest_products(write(tmp_path, {"images": [odd]})).to_pylist()
    assert row["product_id"] == "manifest:../../etc/passwd"
    assert row["image_urls"] == ["file:///etc/passwd"]


def test_labelled_rows_keep_their_order_and_repeats(tmp_path: Path) -> None:
    rows = read_labelled_manifest(write(tmp_path, [labelled(), labelled(label="normal"), labelled()]))
    assert [row.label for row in rows] == ["zoomed", "normal", "zoomed"]


def test_all_faults_at_once(tmp_path: Path) -> None:
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
    assert "7 of 8 pictures are faulty" in text
    for part in (
        "picture 1: missing: title, image_url; sentences: expected",
        "picture 2: sentences: expected",
        "picture 3: sentences: expected",
        "picture 4: image_url: expected text, got None",
        "picture 5: split: expected text or null, got 3",
        "picture 6: expected an object, got 'text'",
        "picture 7: title: expected text, got '\\ud83d'",
    ):
        assert part in text


def test_many_faults_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_labelled_manifest(write(tmp_path, [labelled(label="blurred")] * 1000))
    text = str(caught.value)
    assert "1000 of 1000 pictures are faulty" in text
    assert f"picture {MAX_FAULTS_SHOWN - 1}: label: expected normal or zoomed, got 'blurred'" in text
    assert f"and {1000 - MAX_FAULTS_SHOWN} more" in text
    assert f"picture {MAX_FAULTS_SHOWN}:" not in text


@pytest.mark.parametrize("content", ["", "<html>", "[" * 100_000, "3", '{"images": {}}', '{"images": []}', "{}"])
def test_other_content_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="expected"):
        read_manifest_products(write(tmp_path, content))


def test_bytes_that_are_no_text_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InputError, match="expected a manifest"):
        read_labelled_manifest(tmp_path / "picture.json")
    with pytest.raises(MissingError, match="no such file"):
        read_labelled_manifest(tmp_path / "none.json")


def test_the_other_manifest_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="atlas import-manifest"):
        read_manifest_products(write(tmp_path, [labelled()]))
    with pytest.raises(InputError, match="set crawl"):
        read_labelled_manifest(write(tmp_path, {"images": [product()]}))
