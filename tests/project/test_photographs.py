"""The benchmark on photographs: the whole of it on a few generated images, its table, and what it says of bad input."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.data.images import Preprocessing
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import load_categorizer, save
from atlas_model.taxonomy.tree import Taxonomy
from benchmarks.photographs import measure, photographs, targets, workspace
from benchmarks.photographs.__main__ import main
from benchmarks.photographs.collect import NAMES, epoch_over_forward, summary
from benchmarks.photographs.errors import confusions
from benchmarks.photographs.targets import TARGETS, Target
from tests.support.paths import ROOT
from tests.support.photographs import KINDS, write_photographs

FOLDER = ROOT / "benchmarks/photographs"
TINY: dict[str, Any] = {
    "crawl": {"source": "manifest", "snapshot": "tiny-1", "manifest": "data/photographs.json"},
    "zoom": {"filter": "photographs", "threshold": 1.0},
    "split": {
        "labels": "met",
        "image_size": 32,
        "image_mode": "RGB",
        "min_products": 5,
        "val_share": 0.25,
        "test_share": 0.25,
        "near_duplicate_distance": 0,
    },
    "train": {"encoder": "small", "epochs": 1, "min_steps": 0, "batch_size": 16},
    "evaluate": {"resamples": 20, "overlays": 1},
}


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_photographs(tmp_path / "photographs.parquet")
    monkeypatch.setenv(photographs.VARIABLE, str(path))
    return path


# --- bad input


def test_missing_photographs_are_reported_with_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(photographs.VARIABLE, str(tmp_path / "none.parquet"))
    assert main(["--workspace", str(tmp_path / "work")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "none.parquet: no such file" in said
    assert "Fashion Product Images" in said
    assert photographs.VARIABLE in said
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("content", ["no parquet", "other columns", "other types"])
def test_refuses_another_file_in_one_line(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.parquet"
    if content == "no parquet":
        path.write_text("id,jpeg\n")
    elif content == "other columns":
        pq.write_table(pa.table({"id": [1], "jpeg": [b""]}), path)
    else:
        columns: dict[str, Any] = {name: ["1"] for name in photographs.COLUMNS}
        pq.write_table(pa.table(columns), path)
    monkeypatch.setenv(photographs.VARIABLE, str(path))
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "expected" in said


def test_reports_missing_results_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "--result", str(tmp_path / "none.json")]) == 2
    assert main(["errors", "--workspace", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("make benchmark NAME=photographs") == 2


# --- the parts


def test_writes_sampled_images_and_their_table(source: Path, tmp_path: Path) -> None:
    found = photographs.find_photographs()
    photographs.write_folder(tmp_path / "given", found, 10, seed=1)
    rows = read_csv(tmp_path / "given/products.csv")
    assert len({row["image"] for row in rows}) == 10
    images = found.images()
    for row in rows:
        number = int(row["image"].removesuffix(".jpg"))
        assert (tmp_path / "given/images" / row["image"]).read_bytes() == images[number]
        assert tuple(row[level] for level in photographs.LEVELS) in KINDS
    photographs.write_folder(tmp_path / "other", found, 10, seed=2)
    assert (tmp_path / "given/products.csv").read_bytes() != (tmp_path / "other/products.csv").read_bytes()


def test_port_in_use_is_no_error(source: Path) -> None:
    found = photographs.find_photographs()
    with photographs.serving(found, None) as port, photographs.serving(found, port) as other:
        assert other != port


RUN_EAT = """
import dataclasses, json, sys
from pathlib import Path
from benchmarks.photographs import workspace

before = workspace.Usage(seconds=100.0, peak_rss_gb=0.1, attempts=1)
saved = []
usage = workspace.run(["dvc", "repro", "eat"], Path(sys.argv[1]), before, saved.append)
assert saved[-1] == usage
print(json.dumps(dataclasses.asdict(usage)))
"""


@pytest.mark.slow
def test_measures_memory_and_stages_of_a_dvc_run(tmp_path: Path) -> None:
    """The peak of a stage's child, which only DVC's child waits for, reaches us."""
    workspace.copy_project(tmp_path / "project")
    folder = tmp_path / "project"
    hungry = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'bytearray(700_000_000)'], check=True)"
    (folder / "hungry.py").write_text(hungry)
    (folder / "dvc.yaml").write_text("stages: {eat: {cmd: exec python hungry.py}, fail: {cmd: exit 3}}\n")
    (folder / "dvc.lock").unlink()
    saved: list[workspace.Usage] = []
    # In a process of its own: a child begins with the peak of its parent, and this one has run many tests.
    done = subprocess.run([sys.executable, "-c", RUN_EAT, folder], cwd=ROOT, capture_output=True, text=True, check=True)
    usage = workspace.Usage(**json.loads(done.stdout.splitlines()[-1]))
    assert 0.7 <= usage.peak_rss_gb < 1
    assert usage.seconds > 100.5
    assert usage.attempts == 2
    assert usage.stages.keys() == {"eat"}
    with pytest.raises(AtlasError, match="dvc repro fail failed"):
        workspace.run(["dvc", "repro", "fail"], folder, usage, saved.append)
    assert saved[-1].attempts == 3


def test_epoch_time_is_compared_with_forward_pass_of_same_images() -> None:
    timings = {"categorizer": {"seconds": 60.0}, "forward_seconds": 0.2}
    assert epoch_over_forward(timings, epochs=10, images=100) == 0.3
    assert epoch_over_forward(timings | {"forward_seconds": None}, epochs=10, images=100) is None


def test_figures_of_several_seeds_are_medians() -> None:
    scores = {1: 0.9, 2: 0.94, 3: 0.91}
    seeds = {
        str(seed): {
            "image": {"micro_f1": score, "macro_f1": score - 0.1, "ece": 0.01},
            "classifier": {"micro_f1": 0.9},
            "difference": {
                name: {"value": score - 0.9, "interval": [score - 1, score]} for name in ("micro_f1", "macro_f1")
            },
            "tuned_epoch_over_forward": None,
        }
        for seed, score in scores.items()
    }
    whole = dict.fromkeys(("images", "products", "dropped", "leaks")) | {"zoom_discarded_share": 0.01}
    usage = {f"seed {seed}": {"seconds": 600.0 / seed, "peak_rss_gb": seed / 2} for seed in scores}
    draws = {str(draw): {"micro_f1": 0.9 + draw / 100, "minutes": draw} for draw in (1, 2, 3)}
    files = {"draws": draws, "usage": {"draw 1 dvc": {"seconds": 60.0, "peak_rss_gb": 0.7}}}
    figures = summary({"seeds": seeds, "whole": whole, "usage": usage}, files)
    assert figures["image.micro_f1"] == figures["image"]["micro_f1"] == 0.91
    assert figures["image.macro_f1"] == 0.81
    assert figures["title.micro_f1"] is None
    assert figures["difference"]["micro_f1"]["seed"] == 3
    assert figures["difference"]["micro_f1"]["interval"] == [pytest.approx(-0.09), 0.91]
    assert (figures["files_micro_f1"], figures["files_minutes"]) == (0.92, 2)
    assert figures["pipeline_minutes"] == 10, "of the first seed, which alone ran everything"
    assert figures["peak_rss_gb"] == 1.5
    assert figures["tuned_epoch_over_forward"] is None


def test_confusions_are_counted_by_pair() -> None:
    wrong = [
        {"actual_category": actual, "predicted_category": predicted, "log_probability": np.log(probability)}
        for actual, predicted, probability in [("a", "b", 0.5), ("b", "a", 0.9), ("a", "b", 0.7)]
    ]
    first, second = confusions(wrong)
    assert (first["actual"], first["predicted"], first["count"], first["mean_probability"]) == ("a", "b", 2, 0.6)
    assert second["share_of_errors"] == 0.3333


# --- the table


def test_metrics_are_compared_with_required_value_and_target() -> None:
    score, minutes = Target("f", "F", 0.9, 0.95), Target("m", "min", 30, 15, lower_is_better=True)
    assert [score.verdict(value) for value in (0.95, 0.9, 0.89)] == [
        "target reached",
        "required value reached",
        "missed",
    ]
    assert [minutes.verdict(value) for value in (15, 30, 31)] == ["target reached", "required value reached", "missed"]
    assert Target("t", "no limits").verdict(0.1) == ""


def test_table_is_written_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{targets.BEGIN}\nold\n{targets.END}\nafter\n")
    difference = {"micro_f1": {"value": 0.01, "interval": [-0.01, 0.03]}}
    scores = {"micro_f1": 0.9123, "macro_f1": 0.8}
    figures = {
        "image": scores,
        "data": {"images": {"train": 5362, "test": 1070}},
        "machine": "x86_64, 2 cores",
        "versions": {"torch": "2"},
        "seeds": {"1": {"image": scores, "classifier": scores, "difference": difference}},
    }
    targets.write_into(page, figures)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| exact path from the image, test | 0.912 | 0.910 | 0.930 | required value reached |" in text
    assert "train 5,362, test 1,070" in text
    assert "-0.0100 to 0.0300" in text
    (tmp_path / "other.md").write_text("no marks")
    with pytest.raises(InputError, match="expected the lines"):
        targets.write_into(tmp_path / "other.md", figures)


def test_docs_show_measured_results() -> None:
    result, page = ROOT / "benchmarks/results/photographs.json", ROOT / "docs/photographs.md"
    text = page.read_text(encoding="utf-8")
    assert text.count(targets.BEGIN) == text.count(targets.END) == 1
    if result.is_file():
        assert targets.in_markdown(json.loads(result.read_text(encoding="utf-8"))) in text


# --- the whole


def test_params_are_valid_and_stages_equal_the_project_stages(tmp_path: Path) -> None:
    from atlas_model.core.params import load_params

    given = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    workspace.copy_project(tmp_path / "project")
    workspace.write_params(tmp_path / "project", given, {"train": {"seed": 7}})
    params = load_params(tmp_path / "project/params.yaml")
    assert (params.crawl.source, params.split.min_products, params.train.seed) == ("manifest", 10, 7)
    ours = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert params.fetch.model_dump() == ours["fetch"], "what it does not name is as in the project"
    assert (tmp_path / "project/dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert subprocess.run(
        ["git", "status", "--porcelain", "--ignored"],
        cwd=tmp_path / "project",
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split() == ["M", "params.yaml"]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # nine stages and DVC, each of which imports for seconds
def test_benchmark_runs_on_a_few_images(
    source: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    warm_python: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model that `atlas init` chooses for the folder is replaced by a small one: its own tests train it.

    After the first seed, whose memory and time are results, stages do not import the libraries again.
    """
    run, ours = measure._run, yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    environment = workspace._environment()
    path = os.pathsep.join([str(warm_python), environment["PATH"]])

    def run_small(command: list[str], folder: Path, *more: Any, **options: Any) -> workspace.Usage:
        if command[0] == "dvc" and folder.parent.name == "files-1":
            params = yaml.safe_load((folder / "params.yaml").read_text())
            params |= {section: ours[section] | TINY[section] for section in ("train", "evaluate")}
            params["split"]["image_size"] = 32
            (folder / "params.yaml").write_text(yaml.safe_dump(params))
        usage = run(command, folder, *more, **options)
        monkeypatch.setattr(workspace, "_environment", lambda: environment | {"PATH": path})
        return usage

    monkeypatch.setattr(measure, "_run", run_small)
    work, result, params = tmp_path / "work", tmp_path / "result.json", tmp_path / "tiny.yaml"
    params.write_text(yaml.safe_dump(TINY))
    options = ["--workspace", str(work), "--result", str(result), "--params", str(params)]
    command = [*options, "--seeds", "1", "2", "--draws", "1", "--drawn", "56"]
    assert main(command) == 0, capfd.readouterr().err
    figures = json.loads(result.read_text())
    for target in TARGETS:
        if not target.name.startswith(("tuned_", "title", "image_and")):
            assert targets.value_at(figures, target.name) is not None, target.name
    assert figures["image.micro_f1"] == figures["image"]["micro_f1"]
    assert figures["seeds"].keys() == {"1", "2"}
    assert sum(figures["data"]["images"].values()) == 56
    assert 0.2 < figures["peak_rss_gb"] < 2
    first, second = figures["usage"]["seed 1"], figures["usage"]["seed 2"]
    assert figures["pipeline_minutes"] == pytest.approx(first["seconds"] / 60, abs=0.01)
    assert {"crawl", "fetch", "zoom", "split", "train", "evaluate"} <= first["stages"].keys()
    assert {"crawl", "fetch", "split", "train", "evaluate"} <= figures["files"]["usage"]["draw 1 dvc"]["stages"].keys()
    assert sum(figures["files"]["draws"]["1"]["images"].values()) == 56
    assert second["stages"].keys() == {"train", "evaluate", "report"}
    shown = capfd.readouterr().out
    assert "exact path from the image, test" in shown

    state = json.loads((work / "state.json").read_text())
    del state["pipeline"]["seeds"]["2"]  # as if it had been killed just before it knew
    (work / "state.json").write_text(json.dumps(state))
    assert main(command) == 0
    assert "Running stage" not in capfd.readouterr().out, "what is measured is not measured again"
    again = json.loads(result.read_text())
    assert again["usage"]["seed 2"].pop("attempts") == 2
    assert again["usage"]["seed 2"].pop("seconds") > figures["usage"]["seed 2"]["seconds"]
    assert again["usage"]["seed 1"] == figures["usage"]["seed 1"]
    assert {name: again[name] for name in NAMES} == {name: figures[name] for name in NAMES}

    assert main(["errors", "--workspace", str(work), "--count", "30"]) == 0
    errors = read_csv(work / "errors/errors.csv")
    assert errors
    probabilities = [float(row["probability"]) for row in errors]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(row["actual"] != row["predicted"] and row["title"] for row in errors)
    with Image.open(work / "errors/sheet-1.png") as sheet:
        assert sheet.size[0] > 1000
    pairs = read_csv(work / "errors/confusions.csv")
    assert sum(int(row["count"]) for row in pairs) >= len(errors)

    bundled = tmp_path / "bundled"
    bundled.mkdir()
    (bundled / "README.md").write_text("a card\n")
    assert main(["bundle", "--workspace", str(work), "--folder", str(bundled)]) == 0
    assert (bundled / "README.md").read_text() == "a card\n"
    _same_but_for_the_precision(work / "seeds/1/models/categorizer", bundled)

    page = tmp_path / "page.md"
    page.write_text(f"{targets.BEGIN}\n{targets.END}\n")
    assert main(["table", "--result", str(result), "--page", str(page)]) == 0
    assert "| exact path from the image, test |" in page.read_text()


def _same_but_for_the_precision(model: Path, bundled: Path) -> None:
    weights, whole = ((folder / "model.safetensors").stat().st_size for folder in (bundled, model))
    assert weights < 0.6 * whole
    (halved, found), (trained, expected) = (load_categorizer(each, torch.device("cpu")) for each in (bundled, model))
    assert found == expected
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        (_, log_p), (_, wanted) = halved.exact(images), trained.exact(images)
    assert next(halved.parameters()).dtype is torch.float32
    torch.testing.assert_close(log_p.exp(), wanted.exp(), atol=0.01, rtol=0)


def test_too_large_model_is_not_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = Architecture("small", 3, "native", 8, 8, 8, 0.0)
    model = Categorizer(architecture, Taxonomy([("a",), ("b",)]))
    save(model, tmp_path / "work/seeds/1/models/categorizer", Preprocessing(32, "RGB", "squash"), params={}, metrics={})
    monkeypatch.setattr("benchmarks.photographs.bundle.MAX_BYTES", 1000)
    assert main(["bundle", "--workspace", str(tmp_path / "work"), "--folder", str(tmp_path / "bundled")]) == 1
    assert not (tmp_path / "bundled").exists()


def test_bundled_model_matches_its_model_card() -> None:
    folder = ROOT / "models/pretrained"
    model, preprocessing = load_categorizer(folder, torch.device("cpu"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    size = (folder / "model.safetensors").stat().st_size
    weights = sum(weight.numel() for weight in model.parameters())
    assert size <= 16_000_000
    assert f"{size / 1e6:.1f} MB" in card
    assert f"{weights / 1e6:.1f} million weights" in card
    assert f"{len(model.taxonomy)} kinds" in card
    assert (preprocessing.size, preprocessing.mode) == (224, "RGB")
    given = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))["train"]
    trained = json.loads((folder / "model.json").read_text(encoding="utf-8"))["params"]
    assert {name: trained[name] for name in given} == given
