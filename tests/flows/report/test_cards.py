"""The model card and the data card: the Hub's libraries read them, and their figures are those of the stages."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Image, load_dataset
from huggingface_hub import DatasetCard, ModelCard

from atlas_model.core.errors import ParamsError
from atlas_model.core.params import load_params
from flows import paths
from flows.stages import report
from flows.text import in_markdown, share
from tests.support.report_runs import EACH, categories, write_run

NAMES = ("micro_f1", "macro_f1", "hierarchical_f1", "ece")
STATED = """\
  title: "Shoes: 2026"
  description: Shoes & bags <b>.
  contact: catalogue@example.org
  intended_use: Sorting new products.
  license: apache-2.0
  data_license: cc-by-4.0
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "project"
    write_run(folder, [*categories(4), ("A | B", "*bold* <i", "`c`")], reads_titles=True, sites=["shop-a.test"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report.run(load_params())
    return folder


def card(folder: Path, name: str) -> Path:
    return folder / paths.CARDS / name / "README.md"


def evaluated(folder: Path) -> dict[str, Any]:
    return json.loads((folder / paths.EVALUATION / "metrics.json").read_text())


def test_hub_reads_results_of_model_card(run: Path) -> None:
    found = ModelCard.load(card(run, "model"))
    assert (found.data.license, found.data.library_name) == ("unknown", "atlas")
    assert found.data.pipeline_tag == "image-classification"
    assert "multimodal" in found.data.tags
    modes = evaluated(run)["modes"]
    results = {(each.task_name, each.metric_name): each for each in found.data.eval_results}
    assert len(results) == 3 * len(NAMES)
    for key, words in (("image", "image"), ("title", "title"), ("image_and_title", "image and title")):
        of_mode = [each for (task, _), each in results.items() if task == f"product category path from {words}"]
        assert [each.metric_value for each in of_mode] == [float(f"{modes[key][name]:.4g}") for name in NAMES]
        assert {each.dataset_split for each in of_mode} == {"test"}


def test_text_of_model_card_has_figures_of_evaluation(run: Path) -> None:
    text, test = card(run, "model").read_text(), evaluated(run)["test"]
    for key in NAMES:
        low, high = test["intervals"][key]
        assert f"(`{key}`) | {share(test[key])} ({share(low)} to {share(high)}) |" in text
    for number, level in enumerate(test["level_accuracy"], start=1):
        assert f"| Correct down to level {number} | {share(level)} |" in text
    assert "unknown: its owner has not stated it" in text
    assert "Unknown: the owner of this model has not stated it (`report.intended_use` in params.yaml)." in text
    rows = re.findall(r"^\| (.*) \| (\d+) \| \S+ \| \S+ \| \S+ \|$", text, re.MULTILINE)
    assert dict(rows)[in_markdown("A | B > *bold* <i > `c`")] == str(EACH["test"])
    assert "<i" not in text, "names are escaped"


@pytest.mark.slow  # datasets takes seconds to import and to read
def test_data_card_describes_files_of_splits(run: Path, tmp_path: Path) -> None:
    found = DatasetCard.load(card(run, "data"))
    assert (found.data.license, found.data.size_categories) == ("unknown", ["n<1K"])
    assert found.data.task_categories == ["image-classification"]
    folder = tmp_path / "data"
    shutil.copytree(run / paths.SPLITS, folder)
    (folder / paths.TAXONOMY.name).unlink()
    shutil.copy2(card(run, "data"), folder)
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {name: 5 * count for name, count in EACH.items()}
    assert isinstance(loaded["test"].features["image"], Image)
    assert [feature["name"] for feature in found.data.dataset_info["features"]] == loaded["test"].column_names
    counts = {split["name"]: split["num_examples"] for split in found.data.dataset_info["splits"]}
    assert counts == {name: len(split) for name, split in loaded.items()}
    text = card(run, "data").read_text()
    assert "| Close-up | 5 |" in text
    assert "excluded by robots.txt 1" in text
    assert "Images that the robots.txt of their host excludes were not downloaded." in text


def test_cards_state_what_params_state(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    shutil.copytree(run, folder)
    monkeypatch.chdir(folder)
    before = Path("params.yaml").read_text()
    text = re.sub(r"(?<=^report:\n)(  \w+: .*\n){6}", lambda _: STATED, before, flags=re.MULTILINE)
    Path("params.yaml").write_text(text)
    report.run(load_params())
    model, data = (card(folder, name).read_text() for name in ("model", "data"))
    of_model, of_data = ModelCard(model).data.to_dict(), DatasetCard(data).data.to_dict()
    assert (of_model["license"], of_data["license"]) == ("apache-2.0", "cc-by-4.0")
    assert of_model["model-index"][0]["name"] == of_data["pretty_name"] == "Shoes: 2026"
    assert "Sorting new products." in model
    assert in_markdown("Shoes & bags <b>.") in model
    assert in_markdown("catalogue@example.org") in model
    Path("params.yaml").write_text(text.replace("apache-2.0", "Our own licence"))
    with pytest.raises(ParamsError, match=r"report\.license"):
        load_params()
