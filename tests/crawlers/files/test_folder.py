"""Folders as categories, and access to files inside one folder only."""

import os
from pathlib import Path

import pytest

from atlas_model.core.errors import InputError, MissingError
from atlas_model.data.schemas import IMAGES, read_table
from crawlers.files.folder import Folder, RefusedError
from flows import paths
from tests.support.fetching import jpeg
from tests.support.file_source import products_of, put, run, write_csv


def test_reads_folders_as_categories(here: Path) -> None:
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


def test_rejects_another_folder_as_table(here: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        products_of(Path("photos"))
    Path("other").mkdir()
    with pytest.raises(InputError, match=r"crawl.files.table and crawl.files.images must name the same folder"):
        products_of(Path("other"))


def test_reads_no_file_outside_the_folder(here: Path) -> None:
    secret = here.parent / "secret.jpg"
    secret.write_bytes(jpeg("secret"))
    put("in/a.jpg")
    (here.parent / "photos-2").mkdir()
    (here.parent / "photos-2/b.jpg").write_bytes(jpeg("secret"))
    links: dict[str, str | Path] = {
        "link.jpg": secret,
        "up": here.parent,
        "far": "/",
        "near": "in",
        "relative.jpg": "../../secret.jpg",
    }
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


def test_does_not_follow_a_link_created_while_opening(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert caught.value.status in ("outside_folder", "not_found")  # which one depends on the system


def test_missing_folder_is_named_in_the_error(here: Path) -> None:
    table = write_csv("a.jpg,A,x")
    Path("photos").rmdir()
    with pytest.raises(MissingError, match="photos: expected a folder of images, got nothing"):
        run(table)
