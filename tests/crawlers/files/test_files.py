"""A table and a folder of images as the source: what is read, and what is said of what cannot be."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.params import Params, load_params
from atlas_model.data.schemas import IMAGES, PRODUCTS, REFS, read_table
from crawlers.files import table as table_module
from crawlers.files.entries import Columns
from crawlers.files.folder import Folder, RefusedError
from crawlers.files.products import check_table, write_products
from crawlers.files.table import read_rows
from flows import paths
from flows.cli.main import main
from flows.stages import crawl, fetch
from flows.stages.entry import read_metrics
from tests.support.fetching import jpeg
from tests.support.paths import ROOT

COLUMNS = {"image": "image", "category": ["category"], "product": None, "title": "title", "price": None, "split": None}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder in which ``photos`` is a folder."""
    folder = tmp_path / "here"
    (folder / "photos").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def put(*names: str) -> None:
    """Images in the folder."""
    for name in names:
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(name))


def write_csv(*rows: str, header: str = "image,category,title") -> Path:
    path = Path("table.csv")
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_jsonl(*rows: object) -> Path:
    path = Path("table.jsonl")
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def products_of(table: Path, separator: str | None = ">", **columns: Any) -> list[dict[str, Any]]:
    options = {"table": table, "images": Path("photos"), "separator": separator}
    write_products(paths.PRODUCTS, columns=Columns(**COLUMNS | columns), **options)
    written = read_table(paths.PRODUCTS, PRODUCTS, "crawl")
    ids = written["product_id"].to_pylist()
    assert ids == sorted(set(ids))
    return written.to_pylist()


def stage_params(table: Path, columns: dict[str, Any] | None = None, **changes: Any) -> Params:
    params = load_params(ROOT / "params.yaml").model_dump(mode="json")
    files = {"table": str(table), "images": "photos", "separator": ">", "columns": COLUMNS | (columns or {})}
    params["crawl"] |= {"source": "files", "files": files}
    params["fetch"] |= {"max_failed_share": 1.0} | changes
    return Params.model_validate(params)


def run(table: Path, columns: dict[str, Any] | None = None, **changes: Any) -> dict[str, str]:
    """Both stages; what became of each image."""
    params = stage_params(table, columns, **changes)
    crawl.run(params)
    fetch.run(params)
    refs = read_table(paths.REFS, REFS, "fetch").to_pylist()
    images = set(read_table(paths.SHARDS, IMAGES, "fetch", ["image_id"])["image_id"].to_pylist())
    assert {ref["image_id"] for ref in refs} - {None} == images
    assert all((ref["image_id"] is None) == (ref["status"] != "ok") for ref in refs)
    assert read_metrics("fetch")["statuses"] == Counter(ref["status"] for ref in refs)
    return {ref["image_url"].partition(":")[2]: ref["status"] for ref in refs}


# Tables to products


def test_rows_of_one_product_are_put_together(here: Path) -> None:
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


def test_rows_without_a_product_are_products_of_their_own(here: Path) -> None:
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
def test_category_paths_in_one_column_or_in_several(
    here: Path, header: str, row: str, columns: dict[str, Any], separator: str | None
) -> None:
    (product,) = products_of(write_csv(row, header=header), separator, **columns)
    assert product["taxonomy"] == ["Men", "Shirts"]


def test_without_a_separator_the_column_is_one_level(here: Path) -> None:
    (product,) = products_of(write_csv("1.jpg,Totes / Shoppers,x"), None)
    assert product["taxonomy"] == ["Totes / Shoppers"]


def test_an_arrow_separates_levels_and_cannot_be_in_a_name(here: Path) -> None:
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


def test_names_of_categories_have_one_form(here: Path) -> None:
    (product,) = products_of(write_csv("1.jpg,Ro\u0308cke\u200b > \u00a0Mini\u00ad,x"))
    assert product["taxonomy"] == ["Röcke", "Mini"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_all_formats_give_the_same_products(here: Path, suffix: str) -> None:
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


def test_lists_and_numbers_where_they_mean_something(here: Path) -> None:
    table = write_jsonl(
        {"image": "a.jpg", "category": ["Men", "Shirts"], "sku": 12.0, "price": 3.5},
        {"image": "b.jpg", "category": ["Men", 7], "sku": 13, "price": "4"},
    )
    first, second = products_of(table, product="sku", price="price", title=None)
    assert (first["product_id"], first["taxonomy"], first["price"]) == ("files:12", ["Men", "Shirts"], Decimal("3.5"))
    assert (second["product_id"], second["taxonomy"]) == ("files:13", ["Men", "7"])


def test_rows_that_cannot_be_used_are_counted_with_a_reason(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert "warning: table.jsonl: 10 products cannot be used: bad_row 5 (" in err
    assert "line 13" in err


def test_rows_of_another_width_are_not_read_as_if_nothing_had_happened(here: Path) -> None:
    put("a.jpg", "b.jpg")
    statuses = run(write_csv("a.jpg,A,Shirt, blue", "b.jpg,A", "", 'b.jpg,A,"Shirt, blue"'))
    assert statuses == {"": "bad_row", "b.jpg": "ok"}
    assert read_metrics("crawl")["rows"] == 3


def test_two_categories_of_one_image_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put("a.jpg", "b.jpg")
    assert run(write_csv("a.jpg,A,x", "./a.jpg,B,x", "b.jpg,A,x")) == {"a.jpg": "ok", "b.jpg": "ok"}
    assert read_metrics("crawl")["images_with_two_categories"] == 1
    assert "1 images stand there with two categories, such as a.jpg" in capsys.readouterr().err


# Fields of another type


@pytest.mark.parametrize("title", [3, ["a"], {"en": "a"}, True, 1.5])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_title_column_of_another_type_is_refused(here: Path, title: object, suffix: str) -> None:
    rows = [{"image": f"{n}.jpg", "category": "A", "title": title} for n in range(3)]
    table = write_jsonl(*rows)
    if suffix == "parquet":
        table = Path("table.parquet")
        pq.write_table(pa.Table.from_pylist(rows), table)
    with pytest.raises(InputError, match=r"column 'title': expected text, got .* in (line|row) 1") as caught:
        products_of(table)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2


def test_single_titles_prices_and_splits_of_another_type_are_left_out_and_told(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert "column 'title': 1 fields were left out; the first: expected text, got 3 in line 2" in err
    assert "expected train, val or test, got 'holdout' in line 3" in err
    assert "expected a price, got 'unknown' in line 2" in err


# Tables that cannot be used


def test_a_column_that_is_not_there_is_named_with_those_that_are(here: Path) -> None:
    expected = r"no column 'label', 'name'; there are: 'image', 'category', 'title'"
    columns = {"category": ["label"], "title": "name"}
    row = {"image": "a.jpg", "category": "A", "title": "x"}
    pq.write_table(pa.Table.from_pylist([row]), "table.parquet")
    for table in (write_csv("a.jpg,A,x"), write_jsonl(row, row), Path("table.parquet")):
        with pytest.raises(InputError, match=expected) as caught:
            products_of(table, **columns)
        assert "crawl.files.columns" in str(caught.value)
    with pytest.raises(InputError, match=r"column .image. stands there more than once"):
        products_of(write_csv("a.jpg,A,x", header="image,category,image"), title=None)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", b"", "first line with the names of the columns"),
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
def test_tables_that_cannot_be_used_are_told_in_a_line(here: Path, name: str, content: bytes, told: str | None) -> None:
    Path(name).write_bytes(content)
    if told is None:
        products_of(Path(name))
        return
    with pytest.raises(InputError, match=told) as caught:
        products_of(Path(name))
    assert len(str(caught.value).splitlines()) == 1
    assert not paths.PRODUCTS.exists()


def test_tables_that_are_not_there(here: Path) -> None:
    with pytest.raises(MissingError, match=r"none\.csv: no such file; expected a table"):
        products_of(Path("none.csv"))
    Path("folder.csv").mkdir()
    with pytest.raises(InputError, match="got a folder"):
        products_of(Path("folder.csv"))


def test_a_line_without_end_is_not_read_to_its_end(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MAX_LINE", 100)
    with pytest.raises(InputError, match="line 1: expected at most 100 characters"):
        products_of(write_jsonl({"image": "a.jpg", "category": "x" * 200}))


def test_parquet_with_text_that_is_no_text(here: Path) -> None:
    bad = pa.array([b"\xff\xfe"]).view(pa.binary()).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, bad.buffers())
    pq.write_table(pa.table({"image": pa.array(["a.jpg"]), "category": text}), "table.parquet")
    with pytest.raises(InputError, match="cannot be read to its end"):
        products_of(Path("table.parquet"), title=None)


# Folders as categories


def test_folders_are_categories(here: Path) -> None:
    put("Men/Shirts/1.jpg", "Men/Shoes/1.jpg", "loose.jpg")
    Path("photos/Men/notes.txt").write_text("no image")
    strange = os.fsencode("photos/Men/") + b"\xff.jpg"
    Path(os.fsdecode(strange)).write_bytes(jpeg("strange"))
    products = {product["product_id"]: product["taxonomy"] for product in products_of(Path("photos"))}
    assert products == {
        "files:Men/?.jpg": [],
        "files:Men/Shirts/1.jpg": ["Men", "Shirts"],
        "files:Men/Shoes/1.jpg": ["Men", "Shoes"],
        "files:loose.jpg": [],
    }
    assert run(Path("photos")) == {
        "Men/?.jpg": "bad_name",
        "Men/Shirts/1.jpg": "ok",
        "Men/Shoes/1.jpg": "ok",
        "loose.jpg": "no_category",
    }


def test_a_folder_that_is_no_table(here: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        products_of(Path("photos"))
    Path("other").mkdir()
    with pytest.raises(InputError, match=r"crawl.files.table and crawl.files.images name the same one"):
        products_of(Path("other"))


# Reading images


def test_nothing_outside_the_folder_is_read(here: Path) -> None:
    secret = here.parent / "secret.jpg"
    secret.write_bytes(jpeg("secret"))
    put("in/a.jpg")
    (here.parent / "photos-2").mkdir()
    (here.parent / "photos-2/b.jpg").write_bytes(jpeg("secret"))
    links = {"link.jpg": secret, "up": here.parent, "far": "/", "near": "in", "relative.jpg": "../../secret.jpg"}
    for name, target in links.items():
        Path("photos", name).symlink_to(target)
    Path("photos/broken.jpg").symlink_to("nowhere.jpg")
    Path("photos/circle.jpg").symlink_to("circle.jpg")
    Path("photos/folder.jpg").mkdir()
    os.mkfifo("photos/pipe.jpg")
    outside = [
        "../secret.jpg",
        "in/../in/a.jpg",
        str(secret),
        "link.jpg",
        "up/secret.jpg",
        "relative.jpg",
        "far/etc/hostname",
        "up/photos-2/b.jpg",
        "../photos-2/b.jpg",
    ]
    expected = dict.fromkeys(outside, "outside_folder")
    expected |= dict.fromkeys(["broken.jpg", "circle.jpg", "missing.jpg", "in/a.jpg/b.jpg", "n" * 300], "not_found")
    expected |= {"folder.jpg": "not_a_file", "pipe.jpg": "not_a_file", "in/a.jpg": "ok", "near/a.jpg": "ok"}
    expected |= {"https:/shop.test/a.jpg": "url_not_path"}
    assert run(write_csv(*(f"{name},A,x" for name in expected))) == expected
    assert read_table(paths.SHARDS, IMAGES, "fetch")["bytes"].to_pylist() == [jpeg("in/a.jpg")]


def test_a_link_that_is_put_there_while_it_is_opened_is_not_followed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here.parent / "secret").mkdir()
    (here.parent / "secret/a.jpg").write_bytes(jpeg("secret"))
    put("in/a.jpg")
    folder = Folder(Path("photos"))
    resolve = Path.resolve

    def resolve_then_swap(path: Path, strict: bool = False) -> Path:
        real = resolve(path, strict)
        if path.name == "a.jpg":
            Path("photos/in").rename("photos/out")
            Path("photos/in").symlink_to(here.parent / "secret")
        return real

    monkeypatch.setattr(Path, "resolve", resolve_then_swap)
    with pytest.raises(RefusedError) as caught:
        folder.open("in/a.jpg")
    assert caught.value.status in ("outside_folder", "not_found")  # a folder's link: as systems will have it


def test_images_are_checked_as_those_of_other_sources(here: Path) -> None:
    put("good.jpg", "large.jpg")
    Path("photos/large.jpg").write_bytes(jpeg("large", 400))
    Path("photos/zero.jpg").touch()
    Path("photos/page.jpg").write_text("<html>")
    Path("photos/half.jpg").write_bytes(jpeg("half", 64)[:-200])
    Path("photos/heavy.jpg").write_bytes(jpeg("heavy") + b"\0" * 20_000)
    names = ["good", "large", "zero", "page", "half", "heavy"]
    found = run(write_csv(*(f"{name}.jpg,A,x" for name in names)), max_bytes=20_000, max_pixels=10_000)
    assert found == {
        "good.jpg": "ok",
        "large.jpg": "too_many_pixels",
        "zero.jpg": "empty",
        "page.jpg": "not_an_image",
        "half.jpg": "truncated",
        "heavy.jpg": "too_large",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(here: Path) -> None:
    put("a.jpg", "b.jpg")
    Path("photos/a.jpg").chmod(0)
    assert run(write_csv("a.jpg,A,x", "b.jpg,A,x"))["a.jpg"] == "unreadable"


def test_a_few_bad_images_are_counted_and_too_many_end_the_run_with_examples(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(*(f"{number}.jpg" for number in range(9)))
    table = write_csv(*(f"{number}.jpg,A,x" for number in range(10)))
    assert run(table, max_failed_share=0.1)["9.jpg"] == "not_found"
    assert "1 of 10 images cannot be used:\n  - not_found 1: 9.jpg" in capsys.readouterr().err
    Path("photos/8.jpg").write_bytes(b"")
    before = paths.REFS.read_bytes()
    with pytest.raises(InputError, match=r"table.csv: 2 of 10 images cannot be used.*max_failed_share, 0.1") as caught:
        run(table, max_failed_share=0.1)
    assert str(caught.value).splitlines()[1:] == ["  - empty 1: 8.jpg", "  - not_found 1: 9.jpg"]
    assert paths.REFS.read_bytes() == before
    with pytest.raises(InputError, match="1 of 1 images cannot be used, and none is left"):
        run(write_csv("no.jpg,A,x"))


def test_a_folder_that_is_not_there_is_named(here: Path) -> None:
    table = write_csv("a.jpg,A,x")
    Path("photos").rmdir()
    with pytest.raises(MissingError, match="photos: expected a folder of images, got nothing"):
        run(table)


def test_unchanged_files_are_not_read_again_and_changed_ones_are(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.jpg", "b.jpg", "c.jpg")
    table = write_csv("a.jpg,A,x", "b.jpg,A,x", "c.jpg,A,x")
    run(table)
    first = {path: path.read_bytes() for path in (paths.REFS, *paths.SHARDS.iterdir())}
    checked: list[bytes] = []
    from crawlers.files import images

    check = images.check
    monkeypatch.setattr(images, "check", lambda data, most: (checked.append(data), check(data, most))[1])
    run(table)
    assert checked == []
    assert read_metrics("fetch")["unchanged"] == 3
    assert {path: path.read_bytes() for path in first} == first
    Path("photos/b.jpg").write_bytes(jpeg("another"))
    assert run(table) == dict.fromkeys(["a.jpg", "b.jpg", "c.jpg"], "ok")
    assert checked == [jpeg("another")]
    Path("photos/c.jpg").unlink()
    assert run(table)["c.jpg"] == "not_found"
    put("c.jpg")
    assert run(table)["c.jpg"] == "ok"
    Path("photos/b.jpg").write_bytes(jpeg("small", 8))
    found = run(table, max_pixels=100)  # limits count for unchanged files, too
    assert found == {"a.jpg": "too_many_pixels", "b.jpg": "ok", "c.jpg": "too_many_pixels"}


# Images in Parquet


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
def test_images_in_the_table_itself(here: Path, kind: str) -> None:
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
    assert read_metrics("fetch")["unchanged"] == statuses.count("ok")


def test_the_crawl_does_not_read_the_images_of_a_table(here: Path) -> None:
    row = next(read_rows(embedded("binary")))
    assert row.fields == {"image": True, "category": "Kind 0"}


# The stages under DVC, and the command line


def test_check_covers_the_table_and_the_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_csv("a.jpg,A,x")
    (here / "data").mkdir()
    (here / "data/taxonomy.csv").write_text("taxonomy\nA\n")

    def params(**columns: Any) -> None:
        content = stage_params(table, columns).model_dump(mode="json")
        content["zoom"]["enabled"] = False  # which needs no labelled images
        Path("params.yaml").write_text(json.dumps(content))

    params()
    assert main(["check"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["data/taxonomy.csv: ok", "table.csv: ok", "photos: ok"]
    params(title="name")
    Path("photos").rmdir()
    assert main(["check"]) == 2
    err = capsys.readouterr().err
    assert "error: table.csv: no column 'name'; there are: 'image', 'category', 'title'" in err
    assert "error: photos: expected a folder of images, got nothing" in err


def test_the_example_in_data_is_valid(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = load_params(ROOT / "params.yaml").crawl.files
    monkeypatch.chdir(ROOT)
    columns = Columns(**given.columns.model_dump())
    check_table(given.table, images=given.images, separator=given.separator, columns=columns)
    rows = [row.fields or {} for row in read_rows(given.table)]
    assert all((given.images / row["image"]).is_file() for row in rows)


def repro_fetch(git_env: dict[str, str]) -> list[str]:
    """The stages that ran."""
    env = {**git_env, "PATH": os.pathsep.join([str(Path(sys.executable).parent), git_env["PATH"]])}
    command = [sys.executable, "-m", "dvc", "repro", "fetch"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return re.findall(r"Running stage '(\w+)'", done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_edit_of_the_table_or_of_the_folder_runs_the_stages_that_read_it(
    project: Path, git_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("source: demo ", "source: files "))
    repro = partial(repro_fetch, git_env)
    assert repro() == ["crawl", "fetch"]
    refs = read_table(paths.REFS, REFS, "fetch")
    assert refs.num_rows == 30
    assert set(refs["status"].to_pylist()) == {"ok"}
    assert repro() == []

    table, image = Path("data/files/products.csv"), Path("data/files/images/bags-1-a.jpg")
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]) + "\n")
    assert repro() == ["crawl", "fetch"]
    assert read_table(paths.REFS, REFS, "fetch").num_rows == 29
    image.write_bytes(jpeg("another"))
    assert repro() == ["fetch"]
    assert jpeg("another") in read_table(paths.SHARDS, IMAGES, "fetch")["bytes"].to_pylist()
    Path("data/files/images/spare.jpg").write_bytes(jpeg("spare"))
    assert repro() == ["fetch"], "DVC knows the folder as a whole"
    table.unlink()
    with pytest.raises(AssertionError, match=r"ERROR: .*data/files/products\.csv"):
        repro()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_folders_as_categories_under_dvc(
    project: Path, git_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is a dependency twice: as the table and as the images."""
    monkeypatch.chdir(project)
    put("Men/1.jpg", "Women/1.jpg")
    text = Path("params.yaml").read_text().replace("source: demo ", "source: files ")
    Path("params.yaml").write_text(re.sub(r"data/files/(products.csv|images) ", "photos ", text))
    repro = partial(repro_fetch, git_env)
    assert repro() == ["crawl", "fetch"]
    assert repro() == []
    put("Men/2.jpg")
    assert repro() == ["crawl", "fetch"]
    assert read_table(paths.REFS, REFS, "fetch")["status"].to_pylist() == ["ok"] * 3
    assert repro() == []


@pytest.mark.slow
def test_as_many_rows_as_the_original_had_take_little_memory(here: Path) -> None:
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
    assert 0 < megabytes < 350  # as Python objects the rows take a gigabyte
