"""Reading of tables: formats, columns, and unusable tables."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas_model.core.errors import InputError, MissingError
from atlas_model.data.schemas import IMAGES, PRODUCTS, REFS, read_table
from crawlers.files import table as table_module
from crawlers.files.table import read_rows
from flows import paths
from tests.support.fetching import jpeg
from tests.support.file_source import products_of, put, run, write_csv, write_jsonl


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_all_formats_yield_the_same_products(here: Path, suffix: str) -> None:
    rows = [{"image": f"{n}.jpg", "sku": str(n // 2), "category": "A > B", "title": f"Größe {n}"} for n in range(4)]
    table = Path(f"table.{suffix}")
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    elif suffix == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "," if suffix == "csv" else "\t"
        lines = [mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]
        table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())  # as Excel writes it
    first, second = products_of(table, product="sku")
    assert first["image_urls"] == ["file:0.jpg", "file:1.jpg"]
    assert (second["product_id"], second["title"], second["taxonomy"]) == ("files:1", "Größe 2", ["A", "B"])


def test_missing_column_error_lists_the_columns(here: Path) -> None:
    expected = r"no column 'label', 'name'; its columns are: 'image', 'category', 'title'"
    columns: dict[str, Any] = {"category": ["label"], "title": "name"}
    row = {"image": "a.jpg", "category": "A", "title": "x"}
    pq.write_table(pa.Table.from_pylist([row]), "table.parquet")
    for table in (write_csv("a.jpg,A,x"), write_jsonl(row, row), Path("table.parquet")):
        with pytest.raises(InputError, match=expected) as caught:
            products_of(table, **columns)
        assert "crawl.files.columns" in str(caught.value)
    with pytest.raises(InputError, match=r"column .image. occurs more than once"):
        products_of(write_csv("a.jpg,A,x", header="image,category,image"), title=None)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", b"", "first line with the column names"),
        ("t.csv", b"image,category,title\n", "at least one row"),
        ("t.csv", b"image,category,title\na.jpg,A,x\nb.jpg,Gr\xf6sse,x\n", "expected UTF-8, got other bytes in line 3"),
        ("t.csv", "image,category,title\na,b,c".encode("utf-16"), "expected UTF-8"),
        ("t.csv", b'image,category,title\na.jpg,A,"' + b"x" * 200_000, "expected CSV"),
        ("t.csv", b"image,category,title\n,A,x\na.jpg,,x\n", None),
        ("t.csv", b"image,category,title\na.jpg,,x\nb.jpg,,x\n", "none: no_category 2 .line 2, line 3."),
        ("t.jsonl", b"", "at least one row"),
        ("t.jsonl", b'{"image": "\xff"}\n', "expected UTF-8"),
        ("t.jsonl", b"[" * 100_000, "none: bad_row 1 .line 1."),
        ("t.jsonl", b'[\n{"image": "a"},\n', "none: bad_row 2"),
        ("t.parquet", b"PAR1", "expected a Parquet file"),
        ("t.xlsx", b"PK", "expected a table whose name ends with .csv, .tsv, .jsonl"),
    ],
)
def test_unusable_tables_raise_an_error_with_remedy(here: Path, name: str, content: bytes, told: str | None) -> None:
    Path(name).write_bytes(content)
    if told is None:
        products_of(Path(name))
        return
    with pytest.raises(InputError, match=told) as caught:
        products_of(Path(name))
    assert len(str(caught.value).splitlines()) == 1
    assert not paths.PRODUCTS.exists()


def test_missing_tables_raise_an_error(here: Path) -> None:
    with pytest.raises(MissingError, match=r"none\.csv: no such file; expected a table"):
        products_of(Path("none.csv"))
    Path("folder.csv").mkdir()
    with pytest.raises(InputError, match="got a folder"):
        products_of(Path("folder.csv"))


def test_line_length_is_bounded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MAX_LINE", 100)
    with pytest.raises(InputError, match="line 1: expected at most 100 characters"):
        products_of(write_jsonl({"image": "a.jpg", "category": "x" * 200}))


def test_parquet_with_invalid_utf8_raises_an_error(here: Path) -> None:
    bad = pa.array([b"\xff\xfe"]).view(pa.binary()).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, bad.buffers())
    pq.write_table(pa.table({"image": pa.array(["a.jpg"]), "category": text}), "table.parquet")
    with pytest.raises(InputError, match="cannot be read completely"):
        products_of(Path("table.parquet"), title=None)


def embedded(kind: str) -> Path:
    images = [jpeg(number) for number in range(40)] + [None, b"", b"<html>"]
    if kind == "struct":
        values: list[Any] = [{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(images[:-3])]
        values += [{"bytes": None, "path": "on disk.jpg"}, {"bytes": b"", "path": None}, {"bytes": b"<html>"}]
        column = pa.array(values, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    else:
        column = pa.array(images, pa.binary() if kind == "binary" else pa.large_binary())
    labels = pa.array([f"Kind {number % 2}" for number in range(len(images))]).dictionary_encode()
    pq.write_table(pa.table({"image": column, "category": labels}), "table.parquet", row_group_size=7)
    return Path("table.parquet")


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_reads_images_embedded_in_parquet(here: Path, kind: str) -> None:
    put("on disk.jpg")
    table = embedded(kind)
    statuses = list(run(table, {"title": None}).values())
    rest = ["ok" if kind == "struct" else "no_image", "empty", "not_an_image"]
    assert sorted(statuses) == sorted(["ok"] * 40 + rest)
    refs = {ref["image_url"]: ref["image_id"] for ref in read_table(paths.REFS, REFS, "fetch").to_pylist()}
    images = {row["image_id"]: row["bytes"] for row in read_table(paths.SHARDS, IMAGES, "fetch").to_pylist()}
    assert images[refs["row:000000000012"]] == jpeg(11)
    product = next(
        row
        for row in read_table(paths.PRODUCTS, PRODUCTS, "crawl").to_pylist()
        if row["image_urls"] == ["row:000000000012"]
    )
    assert product["product_id"] == ("files:11.jpg" if kind == "struct" else "files:row 12")
    assert product["taxonomy"] == ["Kind 1"]
    run(table, {"title": None})
    assert json.loads((paths.TIMINGS / "fetch.json").read_text())["unchanged"] == statuses.count("ok")


def test_crawl_stage_does_not_read_embedded_images(here: Path) -> None:
    row = next(read_rows(embedded("binary")))
    assert row.fields == {"image": True, "category": "Kind 0"}
