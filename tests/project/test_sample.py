"""The sample in data/: what it promises, and that its build is repeatable."""

import csv
import gzip
import hashlib
import struct
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.params import load_params
from atlas_model.data.images import decode
from atlas_model.data.schemas import LABELLED, read_table
from atlas_model.taxonomy.files import load_taxonomy, split_path
from crawlers.files.entries import Columns
from crawlers.files.products import check_table
from crawlers.files.table import read_rows
from crawlers.shop.catalogue import SAMPLE, SAMPLE_SCHEMA
from crawlers.shop.drawing import GARMENT, WholeView, draw, find_close_up
from tests.support.paths import ROOT
from tools import build_sample, fashion_mnist

DATA = SAMPLE.parent
LABELLED_FOLDER = DATA / "zoom/labelled"


@pytest.fixture(scope="module")
def sample() -> dict[str, list]:
    return read_table(SAMPLE, SAMPLE_SCHEMA, made_by="tools/build_sample.py").to_pydict()


@pytest.fixture(scope="module")
def labelled() -> list[dict]:
    return read_table(LABELLED_FOLDER, LABELLED, made_by="tools/build_sample.py").to_pylist()


def test_sample_size_is_within_limits(sample: dict[str, list]) -> None:
    assert len(set(sample["pixels"])) == len(sample["pixels"]) >= 10_000
    assert sum(sample["served"]) >= 8_000
    assert set(Counter(sample["label"]).values()) == {build_sample.SERVED_PER_CLASS + build_sample.LABELLED_PER_CLASS}
    kept = [SAMPLE, DATA / "sources.csv", DATA / "taxonomy.csv", DATA / "README.md", *LABELLED_FOLDER.iterdir()]
    assert sum(path.stat().st_size for path in kept) <= 8_000_000


def test_labelled_images_are_not_in_the_shop(sample: dict[str, list], labelled: list[dict]) -> None:
    unserved = {
        f"fashion-mnist/train/{index}"
        for index, served in zip(sample["index"], sample["served"], strict=True)
        if not served
    }
    assert {row["source_id"] for row in labelled} == unserved
    assert len(labelled) <= 1_600
    assert min(Counter(row["label"] for row in labelled).values()) >= 600
    for row in labelled[::50]:
        assert row["image_id"] == hashlib.sha256(row["bytes"]).hexdigest()
        assert decode(row["bytes"]).size == (112, 112)


def test_blur_alone_does_not_separate_zoomed_from_normal(labelled: list[dict]) -> None:
    zoomed = np.array([row["label"] == "zoomed" for row in labelled])
    pixels = np.stack([np.asarray(decode(row["bytes"]), dtype=np.float64) for row in labelled])
    across, down = np.abs(np.diff(pixels, 2, axis=2)), np.abs(np.diff(pixels, 2, axis=1))
    sharpness = np.maximum(np.quantile(across, 0.99, axis=(1, 2)), np.quantile(down, 0.99, axis=(1, 2)))
    order = np.argsort(sharpness)
    hits = np.cumsum(zoomed[order])
    best_f1 = (2 * hits / (np.arange(1, len(order) + 1) + zoomed.sum())).max()
    assert best_f1 < 0.85


def test_close_ups_show_garment_only(sample: dict[str, list]) -> None:
    found = 0
    for content in sample["pixels"][:100]:
        pixels = np.frombuffer(content, dtype=np.uint8).reshape(28, 28)
        close_up = find_close_up(pixels, Random(1))
        if close_up is not None:
            rows, columns = (slice(start, start + close_up.side) for start in (close_up.top, close_up.left))
            assert 8 <= close_up.side <= 12
            assert (pixels[rows, columns] > GARMENT).mean() >= 0.97
            found += 1
    assert found >= 60
    assert find_close_up(np.zeros((28, 28), dtype=np.uint8), Random(1)) is None


def test_drawn_views_match_their_description() -> None:
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[10, 5] = 255
    drawn = np.asarray(draw(pixels, WholeView(mirrored=True, right=1, down=-1)))
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (row // 4, column // 4) == (9, 23)  # mirrored: 27 - 5 = 22, then 1 to the right; 1 up


def test_taxonomy_and_sources_agree() -> None:
    taxonomy = load_taxonomy(DATA / "taxonomy.csv")
    assert len(taxonomy) == 10 and {len(path) for path in taxonomy.paths} == {3}
    with (DATA / "sources.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [split_path(row.pop("Taxonomy")) for row in rows] == list(taxonomy.paths)
    urls = [(host, url) for row in rows for host, url in row.items() if url]
    assert all(url.startswith(f"http://{host}/") for host, url in urls)
    assert 20 <= len(urls) == len(set(urls)) < 30  # some shops do not sell everything


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, sample: dict[str, list]) -> Path:
    """A small data set in Fashion-MNIST's format; its first image stands in it twice."""
    by_label: dict[int, list[bytes]] = {}
    for label, content in zip(sample["label"], sample["pixels"], strict=True):
        if len(by_label.setdefault(label, [])) < 15:
            by_label[label].append(content)
    pairs = [(label, content) for label, contents in by_label.items() for content in [*contents, contents[0]]]
    folder = tmp_path_factory.mktemp("fashion-mnist")
    header = struct.pack(">IIII", 0x803, len(pairs), 28, 28)
    images, labels = fashion_mnist.IMAGES["train"], fashion_mnist.LABELS["train"]
    (folder / images).write_bytes(gzip.compress(header + b"".join(content for _, content in pairs)))
    content = struct.pack(">II", 0x801, len(pairs)) + bytes(label for label, _ in pairs)
    (folder / labels).write_bytes(gzip.compress(content))
    return folder


def test_build_is_reproducible(source: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_sample.build(source, tmp_path / name, served=10, labelled=5)
    one, two = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert one == two
    made = read_table(tmp_path / "one/sample.parquet", SAMPLE_SCHEMA, made_by="").to_pydict()
    assert len(set(made["pixels"])) == len(made["pixels"]) == 150  # the twin was left out
    assert sum(made["served"]) == 100
    for name in ("sources.csv", "taxonomy.csv"):
        assert one[Path(name)] == (DATA / name).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not fashion_mnist.DEBIAN.exists(), reason="the Debian package dataset-fashion-mnist is not here")
def test_data_in_git_equal_script_output(tmp_path: Path) -> None:
    build_sample.build(fashion_mnist.DEBIAN, tmp_path)
    for made in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert made.read_bytes() == (DATA / made.relative_to(tmp_path)).read_bytes(), made.name


def test_names_missing_and_broken_sources(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"dataset-fashion-mnist.*torchvision.*FashionMNIST/raw"):
        fashion_mnist.find_folder([tmp_path], "train")
    path = tmp_path / fashion_mnist.IMAGES["train"]
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="gzipped IDX"):
        fashion_mnist.read_idx(path, 3)
    path.write_bytes(gzip.compress(struct.pack(">II", 0x801, 0)))
    with pytest.raises(InputError, match="3 dimensions"):
        fashion_mnist.read_idx(path, 3)


def test_example_table_in_data_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    given = load_params(ROOT / "params.yaml").crawl.files
    monkeypatch.chdir(ROOT)
    columns = Columns(**given.columns.model_dump())
    check_table(given.table, images=given.images, separator=given.separator, columns=columns)
    rows = [row.fields or {} for row in read_rows(given.table)]
    assert all((given.images / row["image"]).is_file() for row in rows)
