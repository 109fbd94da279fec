"""Comparison of two snapshots, as a file and as a table, and the command `atlas changes`."""

import csv
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from atlas_model.core.errors import InputError
from atlas_model.data.schemas import LATER_COLUMNS, PRODUCTS, read_table
from crawlers.crawl.snapshot_diff import SCHEMA, as_table, changes, write_changes
from flows import paths
from flows.cli.changes import report_changes
from flows.cli.main import main
from flows.monitoring.drift import last_profiled_snapshot
from flows.monitoring.snapshots import products_of

OLD, NEW = "2026-11-21", "2026-11-22"


def row(number: int, site: str = "a.test", **values: Any) -> dict[str, Any]:
    filled = {"product_id": f"{site}:{number}", "site": site, "title": f"Shirt {number}", "price": Decimal("9.99")}
    filled |= {"currency": "EUR", "breadcrumb": [], "taxonomy": ["A"], "details": [], "image_urls": ["http://a/1.jpg"]}
    return {**dict.fromkeys(PRODUCTS.names), **filled, **values}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=PRODUCTS)


BEFORE = table(*(row(number) for number in range(6)), row(1, "b.test"))
AFTER = table(
    row(10),
    row(5),
    row(1, price=Decimal("12.00")),
    row(2, currency="CHF", title="Blouse 2"),
    row(3, image_urls=["http://a/2.jpg", "http://a/1.jpg"]),
    row(4, price=None, currency=None, details=[("material", "cotton")]),
    row(1, "b.test", breadcrumb=["Men"]),
)


def rows(old: pa.Table, new: pa.Table) -> list[tuple[Any, ...]]:
    """The changes as tuples, with None for missing values."""
    blocks = (block.astype(object).where(block.notna(), None) for block in changes(old, new))
    return [tuple(row) for block in blocks for row in block.to_numpy()]


def test_reports_added_removed_and_changed_products() -> None:
    assert rows(BEFORE, AFTER) == [
        ("a.test", "a.test:0", "removed", "title", "Shirt 0", None),
        ("a.test", "a.test:1", "changed", "price", "9.99 EUR", "12.00 EUR"),
        ("a.test", "a.test:10", "added", "title", None, "Shirt 10"),
        ("a.test", "a.test:2", "changed", "title", "Shirt 2", "Blouse 2"),
        ("a.test", "a.test:2", "changed", "price", "9.99 EUR", "9.99 CHF"),
        ("a.test", "a.test:3", "changed", "images", "http://a/1.jpg", "http://a/2.jpg\nhttp://a/1.jpg"),
        ("a.test", "a.test:4", "changed", "price", "9.99 EUR", None),
    ]
    assert rows(AFTER, AFTER) == rows(table(), table()) == []
    assert {change for _, _, change, *_ in rows(table(), AFTER)} == {"added"}
    assert {change for _, _, change, *_ in rows(BEFORE, table())} == {"removed"}


@pytest.mark.parametrize("block", [1, 2, 3])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    both_ways = [(BEFORE, AFTER), (AFTER, BEFORE), (table(), AFTER)]
    whole = [rows(*tables) for tables in both_ways]
    monkeypatch.setattr("crawlers.crawl.snapshot_diff.BLOCK", block)
    assert [rows(*tables) for tables in both_ways] == whole


def test_texts_that_pandas_takes_for_missing_are_texts(tmp_path: Path) -> None:
    titles = ["NA", "nan", "None", "", "null"]
    added = table(*(row(number, title=title) for number, title in enumerate(titles)))
    assert [new for *_, new in rows(table(), added)] == titles
    write_changes(tmp_path / "c.csv", changes(table(), added))
    with (tmp_path / "c.csv").open(newline="", encoding="utf-8") as file:
        assert [line["new"] for line in csv.DictReader(file)] == titles


def test_compares_only_columns_that_both_crawls_read() -> None:
    before = table(row(1, availability="InStock", brand="Acme"), row(2, availability="InStock", gtin="4006381333931"))
    after = table(row(1, availability="OutOfStock", brand="Acme"), row(2, availability=None, mpn="M-1"))
    assert [change[1:] for change in rows(before, after)] == [
        ("a.test:1", "changed", "availability", "InStock", "OutOfStock"),
        ("a.test:2", "changed", "availability", "InStock", None),
    ]


def test_reads_products_of_version_0_1_0_with_nulls(tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"
    pq.write_table(BEFORE.drop_columns(list(LATER_COLUMNS)), path)
    read = read_table(path, PRODUCTS, "crawl")
    assert read.schema.equals(PRODUCTS)
    assert read.equals(BEFORE)
    pq.write_table(BEFORE.drop_columns(["title"]), path)
    with pytest.raises(InputError, match="missing: title"):
        read_table(path, PRODUCTS, "crawl")


def test_csv_and_parquet_are_equal_and_table_counts(tmp_path: Path) -> None:
    counts = write_changes(tmp_path / "c.parquet", changes(BEFORE, AFTER))
    assert write_changes(tmp_path / "deep/c.csv", changes(BEFORE, AFTER)).equals(counts)
    assert (
        (tmp_path / "deep/c.csv")
        .read_bytes()
        .startswith(b"site,product_id,change,field,old,new\r\na.test,a.test:0,removed,title,Shirt 0,\r\n")
    )
    stored = pq.read_table(tmp_path / "c.parquet")
    assert stored.schema.equals(SCHEMA)
    with (tmp_path / "deep/c.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {name: value or "" for name, value in change.items()} for change in stored.to_pylist()
        ]
    assert as_table(counts) == [
        "site    added  removed  price  title  images  availability  brand  gtin  mpn",
        "a.test  1      1        3      1      1       0             0      0     0",
        "all     1      1        3      1      1       0             0      0     0",
    ]
    assert as_table(write_changes(tmp_path / "same.csv", changes(AFTER, AFTER))) == [
        "site  added  removed  price  title  images  availability  brand  gtin  mpn",
        "all   0      0        0      0      0       0             0      0     0",
    ]


def test_csv_escapes_formulas(tmp_path: Path) -> None:
    titles = ["=HYPERLINK(1)", "+1", "-1", "@A1", "\tx", "\rx", '="a", b', "plain = fine"]
    added = table(*(row(number, title=title) for number, title in enumerate(titles)))
    write_changes(tmp_path / "c.csv", changes(table(), added))
    with (tmp_path / "c.csv").open(newline="", encoding="utf-8") as file:
        told = [line["new"] for line in csv.DictReader(file)]
    assert told == [f"'{title}" for title in titles[:-1]] + ["plain = fine"]
    write_changes(tmp_path / "c.parquet", changes(table(), added))
    assert pq.read_table(tmp_path / "c.parquet")["new"].to_pylist() == titles


def test_rejects_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.xlsx: expected a name that ends in \.csv or \.parquet"):
        write_changes(tmp_path / "c.xlsx", changes(BEFORE, AFTER))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two snapshots outside any repository."""
    monkeypatch.chdir(tmp_path)
    paths.SNAPSHOTS.mkdir(parents=True)
    for name, products in ((OLD, BEFORE), (NEW, AFTER)):
        pq.write_table(products, paths.SNAPSHOTS / f"{name}.parquet")
    return tmp_path


def test_command_writes_a_file_and_prints_a_table(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crawl", "changes", OLD, NEW]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "all     1      1        3      1      1       0             0      0     0"
    assert said.err == f"written: reports/changes/{OLD}..{NEW}.csv\n"
    assert (kept / f"reports/changes/{OLD}..{NEW}.csv").is_file()
    assert main(["crawl", "changes", OLD, NEW, "--output", "c.parquet"]) == 0
    assert pq.read_table("c.parquet").num_rows == 7


@pytest.mark.parametrize("name", ["2026", "../" + OLD, ""])
def test_unknown_snapshot_error_lists_the_known_ones(kept: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["crawl", "changes", name, NEW]) == 2
    assert capsys.readouterr().err == f"error: unknown snapshot {name!r}; expected one of: {OLD}, {NEW}\n"


@pytest.mark.slow
def test_reads_old_snapshots_from_git_and_dvc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_env: dict[str, str]
) -> None:
    project, remote = tmp_path / "project", tmp_path / "remote"
    (project / "data/raw").mkdir(parents=True)
    monkeypatch.chdir(project)

    def call(*command: str) -> None:
        subprocess.run(command, env=git_env, check=True, stdout=subprocess.DEVNULL)

    def dvc(*arguments: str) -> None:
        call(sys.executable, "-m", "dvc", *arguments)

    stage = {"cmd": f"cp now.parquet {paths.PRODUCTS}", "params": ["crawl"], "outs": [str(paths.PRODUCTS)]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"crawl": stage}}))
    call("git", "init", "-q")
    dvc("init", "-q")
    dvc("remote", "add", "-q", "-d", "far", str(remote))
    for name, products in ((OLD, BEFORE), (NEW, AFTER)):
        Path("params.yaml").write_text(yaml.safe_dump({"crawl": {"snapshot": name, "source": "demo"}}))
        pq.write_table(products, "now.parquet")
        dvc("repro", "-q")
        call("git", "add", "-A")
        call("git", "commit", "-q", "-m", name)
    Path("README").write_text("not of interest")
    call("git", "add", "-A")
    call("git", "commit", "-q", "-m", "another")

    assert products_of(OLD).num_rows == 7
    assert products_of(OLD, ["taxonomy"]).column_names == ["taxonomy"]
    assert last_profiled_snapshot() == NEW, "nothing is remembered, but committed"
    assert report_changes(OLD, NEW, Path("c.csv")) == 0
    dvc("push", "-q", "--all-commits")
    shutil.rmtree(".dvc/cache")
    paths.PRODUCTS.unlink()
    assert products_of(OLD).num_rows == 7, "from the remote"
    with pytest.raises(InputError, match=rf"expected one of: {OLD}, {NEW}$"):
        products_of("another")

    shutil.rmtree(".dvc/cache", ignore_errors=True)
    shutil.rmtree(remote)
    with pytest.raises(InputError, match=r"expected it in DVC's cache or remote, got: .*dvc fetch --all-commits"):
        products_of(OLD)
