"""The published benchmark: its splits, its parameters, and that it is a DVC project of its own."""

import gzip
import json
import struct
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from atlas_model.core.errors import InputError, RetryError
from atlas_model.core.params import load_params
from atlas_model.data.dataset import load_split, load_taxonomy_json
from atlas_model.data.images import to_array
from atlas_model.data.schemas import read_table
from atlas_model.model.saved_models import load_categorizer
from benchmarks.fashion_mnist import prepare, publish
from crawlers.shop.catalogue import SAMPLE, SAMPLE_SCHEMA
from crawlers.shop.wording import KINDS
from flows import paths
from flows.stages.entry import read_metrics, write_metrics
from tests.support.paths import ROOT
from tools import fashion_mnist

FOLDER = ROOT / "benchmarks/fashion_mnist"
PUBLISHED = ROOT / "models/fashion_mnist"
STAGES: dict[str, Any] = yaml.safe_load((FOLDER / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS = load_params(FOLDER / "params.yaml")
Parts = dict[Any, tuple[np.ndarray, np.ndarray]]  # train, test -> images, labels


def write_part(folder: Path, part: fashion_mnist.Part, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        (fashion_mnist.IMAGES[part], struct.pack(">IIII", 0x803, *images.shape) + images.tobytes()),
        (fashion_mnist.LABELS[part], struct.pack(">II", 0x801, len(labels)) + labels.tobytes()),
    ):
        (folder / name).write_bytes(gzip.compress(content, compresslevel=1))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Tiny official files where the Debian package would have them; the current folder is an empty one."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    pixels = np.random.default_rng(1).integers(0, 256, (260, 28, 28), dtype=np.uint8)
    pixels[240] = pixels[0]  # the first test image is a training image, too
    labels = np.arange(260, dtype=np.uint8) % 10
    parts: Parts = {"train": (pixels[:240], labels[:240]), "test": (pixels[240:], labels[240:])}
    for part, (images, labels) in parts.items():
        write_part(tmp_path / "debian", part, images, labels)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return parts


def test_official_parts_become_splits(source: Parts) -> None:
    prepare.run(PARAMS)
    taxonomy = load_taxonomy_json(paths.TAXONOMY)
    loaded = {name: load_split(paths.SPLITS, name, taxonomy, paths.WORK) for name in ("train", "val", "test")}
    for name, split in loaded.items():
        for product_id, image, path in zip(split.product_ids, split.pixels, split.paths, strict=True):
            _, part, index = product_id.split("/")
            images, labels = source[part]
            assert (part == "test") is (name == "test")
            assert np.array_equal(image[0], images[int(index)])
            assert taxonomy.paths[path] == KINDS[labels[int(index)]].taxonomy
    metrics = read_metrics("prepare")
    assert metrics == {"train": 217, "val": 23, "test": 20, "val_also_in_train": 0, "test_also_in_train": 1}
    first = {path.name: path.read_bytes() for path in paths.SPLITS.iterdir()}
    prepare.run(PARAMS)
    assert first == {path.name: path.read_bytes() for path in paths.SPLITS.iterdir()}, "the same bytes again"


@pytest.mark.slow  # to import torchvision's data sets
def test_falls_back_to_torchvision_download_and_names_both_sources_on_failure(
    tmp_path: Path, source: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas_model.data import torchvision_compat  # noqa: F401 - lets that import work beside a CPU-only torch

    dataset = import_module("torchvision.datasets").FashionMNIST
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "not installed")
    monkeypatch.setattr(dataset, "mirrors", ["http://127.0.0.1:9/"])  # nothing listens there
    with pytest.raises(RetryError, match=r"dataset-fashion-mnist.*torchvision.*The download failed: "):
        prepare.run(PARAMS)

    def download(self: object, root: str, download: bool) -> None:
        (tmp_path / "debian").rename(Path(root) / fashion_mnist.DOWNLOADED)  # the failed attempt left an empty folder

    monkeypatch.setattr(dataset, "__init__", download)
    prepare.run(PARAMS)
    assert read_metrics("prepare")["test"] == 20


def test_refuses_labels_that_do_not_match_images(tmp_path: Path) -> None:
    write_part(tmp_path, "train", np.zeros((3, 28, 28), np.uint8), np.zeros(2, np.uint8))
    with pytest.raises(InputError, match="2 labels for 3 images of train"):
        fashion_mnist.read_part(tmp_path, "train")


def test_publishes_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(publish, "RESULT", tmp_path / "fashion-mnist.json")
    both = ("categorizer", "baseline")
    of_stages: dict[str, dict[str, Any]] = {
        "prepare": {"train": 3},
        "train": {name: {"epochs": 2} for name in both},
        "evaluate": {"test": {"micro_f1": 0.5}, "val": {"micro_f1": 0.6}, "baseline": {"test": {"micro_f1": 0.4}}},
    }
    for stage, figures in of_stages.items():
        write_metrics(stage, {}, figures)
    publish.run(PARAMS)
    trained = {name: {"epochs": 2} for name in both}
    assert json.loads((tmp_path / "fashion-mnist.json").read_text())["training"] == trained
    write_metrics("train", {}, trained, {"categorizer": {"seconds": 7.0}})
    publish.run(PARAMS)
    result = json.loads((tmp_path / "fashion-mnist.json").read_text())
    assert (result["micro_f1"], result["baseline"]["micro_f1"]) == (0.5, 0.4)
    assert result["training"]["categorizer"] == {"epochs": 2, "seconds": 7.0}
    assert result["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_stages_equal_those_of_the_project(stage: str) -> None:
    theirs = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    there = [
        f"../../{dep}" if dep.startswith(("flows/", "crawlers/", "atlas_model/")) else dep for dep in theirs["deps"]
    ]
    assert STAGES[stage] == {**theirs, "deps": there}


def test_inputs_exist_or_are_outputs() -> None:
    made = {out for stage in STAGES.values() for out in stage.get("outs", []) if isinstance(out, str)}
    made |= {next(iter(metric)) for stage in STAGES.values() for metric in stage.get("metrics", [])}
    for stage in STAGES.values():
        for dep in stage["deps"]:
            assert dep in made or (FOLDER / dep).exists(), dep


def test_is_a_dvc_project_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.dvc import repo

    monkeypatch.chdir(FOLDER)
    assert repo.stage_names() == ["prepare", "train", "evaluate", "publish"]
    config = (ROOT / ".dvc/config").read_text(encoding="utf-8").replace("plots.html", "../../../.dvc/plots.html")
    assert (FOLDER / ".dvc/config").read_text(encoding="utf-8") == config
    assert (FOLDER / ".dvc" / "../../../.dvc/plots.html").is_file()


# --- what came of it


def test_published_metrics_are_of_the_bundled_model() -> None:
    result = json.loads(publish.RESULT.read_text(encoding="utf-8"))
    description = json.loads((PUBLISHED / "model.json").read_text(encoding="utf-8"))
    assert (PUBLISHED / "model.safetensors").stat().st_size <= 5_000_000
    assert description["metrics"]["val_accuracy"] == result["training"]["categorizer"]["val_accuracy"]
    assert description["temperature"] == result["training"]["categorizer"]["temperature"]
    # Keys that came later are off there: they change nothing of what was published.
    assert description["params"].items() <= PARAMS.train.model_dump(mode="json").items()
    for text in (PUBLISHED / "README.md", ROOT / "docs/fashion-mnist.md"):
        words = text.read_text(encoding="utf-8").replace("**", "").split()
        for figure in (result["micro_f1"], result["ece"], *result["intervals"]["micro_f1"]):
            assert any(word.strip("|,;:()").startswith(f"{figure:.4f}".lstrip("0")) for word in words), (text, figure)


def test_published_model_classifies_training_images() -> None:
    model, preprocessing = load_categorizer(PUBLISHED, torch.device("cpu"))
    assert model.taxonomy.paths == tuple(kind.taxonomy for kind in KINDS)
    sample = read_table(SAMPLE, SAMPLE_SCHEMA, "").slice(0, 200).to_pydict()
    images = [Image.frombytes("L", (28, 28), pixels) for pixels in sample["pixels"]]
    batch = torch.from_numpy(np.stack([to_array(preprocessing.apply(image)) for image in images]))
    assert (model.best_path(batch).numpy() == np.array(sample["label"])).mean() >= 0.93
