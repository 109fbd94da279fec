"""`atlas results`: what is on the screen, what it warns of, and what it says where something is missing."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from atlas_model.taxonomy.tree import Taxonomy
from flows import paths
from flows.cli.main import main
from flows.registry import champion
from flows.registry.champion import Event
from flows.stages.entry import write_metrics

PATHS = [("Clothing", "Tops", name) for name in ("Shirt", "Pullover", "Vest")] + [("Footwear", "Boots", "Ankle boot")]
LABELS = [" > ".join(path) for path in PATHS]
EVENT: dict[str, Any] = {"at": "2026-11-29T00:00:00+00:00", "figures": {}, "replaced": None, "split": {}}


def figures(value: float, n: int = 400) -> dict[str, Any]:
    intervals = {name: [round(value - 0.02, 4), round(value + 0.02, 4)] for name in ("micro_f1", "macro_f1", "ece")}
    scores = {"micro_f1": value, "macro_f1": value - 0.01, "ece": 0.0123, "level_accuracy": [0.99, None, value]}
    return {**scores, "n": n, "intervals": intervals}


def evaluate(value: float = 0.9, n: int = 400, counts: tuple[int, ...] = (200, 100, 60, 40), **more: Any) -> None:
    """The files of an evaluation in which every tenth image is called what its left neighbour in `LABELS` is."""
    test, val = figures(value, n), figures(value + 0.01, n)
    difference = {"value": -0.0012, "interval": [-0.01, 0.008]}
    baseline = {"test": figures(value + 0.0012, n), "difference": {"micro_f1": difference}}
    headline = {"test": {"micro_f1": value}, "classifier_f1": 0.9012}
    write_metrics("evaluate", headline, {"test": test, "val": val, "baseline": baseline, **more})
    with (paths.EVALUATION / "categories.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["split", "category", "precision", "recall", "f1", "n"])
        for number, (label, count) in enumerate(zip(LABELS, counts, strict=True)):
            table.writerows([split, label, 0.5, 0.5, 0.5 + number / 10, count] for split in ("val", "test"))
    with (paths.EVALUATION / "predictions.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["actual_category", "file_name", "predicted_category", "split_value"])
        for number, (label, count) in enumerate(zip(LABELS, counts, strict=True)):
            for row in range(count):
                table.writerow([label, "a", LABELS[number - 1] if row % 10 == 0 else label, "test"])
                table.writerow([label, "a", LABELS[0], "val"])
    (paths.EVALUATION / "confusion.png").touch()
    Taxonomy(PATHS).save(paths.TAXONOMY)
    paths.CATEGORIZER.mkdir(parents=True, exist_ok=True)


def lock(trained: str, evaluated: str) -> None:
    """A dvc.lock of that model."""
    path = {"path": "models/categorizer"}
    stages = {
        "train": {"cmd": "x", "outs": [path | {"md5": trained}]},
        "evaluate": {"cmd": "x", "deps": [path | {"md5": evaluated}]},
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    paths.SPLITS.mkdir(parents=True)
    dropped = {"http_404": 3, "zoomed": 20, "near_duplicate_of_test": 5}
    sizes = {"train": 3000, "val": 400, "test": 400}
    write_metrics("split", {"images": 3800, "dropped": 28}, {"images_per_split": sizes, "dropped": dropped})
    write_metrics("zoom", {"images": 3980, "dropped": 20}, {"images_per_reason": {"normal": 3980, "zoomed": 20}})
    write_metrics("train", {"val_accuracy": 0.9}, {"categorizer": {"epochs": 12, "best_epoch": 11}})
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["results"]) == 0
    return capsys.readouterr().out.splitlines()


def row(lines: list[str], name: str) -> str:
    (found,) = [line for line in lines if line.startswith(f"{name} ")]
    return found.removeprefix(name).strip()


def test_results_fit_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    products = {"products": {"micro_f1": 0.95, "intervals": {"micro_f1": [0.94, 0.96]}}}
    modes = {"image": figures(0.9), "title": figures(0.98), "image_and_title": figures(0.99)}
    evaluate(modes=modes)
    written = json.loads((paths.EVALUATION / "metrics.json").read_text())
    written["test"] |= products
    (paths.EVALUATION / "metrics.json").write_text(json.dumps(written))
    lines = shown(capsys)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if line.startswith("warning")]
    assert "test, 400 images" in lines[0] and "val, 400 images" in lines[0]
    assert row(lines, "exact path (micro F)").split("  ")[0] == ".900 (.880 to .920)"
    assert row(lines, "accuracy per level").startswith(".990 - .900")
    assert row(lines, "calibration error").startswith(".012 (")
    assert row(lines, "products (all images)").startswith(".950 (.940 to .960)")
    assert row(lines, "image and title") == ".990 (.970 to 1.010)"
    assert row(lines, "plain classifier") == ".901; difference of the sequence model -.001 (-.010 to +.008)"
    assert row(lines, "images") == "train 3,000, val 400, test 400"
    assert row(lines, "discarded") == "zoomed 20, near_duplicate_of_test 5, http_404 3"
    assert row(lines, "close-ups") == "20 of 4,000 (0.5%)"
    assert row(lines, "champion") == "none yet; to make the last model the champion: atlas promote"
    assert row(lines, "weakest categories").startswith("Clothing > Tops > Shirt .500 (200 images);")
    assert row(lines, "most often confused").startswith("Shirt as Ankle boot 20; Pullover as Shirt 10;")
    assert row(lines, "report files").startswith("reports/evaluate/confusion.png, reports/evaluate/categories.csv")


def test_results_json_has_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate()
    assert main(["results", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test"]["micro_f1"] == 0.9
    assert found["confused"][0] == {"actual": "Shirt", "predicted": "Ankle boot", "n": 20}
    assert found["split"]["dropped"] == {"zoomed": 20, "near_duplicate_of_test": 5, "http_404": 3}
    assert found["warnings"] == []


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"value": 0.51}, "micro F is at chance level: always predicting Clothing > Tops > Shirt, the most frequent"),
        ({"counts": (400, 0, 0, 0)}, "all test images have one category, Clothing > Tops > Shirt: the metrics are"),
        ({"n": 27}, "test has 27 images, fewer than 100: its metrics are uncertain"),
        ({"counts": (200, 150, 50, 0)}, "no test image for 1 of 4 categories: the metrics do not cover them"),
    ],
)
def test_results_warn_of_figures_from_few_images(
    given: dict[str, Any], warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(**given)
    lines = shown(capsys)
    assert warning in " ".join(line.strip() for line in lines)
    assert len(lines) <= 24


def test_results_warn_if_the_plain_classifier_is_better(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate()
    path = Path("reports/evaluate/metrics.json")
    metrics = json.loads(path.read_text())
    metrics["baseline"]["difference"]["micro_f1"] = {"value": -0.05, "interval": [-0.09, -0.01]}
    path.write_text(json.dumps(metrics))
    assert "the plain classifier with the same encoder is better" in " ".join(map(str.strip, shown(capsys)))


def test_results_warn_when_most_images_were_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate()
    write_metrics("split", {}, {"images_per_split": {"train": 9, "val": 2, "test": 1}, "dropped": {"zoomed": 288}})
    assert "warning: 288 of 300 images were discarded, for the reasons below" in shown(capsys)


def test_results_name_stages_that_have_not_run(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    lines = shown(capsys)
    assert lines[0] == "warning: not evaluated yet: dvc repro"
    assert row(lines, "images") == "train 3,000, val 400, test 400"
    for path in folder.rglob("*.json"):
        path.unlink()
    assert main(["results"]) == 2
    assert "error: no results here" in capsys.readouterr().err


def test_results_of_fresh_clone_show_headline_figures(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    evaluate()
    for path in folder.glob("reports/*/*"):
        path.unlink()
    lines = shown(capsys)
    assert lines[0].startswith("warning: metrics/ belongs to the committed run, whose reports/ are missing here")
    assert row(lines, "exact path (micro F)") == ".900"
    assert row(lines, "plain classifier") == ".901"
    assert (row(lines, "images"), row(lines, "discarded")) == ("3,800", "28")


def test_results_warn_of_figures_of_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate()
    lock("b.dir", "a.dir")
    assert "warning: the metrics belong to another model than the last one: dvc repro" in shown(capsys)
    lock("a.dir", "a.dir")
    assert "warning" not in shown(capsys)[0]
    paths.CATEGORIZER.rmdir()
    assert shown(capsys)[0].startswith("warning: metrics of the last complete run: models/categorizer is missing")


def test_results_show_difference_to_champion(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate()
    lock("b" * 32, "b" * 32)
    event = Event(version=1, model="a" * 32, reason="the first one", rollback=False, **EVENT)
    champion.HISTORY.write_text(champion.History(champions=[event]).model_dump_json())
    assert (
        row(shown(capsys), "champion") == "version 1; not compared with the last model yet; to compare: atlas promote"
    )
    report = Path("reports/promote/aaaaaaaa..bbbbbbbb.json")
    report.parent.mkdir()
    report.write_text(json.dumps({"accepted": False, "reason": "micro F .88, -.02 (95 % interval -.03 to -.01)"}))
    said = row(shown(capsys), "champion")
    assert said.startswith("version 1; the last model did not replace it: micro F .88, -.02")
    lock("a" * 32, "a" * 32)
    assert row(shown(capsys), "champion") == "version 1, which is the last model: the first one"


def test_results_escape_control_characters_in_untrusted_names(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate()
    path = paths.EVALUATION / "categories.csv"
    path.write_text(path.read_text().replace("Clothing > Tops > Shirt", "\x1b]0;owned\x07" + "x" * 300))
    lines = shown(capsys)
    assert "\x1b" not in "".join(lines)
    assert max(map(len, lines)) <= 100
