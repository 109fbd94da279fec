"""Image sources (folders and Parquet files): which images, their order, and starting at any index."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from atlas_model.core.errors import ImageError, InputError
from atlas_model.data.image_files import SUFFIXES_OF
from atlas_model.data.image_sources import ImageSource, open_source
from atlas_model.data.images import FORMATS
from atlas_model.data.schemas import IMAGES, SPLIT

IMAGE = {"width": 1, "height": 1, "format": "PNG", "mode": "L", "orientation": 1, "n_frames": 1}


def images(numbers: range) -> pa.Table:
    rows = [{"image_id": f"id{number:03d}", "bytes": b"%d" % number, **IMAGE} for number in numbers]
    return pa.Table.from_pylist(rows, schema=IMAGES)


def read(source: ImageSource, first: int = 0) -> list[tuple[str, bytes]]:
    return [(image.name, image.read()) for image in source.start_at(first)]


def test_folder_lists_image_files_sorted_by_path(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/y.webp", "a-b/x.gif", "a/deep/er/w.avif", "notes.txt", "c.jpg/inside.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "linked.png").symlink_to(tmp_path / "notes.txt")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "linked-pipe.png").symlink_to("pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    source = open_source(tmp_path)
    expected = ["a/deep/er/w.avif", "a/y.webp", "a/z.JPG", "a-b/x.gif", "b.png", "c.jpg/inside.tiff"]
    assert read(source) == [*((name, name.encode()) for name in expected), ("linked.png", b"notes.txt")]
    assert source.count == 7
    assert [name for name, _ in read(source, 4)] == ["b.png", "c.jpg/inside.tiff", "linked.png"]
    assert read(source, 7) == []


def test_reads_all_supported_suffixes_and_counts_skipped_files(tmp_path: Path) -> None:
    Image.init()
    known = [suffix for suffix, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")]
    assert set(SUFFIXES_OF) == set(FORMATS)
    for suffix in (*known, *map(str.upper, known)):
        (tmp_path / f"image{suffix}").write_bytes(b"1")
    for name in ("._image.jpg", "a.txt", "b.TXT", "README", "vector.eps", "clip.mpg"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/._image.jpg").write_bytes(b"1")
    os.mkfifo(tmp_path / "pipe.png")
    source = open_source(tmp_path)
    assert source.count == 2 * len(known)
    assert source.skipped == {
        "AppleDouble": 2,
        ".txt": 2,
        "no suffix": 1,
        ".eps": 1,
        ".mpg": 1,
        "not a file": 1,
    }


def test_folder_without_images_reports_its_suffixes(tmp_path: Path) -> None:
    (tmp_path / "a.psd").write_bytes(b"1")
    with pytest.raises(InputError, match=r"expected images, got none \(1 file skipped, .*: \.psd 1\)"):
        open_source(tmp_path)


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_images_without_path_are_named_by_row(tmp_path: Path) -> None:
    cells = [{"bytes": b"%d" % row, "path": None if row % 2 else f"{row}.jpg"} for row in range(150)]
    pq.write_table(pa.table({"image": pa.array(cells, STRUCT)}), tmp_path / "b.parquet", row_group_size=40)
    nameless = [{"bytes": b"x", "path": ""}, {"bytes": b"y", "path": None}]
    pq.write_table(pa.table({"image": pa.array(nameless, STRUCT)}), tmp_path / "c.parquet")
    expected = [f"b.parquet#{row}" if row % 2 else f"{row}.jpg" for row in range(150)] + ["c.parquet#0", "c.parquet#1"]
    source = open_source(tmp_path)
    for first in (0, 1, 39, 40, 41, 95, 149, 150, 151):
        assert [image.name for image in source.start_at(first)] == expected[first:]


def test_reports_images_that_are_not_in_the_file(tmp_path: Path) -> None:
    cells = [{"bytes": None, "path": "a.jpg"}, None, {"bytes": b"", "path": "c.jpg"}]
    pq.write_table(pa.table({"image": pa.array(cells, STRUCT)}), tmp_path / "in.parquet")
    first, second, third = open_source(tmp_path / "in.parquet").start_at(0)
    for image, name in ((first, "a.jpg"), (second, "in.parquet#1")):
        with pytest.raises(ImageError, match=f"the image is not in the file: .* '{name}'") as caught:
            image.read()
        assert caught.value.status == "not_in_file"
    assert third.read() == b""


def test_broken_symlinks_fail_only_when_read(tmp_path: Path) -> None:
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "gone.png").symlink_to("gone")
    (tmp_path / "long.png").symlink_to("x" * 300)
    source = open_source(tmp_path)
    assert source.count == 3
    for image in source.start_at(0):
        with pytest.raises(OSError):
            image.read()


def test_refuses_files_over_the_size_limit(tmp_path: Path) -> None:
    with (tmp_path / "vast.png").open("wb") as file:
        file.truncate(2**40)  # a sparse file, which takes no disk space
    (image,) = open_source(tmp_path).start_at(0)
    with pytest.raises(ImageError, match="expected at most 500000000 bytes, got 1099511627776"):
        image.read()


def test_folder_depth_may_exceed_recursion_limit(tmp_path: Path) -> None:
    folders = [tmp_path / "/".join("d" * depth) for depth in range(1, 1100)]
    for folder in folders:
        folder.mkdir()
    image = folders[-1] / "a.png"
    image.write_bytes(b"1")
    assert open_source(tmp_path).count == 1
    image.unlink()
    for folder in reversed(folders):  # pytest cleans up with `shutil.rmtree`, which recurses
        folder.rmdir()


def test_undecodable_file_name_gets_replacement_character(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))).write_bytes(b"1")
    assert read(open_source(tmp_path)) == [("\N{REPLACEMENT CHARACTER}.png", b"1")]


@pytest.mark.parametrize("group", [1, 3, 70, 1000])
def test_reads_shards_in_name_order_from_any_row(tmp_path: Path, group: int) -> None:
    pq.write_table(images(range(100, 180)), tmp_path / "part-1.parquet", row_group_size=group)
    pq.write_table(images(range(100)), tmp_path / "part-0.parquet", row_group_size=group)
    pq.write_table(images(range(0)), tmp_path / "part-00.parquet")
    source = open_source(tmp_path)
    everything = [(f"id{number:03d}", b"%d" % number) for number in range(180)]
    assert source.count == 180
    for first in (0, 1, 2, 3, 63, 64, 69, 70, 99, 100, 101, 170, 179, 180):
        assert read(source, first) == everything[first:]
    assert read(open_source(tmp_path / "part-0.parquet")) == everything[:100]


def test_names_are_image_id_in_splits_and_path_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    row = {"image": {"bytes": b"1", "path": "1.png"}, "image_id": "one", "product_id": "p", "title": "", "taxonomy": []}
    pq.write_table(pa.Table.from_pylist([{**row, "label": "", "split": "val"}], schema=SPLIT), file)
    assert read(open_source(file)) == [("one", b"1")]
    pq.write_table(pa.table({"image": [{"bytes": b"1", "path": "x"}, {"bytes": b"2", "path": "y"}]}), file)
    assert read(open_source(file)) == [("x", b"1"), ("y", b"2")]


def test_key_changes_with_the_source(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "a.parquet"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    pq.write_table(images(range(3)), file)
    keys = {open_source(folder).key, open_source(file).key}
    assert keys == {open_source(folder).key, open_source(file).key}
    os.utime(folder / "a.png", (1, 1))
    os.utime(file, (1, 1))
    keys |= {open_source(folder).key, open_source(file).key}
    (folder / "a.png").rename(folder / "b.png")
    keys.add(open_source(folder).key)
    (folder / "c.png").touch()
    keys.add(open_source(folder).key)
    assert len(keys) == 6


def test_invalid_source_reports_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got nothing of that name"):
        open_source(tmp_path / "missing")
    with pytest.raises(InputError, match="expected images, got none"):
        open_source(tmp_path)
    file = tmp_path / "a.parquet"
    file.write_text("a,b")
    with pytest.raises(InputError, match="expected a Parquet file"):
        open_source(file)
    pq.write_table(pa.table({"image": ["a.png"], "id": [1]}), file)
    with pytest.raises(InputError, match=r"image_id and bytes .* got image \(string\), id \(int64\)"):
        open_source(tmp_path)
    for column in (pa.array(["aGk="]), pa.array([[1, 2]])):
        pq.write_table(pa.table({"image_id": ["1"], "bytes": column}), file)
        with pytest.raises(InputError, match=r"bytes \(binary\).* got image_id \(string\), bytes"):
            open_source(tmp_path)
    pq.write_table(images(range(0)), file)
    with pytest.raises(InputError, match="expected images, got none"):
        open_source(file)


def test_reports_damaged_parquet_file(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(images(range(1000)), file, row_group_size=500, compression="zstd")
    data = bytearray(file.read_bytes())
    start = pq.ParquetFile(file).metadata.row_group(1).column(1).dictionary_page_offset
    data[start : start + 500] = bytes(500)
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet: expected a whole Parquet file"):
        list(open_source(file).start_at(400))


def test_product_id_comes_from_folder_or_column(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/deep/2.png", "a/3.png", "b.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    found = [(image.name, image.product_id) for image in open_source(tmp_path / "in", products=True).start_at(0)]
    assert found == [("a/1.png", "a"), ("a/3.png", "a"), ("a/deep/2.png", "a/deep"), ("b.png", "b.png")]
    table = images(range(5)).append_column("product_id", pa.array(["x", "y", "x", "", "y"]))
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    later = list(open_source(tmp_path / "in.parquet", products=True).start_at(1))
    assert [image.product_id for image in later] == ["y", "x", "", "y"]
    assert {image.product_id for image in open_source(tmp_path / "in.parquet").start_at(0)} == {None}
