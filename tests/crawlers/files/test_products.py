"""Conversion of tables to products: grouping of rows, category paths, unusable rows."""

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas_model.core.errors import InputError
from atlas_model.data.schemas import PRODUCTS, read_table
from flows import paths
from flows.stages import crawl
from flows.stages.entry import read_metrics
from tests.support.file_source import products_of, put, run, stage_params, write_csv, write_jsonl
from tests.support.paths import ROOT


def test_rows_with_one_product_id_are_one_product(here: Path) -> None:
    table = write_csv(
        "b.jpg,2,Shoe,Footwear > Shoes,20,train",
        "x/./a2.jpg,1,,,,",
        "a1.jpg,1,Shirt,Clothing>Tops,CHF 1'299.50,test",
        "c.jpg,,Hat,Hats,,",
        header="image,sku,title,category,price,part",
    )
    shirt, shoe, hat = products_of(table, product="sku", price="price", split="part")
    assert (shirt["product_id"], shoe["product_id"], hat["product_id"]) == ("files:1", "files:2", "files:c.jpg")
    assert shirt["image_urls"] == ["file:x/a2.jpg", "file:a1.jpg"]
    assert (shirt["title"], shirt["taxonomy"], shirt["split_hint"]) == ("Shirt", ["Clothing", "Tops"], "test")
    assert (shirt["price"], shirt["currency"]) == (Decimal("1299.50"), "CHF")
    assert (shoe["price"], shoe["split_hint"], shoe["site"]) == (Decimal("20.00"), "train", "files")
    assert hat["taxonomy"] == ["Hats"]


def test_rows_without_product_id_are_separate_products(here: Path) -> None:
    table = write_csv("a.jpg,A,one", "a.jpg,A,two", "a.jpg#2,A,three")
    found = {product["product_id"]: product["title"] for product in products_of(table)}
    assert found == {"files:a.jpg": "one", "files:a.jpg#3": "two", "files:a.jpg#2": "three"}


@pytest.mark.parametrize(
    ("header", "row", "columns", "separator"),
    [
        ("image,category,title", "1.jpg,Men > Shirts,x", {}, " > "),
        ("image,category,title", "1.jpg,Men->Shirts,x", {}, "->"),
        ("image;category;title", "1.jpg;Men / Shirts;x", {}, "/"),
        ("image|category|title", "1.jpg|Men, Shirts|x", {}, ","),
        ("image,gender,type,sub,title", "1.jpg,Men, Shirts ,,x", {"category": ["gender", "type", "sub"]}, None),
    ],
)
def test_category_path_from_one_or_several_columns(
    here: Path, header: str, row: str, columns: dict[str, Any], separator: str | None
) -> None:
    (product,) = products_of(write_csv(row, header=header), separator, **columns)
    assert product["taxonomy"] == ["Men", "Shirts"]


def test_category_column_without_separator_is_one_level(here: Path) -> None:
    (product,) = products_of(write_csv("1.jpg,Totes / Shoppers,x"), None)
    assert product["taxonomy"] == ["Totes / Shoppers"]


def test_arrow_separates_levels_and_is_rejected_in_names(here: Path) -> None:
    first, second = products_of(write_csv("1.jpg,Bags > Totes,x", "2.jpg,Totes,x"), None)
    assert (first["taxonomy"], dict(first["details"])) == ([], {"fault": "separator_in_name"})
    assert second["taxonomy"] == ["Totes"]
    levels = {"category": ["one", "two"]}
    rows = [{"image": "1.jpg", "one": "A", "two": "B -> C", "title": "x"}, {"image": "2.jpg", "one": "A", "two": "B"}]
    assert [dict(product["details"]) for product in products_of(write_jsonl(*rows), None, **levels)] == [
        {"fault": "separator_in_name"},
        {},
    ]
    (arrows,) = products_of(write_csv("1.jpg,Men->Shirts,x"), ">")
    assert arrows["taxonomy"] == ["Men", "Shirts"]


def test_category_names_are_normalised(here: Path) -> None:
    (product,) = products_of(write_csv("1.jpg,Ro\u0308cke\u200b > \u00a0Mini\u00ad,x"))
    assert product["taxonomy"] == ["Röcke", "Mini"]


def test_accepts_lists_and_numbers_in_parquet_and_jsonl(here: Path) -> None:
    table = write_jsonl(
        {"image": "a.jpg", "category": ["Men", "Shirts"], "sku": 12.0, "price": 3.5},
        {"image": "b.jpg", "category": ["Men", 7], "sku": 13, "price": "4"},
    )
    first, second = products_of(table, product="sku", price="price", title=None)
    assert (first["product_id"], first["taxonomy"], first["price"]) == ("files:12", ["Men", "Shirts"], Decimal("3.5"))
    assert (second["product_id"], second["taxonomy"]) == ("files:13", ["Men", "7"])


def test_counts_unusable_rows_with_a_reason(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put("a.jpg")
    table = write_jsonl(
        {"image": "a.jpg", "category": "A"},
        {"image": "b.jpg", "category": " "},
        {"image": "c.jpg"},
        {"image": "d.jpg", "category": "A > > B"},
        {"image": "e.jpg", "category": {"name": "A"}},
        {"image": ["f.jpg"], "category": "A"},
        {"image": "g\ud800.jpg", "category": "A"},
        {"category": "A"},
        "not JSON",
        "[1]",
        {"image": "h.jpg", "category": "A", "sku": "twice"},
        {"image": "i.jpg", "category": "B", "sku": "twice"},
        {"image": "j.jpg", "category": "A", "sku": {}},
    )
    run(table, {"title": None, "product": "sku"})
    assert read_metrics("fetch")["statuses"] == {
        "ok": 1,
        "no_category": 2,
        "bad_category": 2,
        "bad_row": 5,
        "no_image": 1,
        "label_conflict": 2,
    }
    assert read_metrics("fetch")["urls"] == read_metrics("crawl")["rows"] == 13
    assert read_metrics("crawl")["dropped"] == {"bad_category": 2, "bad_row": 5, "label_conflict": 1, "no_category": 2}
    err = capsys.readouterr().err
    assert "warning: table.jsonl: 10 products are unusable: bad_row 5 (" in err
    assert "line 13" in err


def test_rows_with_a_wrong_number_of_fields_are_bad_rows(here: Path) -> None:
    put("a.jpg", "b.jpg")
    statuses = run(write_csv("a.jpg,A,Shirt, blue", "b.jpg,A", "", 'b.jpg,A,"Shirt, blue"'))
    assert statuses == {"": "bad_row", "b.jpg": "ok"}
    assert read_metrics("crawl")["rows"] == 3


def test_warns_about_images_with_two_categories(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put("a.jpg", "b.jpg")
    assert run(write_csv("a.jpg,A,x", "./a.jpg,B,x", "b.jpg,A,x")) == {"a.jpg": "ok", "b.jpg": "ok"}
    assert read_metrics("crawl")["images_with_two_categories"] == 1
    assert "1 images have two categories, such as a.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("title", [3, ["a"], {"en": "a"}, True, 1.5])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rejects_a_title_column_of_a_wrong_type(here: Path, title: object, suffix: str) -> None:
    rows = [{"image": f"{n}.jpg", "category": "A", "title": title} for n in range(3)]
    table = write_jsonl(*rows)
    if suffix == "parquet":
        table = Path("table.parquet")
        pq.write_table(pa.Table.from_pylist(rows), table)
    with pytest.raises(InputError, match=r"column 'title': expected text, got .* in (line|row) 1") as caught:
        products_of(table)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2


def test_discards_and_reports_single_fields_of_a_wrong_type(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"category": "A", "split": "train", "price": 3}
    table = write_jsonl(
        {**common, "image": "a.jpg", "title": "Shirt"},
        {**common, "image": "b.jpg", "title": 3, "price": "unknown"},
        {**common, "image": "c.jpg", "title": None, "split": "holdout"},
    )
    crawl.run(stage_params(table, {"price": "price", "split": "split"}))
    found = read_table(paths.PRODUCTS, PRODUCTS, "crawl").to_pylist()
    assert [product["title"] for product in found] == ["Shirt", "", ""]
    assert [product["price"] for product in found] == [3, None, 3]
    assert [product["split_hint"] for product in found] == ["train", "train", "holdout"]
    err = capsys.readouterr().err
    assert "column 'title': 1 fields were discarded; the first: expected text, got 3 in line 2" in err
    assert "expected train, val or test, got 'holdout' in line 3" in err
    assert "expected a price, got 'unknown' in line 2" in err


@pytest.mark.slow
def test_memory_is_bounded_for_tables_of_the_original_size(here: Path) -> None:
    rows = 184_000
    with Path("table.csv").open("w") as file:
        file.write("image,category,title\n")
        file.writelines(
            f"folder/{n}.jpg,Clothing > Tops > Kind {n % 50},A shirt of some kind {n}\n" for n in range(rows)
        )
    child = """
from pathlib import Path
from crawlers.files.entries import Columns
from crawlers.files.products import write_products
from tests.support.memory import peak_mb
before = peak_mb()
columns = Columns("image", ["category"], None, "title", None, None)
options = {"table": Path("table.csv"), "images": Path("photos"), "separator": ">"}
counts = write_products(Path("p.parquet"), **options, columns=columns)
print(counts.products, round(peak_mb() - before))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", child], check=True, capture_output=True, text=True, env=env)
    count, megabytes = map(int, done.stdout.split())
    assert count == rows
    assert 0 < megabytes < 350  # as Python objects the rows would take a gigabyte
