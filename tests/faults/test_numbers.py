"""Numbers that lie: where a metric cannot be computed, or a result means nothing, the run says so."""

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Reply
from tests.support.small_shop import CATEGORIES, SmallProject, SmallShop, small_shop

pytestmark = pytest.mark.timeout(900)
LATE = ("split", "train", "evaluate", "report")  # stages after the images and scores are there
SPLIT_OUTPUTS = ("data/splits", "reports/split")


def _at(root: Path) -> SmallProject:
    """The project in ``root``, whose parameters can be changed."""
    project = object.__new__(SmallProject)
    project.root = root
    return project


class Runs:
    """A project whose images are there, and copies of it in which a test changes something."""

    def __init__(self, project: SmallProject, folder: Path) -> None:
        self.project, self.folder = project, folder

    def stage(self, root: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m command`` in ``root``."""
        return subprocess.run(
            ["python", "-m", *command],
            cwd=root,
            env=self.project.env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def completed(self, root: Path, *stages: str) -> str:
        """What the stages, which must succeed, say."""
        said = ""
        for stage in stages:
            done = self.stage(root, f"flows.stages.{stage}")
            assert done.returncode == 0, done.stderr
            said += done.stderr
        return said

    def copy(self, name: str, changes: dict[str, dict[str, object]]) -> Path:
        root = self.folder / name
        left_out = shutil.ignore_patterns("__pycache__", ".atlas", "tests", "docs", "benchmarks")
        shutil.copytree(self.project.root, root, ignore=left_out)
        _at(root).set(changes)
        return root


@pytest.fixture(scope="module")
def shop() -> Iterator[SmallShop]:
    with small_shop() as shop:
        yield shop


@pytest.fixture(scope="module")
def runs(
    shop: SmallShop,
    tmp_path_factory: pytest.TempPathFactory,
    copy_project: Callable[[Path], Path],
    git_env: dict[str, str],
    warm_python: Path,
) -> Runs:
    folder = tmp_path_factory.mktemp("numbers")
    project = SmallProject(copy_project(folder / "project"), shop, git_env, warm_python)
    project.set({"zoom": {"enabled": False}})
    runs = Runs(project, folder)
    runs.completed(project.root, "crawl", "fetch", "zoom_train", "zoom")
    return runs


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, f"{done.returncode}: {done.stderr}"
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, float):
        yield value


def no_nan(root: Path) -> None:
    """No file that people or programs read has a NaN."""
    for file in [*root.glob("metrics/*.json"), *root.glob("reports/*/metrics.json")]:
        found = json.loads(file.read_text(), parse_constant=pytest.fail)
        assert all(number == number for number in numbers(found))
    texts = [*root.glob("reports/cards/*/README.md"), *root.glob("plots/**/*.csv"), root / "reports/report.html"]
    texts.append(root / "reports/evaluate/categories.csv")
    for file in filter(Path.is_file, texts):
        shown = re.sub(r"<script.*?</script>|<style.*?</style>", "", file.read_text(), flags=re.DOTALL)
        assert not re.search(r"(?<![\w/+])(nan|NaN|inf|Infinity)(?![\w/+=])", shown), file


@pytest.mark.soak
def test_diverged_training_stops_with_a_sentence(runs: Runs) -> None:
    root = runs.copy("diverged", {"train": {"decoder_lr": 1e38, "encoder_lr": 1e38}})
    runs.completed(root, "split")
    refused(runs.stage(root, "flows.stages.train"), 1, "training diverged", "Lower train.encoder_lr")
    assert not (root / "models/categorizer").exists(), "nobody predicts with it"


@pytest.mark.slow
def test_downloads_that_all_fail_stop_the_run(runs: Runs, shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    root = runs.copy("no-downloads", {})
    before = (root / "data/images/refs.parquet").read_bytes()
    reply = shop.reply
    monkeypatch.setattr(shop, "reply", lambda path: Reply("", 404) if path.startswith("/i/") else reply(path))
    refused(runs.stage(root, "flows.stages.fetch"), 1, "none of 48 image URLs yielded an image: http_404 48")
    assert (root / "data/images/refs.parquet").read_bytes() == before, "the last images are kept"


@pytest.mark.slow
def test_split_without_images_stops_the_run(runs: Runs) -> None:
    root = runs.copy("empty", {"split": {"val_share": 0.001, "test_share": 0.001}})
    (root / "data/taxonomy.csv").write_text("taxonomy\nBags\n")
    done = runs.stage(root, "flows.stages.split")
    refused(done, 2, "expected images in every split, got none in", "not_in_taxonomy 36")


@pytest.mark.soak
def test_images_that_are_all_close_ups_stop_the_run(runs: Runs) -> None:
    root = runs.copy("zoomed", {"zoom": {"enabled": True, "threshold": 0.0, "max_share": 0.9}})
    runs.completed(root, "zoom_train")
    refused(runs.stage(root, "flows.stages.zoom"), 2, "classifies 48 images (100%) as close-ups", "zoom.enabled: false")
    _at(root).set({"zoom": {"max_share": 1.0}})
    runs.completed(root, "zoom")
    refused(runs.stage(root, "flows.stages.split"), 2, "expected images in every split", "zoomed 48")


@pytest.mark.slow
def test_category_without_images_is_unknown_in_every_report(runs: Runs) -> None:
    root = runs.copy("lost", {})
    with (root / "data/taxonomy.csv").open("a") as file:
        file.write("Hats\n")
    said = runs.completed(root, *LATE)
    assert re.search(r"without training images: .*'Hats'", said), said
    assert re.search(r"without (test|training) images: ", said), said
    no_nan(root)
    categories = list(csv.DictReader((root / "reports/evaluate/categories.csv").read_text().splitlines()))
    for row in categories:
        assert (row["recall"] == "") == (row["f1"] == "") == (row["n"] == "0"), row
    of_test = {row["category"]: row for row in categories if row["split"] == "test"}
    predictions = list(csv.DictReader((root / "reports/evaluate/predictions.csv").read_text().splitlines()))
    predicted = {row["predicted_category"] for row in predictions if row["split_value"] == "test"}
    for category, row in of_test.items():
        assert (row["precision"] == "") == (category not in predicted), "nothing was predicted, so nothing is precise"
    metrics = json.loads((root / "reports/evaluate/metrics.json").read_text())
    for figures in metrics["guarantees"]["images"].values():
        resplits = figures["resplits"]
        assert (resplits["held"] is None) == (resplits["promised"] == 0), "a promise that nobody made is not kept"
    card = (root / "reports/cards/model/README.md").read_text()
    assert re.search(r"\| Hats \| 0 \| (unknown|\.000) \| unknown \| unknown \|", card), "it may be predicted, wrongly"
    if metrics["test"]["min_confidence_0.9"]["answered"] == 0:
        assert "unknown (no image reaches this probability) of the answers are correct" in card
    done = runs.stage(root, "flows.cli.main", "results")
    assert done.returncode == 0
    said = " ".join((done.stdout + done.stderr).split())
    assert re.search(r"no test image for [12] of 5 categories: the metrics do not cover them", said), said
    shown = runs.stage(root, "flows.cli.main", "results", "--json")
    json.loads(shown.stdout, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "stages", [pytest.param(LATE[:1], marks=pytest.mark.slow), pytest.param(LATE, marks=pytest.mark.soak)]
)
def test_one_category_is_reported_as_no_choice(runs: Runs, stages: tuple[str, ...]) -> None:
    root = runs.copy(f"one-{len(stages)}", {"split": {"val_share": 0.3, "test_share": 0.3}})
    (root / "data/taxonomy.csv").write_text(f"taxonomy\n{CATEGORIES[0]}\n")
    said = runs.completed(root, *stages)
    no_nan(root)
    assert "all images have one category" in said, said
    if stages != LATE:
        return
    done = runs.stage(root, "flows.cli.main", "results")
    assert "all test images have one category" in " ".join((done.stdout + done.stderr).split()), done.stdout
