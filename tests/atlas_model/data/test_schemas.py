"""Reading, writing and validation of tables and shards with a schema."""

import hashlib
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas_model.core.errors import InputError, MissingError
from atlas_model.data.schemas import PRODUCTS, SCORES, ShardWriter, iterate_shards, read_table, shard_paths, write_table

MEASURES = ("brightness_low", "brightness_high", "entropy", "blur_64", "blur_32")
SCORE = {"image_id": "a", "p_zoomed": 0.5, "keep": True, "reason": "normal", "phash": 2**64 - 1}
SCORE |= dict.fromkeys(MEASURES, 0.5)


def scores(count: int) -> list[dict[str, object]]:
    return [{**SCORE, "image_id": f"{number:03d}"} for number in range(count)]


def test_table_round_trips(tmp_path: Path) -> None:
    product = {
        "product_id": "shop/1",
        "site": "shop",
        "page_url": None,
        "title": "Größe 38",
        "price": Decimal("12.50"),
        "currency": "CHF",
        "availability": "InStock",
        "brand": "Acme",
        "gtin": "4006381333931",
        "mpn": None,
        "breadcrumb": [],
        "taxonomy": ["A", "B"],
        "details": [("colour", "red")],
        "image_urls": ["http://shop/1.jpg"],
        "split_hint": None,
        "field_sources": [("title", "json-ld")],
    }
    table = pa.Table.from_pylist([product], schema=PRODUCTS)
    write_table(tmp_path / "products.parquet", table, PRODUCTS)
    assert read_table(tmp_path / "products.parquet", PRODUCTS, "crawl").to_pylist() == [product]


def test_refuses_missing_required_value(tmp_path: Path) -> None:
    table = pa.table({name: pa.array([None], type=SCORES.field(name).type) for name in SCORES.names})
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        write_table(tmp_path / "scores.parquet", table, SCORES)
    assert list(tmp_path.iterdir()) == []


def test_columns_are_in_the_requested_order(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", pa.Table.from_pylist(scores(1), schema=SCORES), SCORES)
    table = read_table(tmp_path / "a.parquet", SCORES, "zoom", columns=["phash", "image_id"])
    assert table.column_names == ["phash", "image_id"]
    assert table["phash"].to_pylist() == [2**64 - 1]


def test_ignores_columns_outside_the_schema(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(scores(1), schema=SCORES).append_column("more", pa.array([1]))
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet", SCORES, "zoom").schema.names == SCORES.names


def test_reports_missing_columns_with_remedy(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"missing: p_zoomed, keep, reason, phash.*run the stage"):
        read_table(tmp_path / "a.parquet", SCORES, "zoom")


def test_missing_file_names_the_stage_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="dvc repro zoom"):
        read_table(tmp_path / "a.parquet", SCORES, "zoom")
    with pytest.raises(MissingError, match="dvc repro zoom"):
        read_table(tmp_path, SCORES, "zoom")


@pytest.mark.parametrize("content", [b"", b"PAR1 not really PAR1", b"\x00" * 1000])
def test_reports_file_that_is_not_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: expected a Parquet file"):
        read_table(tmp_path / "a.parquet", SCORES, "zoom")


@pytest.mark.parametrize(("rows", "sizes"), [(0, [0]), (3, [3]), (4, [3, 1]), (6, [3, 3])])
def test_shards_have_bounded_size_and_keep_order(tmp_path: Path, rows: int, sizes: list[int]) -> None:
    folder = tmp_path / "shards"
    with ShardWriter(folder, SCORES, rows_per_shard=3) as writer:
        for row in scores(rows):
            writer.append(row)
        assert not folder.exists(), "the folder appears only when complete"
    assert [path.name for path in shard_paths(folder, "zoom")] == [f"part-{n:05d}.parquet" for n in range(len(sizes))]
    assert [pq.read_metadata(path).num_rows for path in shard_paths(folder, "zoom")] == sizes
    assert read_table(folder, SCORES, "zoom")["image_id"].to_pylist() == [row["image_id"] for row in scores(rows)]
    batches = list(iterate_shards(folder, SCORES, "zoom", batch_rows=2))
    assert all(len(batch) <= 2 for batch in batches)
    assert sum(len(batch) for batch in batches) == rows


def test_failed_write_keeps_old_shards(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with ShardWriter(folder, SCORES, 2) as writer:
        writer.append(SCORE)
    with pytest.raises(RuntimeError), ShardWriter(folder, SCORES, 2) as writer:
        for row in scores(5):
            writer.append(row)
        raise RuntimeError
    assert read_table(folder, SCORES, "zoom").to_pylist() == [SCORE]
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_equal_rows_give_identical_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name, SCORES, 2) as writer:
            for row in scores(5):
                writer.append(row)
        data = b"".join(path.read_bytes() for path in shard_paths(tmp_path / name, "zoom"))
        digests.add(hashlib.sha256(data).hexdigest())
    assert len(digests) == 1
