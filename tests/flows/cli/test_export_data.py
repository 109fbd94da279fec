"""`atlas export-data`: other libraries open what it writes, and the same splits give the same bytes."""

import json
import tarfile
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from atlas_model.data.images import Preprocessing
from atlas_model.data.schemas import SPLIT
from atlas_model.split.files import SplitWriter
from atlas_model.taxonomy.tree import Taxonomy
from flows import paths
from flows.cli.export_data import CARD, write_tars
from flows.cli.main import main
from flows.report.front_matter import dataset_front_matter
from tests.support.training_split import TAXONOMY, write_split


@pytest.fixture(autouse=True)
def splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 9), ("val", 3), ("test", 3)):
        write_split(name, count)
        (path,) = paths.SPLITS.glob(f"{name}-*")
        rows = pq.read_table(path).to_pylist()
        with SplitWriter(paths.SPLITS, name, count, Preprocessing(16, "L", "squash")) as writer:
            for row in rows:
                writer.append(row)
    Taxonomy(TAXONOMY.paths, ids={("Bright", "Left"): "7"}).save(paths.TAXONOMY)


def export(folder: str, form: str, *more: str) -> Path:
    assert main(["export-data", folder, "--format", form, *more]) == 0
    return Path(folder)


def test_webdataset_has_one_group_of_files_per_image() -> None:
    first, second = (export(name, "webdataset") for name in ("one", "two"))
    assert [path.name for path in sorted(first.iterdir())] == [
        "taxonomy.json",
        "test-000000.tar",
        "train-000000.tar",
        "val-000000.tar",
    ]
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), "the same bytes"
    samples: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    order = []
    with tarfile.open(first / "train-000000.tar") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")  # as readers of WebDataset group files
            order.append(key)
            content = tar.extractfile(member)
            assert content is not None
            samples[key][extension] = content.read()
    assert order == [key for key in samples for _ in range(3)], "the files of a sample are adjacent"
    rows = pq.read_table(next(paths.SPLITS.glob("train-*"))).to_pylist()
    assert list(samples) == [row["image_id"] for row in rows]
    for row in rows:
        sample = samples[row["image_id"]]
        assert sample["png"] == row["image"]["bytes"]
        about = json.loads(sample["json"])
        assert TAXONOMY.paths[int(sample["cls"])] == tuple(row["taxonomy"]) == tuple(about["taxonomy"])
        assert about["category_id"] == ("7" if row["label"] == "Bright > Left" else None)


def test_shards_do_not_exceed_their_size(tmp_path: Path) -> None:
    files = list(paths.SPLITS.glob("train-*"))
    assert write_tars(tmp_path, "train", files, TAXONOMY, max_bytes=20_480) == 9
    names: list[str] = []
    parts = sorted(tmp_path.glob("train-*.tar"))
    for path in parts:
        assert path.stat().st_size <= 20_480
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert len(parts) == 2
    assert len(set(names)) == len(names) == 27


OURS = dataset_front_matter(name="Ours", license="mit", features={}, splits={"train": 1, "val": 1}, size=1)


@pytest.mark.parametrize("card", [None, f"{OURS}\n# Ours\n", "# No front matter\n"])
def test_load_dataset_opens_the_hub_folder(card: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if card is not None:
        CARD.parent.mkdir(parents=True)
        CARD.write_text(card)
    folder = export("hub", "hub")
    readme = (folder / "README.md").read_text()
    assert (card or "").rpartition("---\n")[2] in readme
    assert ("license: mit" in readme) == (card is not None and "license" in card)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    data = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in data.items()} == {"train": 9, "validation": 3, "test": 3}
    row = data["train"][0]
    assert isinstance(row["image"], Image.Image)
    assert row["taxonomy"] == ["Bright", "Left"]
    assert row["category_id"] == "7"
    assert set(row) == {*SPLIT.names, "category_id"}


def test_refuses_a_folder_with_files(capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    assert main(["export-data", "full", "--format", "hub"]) == 2
    assert "new or empty folder" in capsys.readouterr().err
    assert [path.name for path in Path("full").iterdir()] == ["mine.txt"]
