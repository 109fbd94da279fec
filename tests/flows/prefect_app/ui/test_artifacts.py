"""What the UI is given to show."""

import base64
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from atlas_model.core.params import Params, load_params
from atlas_model.data.images import encode_png
from atlas_model.data.schemas import IMAGES, SCORES, write_table
from flows.prefect_app.ui import artifacts
from flows.prefect_app.ui.artifacts import Artifact, data_url, evaluation_report, stage_artifacts
from flows.prefect_app.ui.figures import montage, read_curves
from flows.stages.entry import write_metrics
from tests.support.paths import ROOT

HOSTILE = "Shoes](http://evil.test) <img src=x onerror=alert(1)> | `x`\n# Title"


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Those of the project; the current folder is an empty one, a git repository."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    return load_params(ROOT / "params.yaml")


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def accept(git_env: dict[str, str]) -> None:
    """What is there is the last commit."""
    for arguments in (["add", "-A"], ["commit", "-q", "-m", "accepted"]):
        subprocess.run(["git", *arguments], env=git_env, check=True)


def by_key(stage: str, params: Params) -> dict[str, Artifact]:
    return {artifact.key: artifact for artifact in stage_artifacts(stage, params)}


def opened(artifact: Artifact) -> Image.Image:
    head, _, data = artifact.data.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_stage_without_files_has_no_artifacts(params: Params) -> None:
    assert by_key("train", params) == {}
    assert by_key("zoom", params) == {}
    assert by_key("evaluate", params) == {}


def test_metrics_are_compared_with_last_commit_until_a_run_is_accepted(params: Params, git_env: dict[str, str]) -> None:
    write("metrics/zoom_train.json", json.dumps({"val": {"f1": 0.5}, "levels": [1, 2]}))
    accept(git_env)
    write(
        "metrics/zoom_train.json", json.dumps({"val": {"f1": 0.75}, "levels": [1, 3], HOSTILE: HOSTILE, "none": None})
    )
    (table,) = stage_artifacts("zoom_train", params)
    assert (table.kind, table.key) == ("table", "zoom-train-metrics")
    assert table.description == "Metrics of zoom_train, compared with the last commit"
    assert table.data[:3] == [
        {"metric": "val / f1", "now": "0.75", "last commit": "0.5"},
        {"metric": "levels / 1", "now": "1", "last commit": "1"},
        {"metric": "levels / 2", "now": "3", "last commit": "2"},
    ]
    hostile = "".join(table.data[3].values())
    assert not set("<>[]`\n") & set(hostile)
    assert "://" not in hostile
    assert table.data[4] == {"metric": "none", "now": "", "last commit": ""}
    for arguments in (["tag", "accepted-1"], ["commit", "-q", "-a", "-m", "nobody accepted this one"]):
        subprocess.run(["git", *arguments], env=git_env, check=True)
    (table,) = stage_artifacts("zoom_train", params)
    assert table.description == "Metrics of zoom_train, compared with the last accepted run"
    assert table.data[0] == {"metric": "val / f1", "now": "0.75", "last accepted run": "0.5"}


def test_table_shows_details_and_timings(params: Params, git_env: dict[str, str]) -> None:
    write("metrics/zoom_train.json", json.dumps({"f1": 0.5}))
    accept(git_env)
    write_metrics("zoom_train", {"f1": 0.75}, {"f1": 0.75, "epochs": 3}, {"seconds": 7.5})
    (table,) = stage_artifacts("zoom_train", params)
    assert table.data == [
        {"metric": "f1", "now": "0.75", "last commit": "0.5"},
        {"metric": "epochs", "now": "3", "last commit": ""},
        {"metric": "seconds", "now": "7.5", "last commit": ""},
    ]


def test_long_table_is_truncated(params: Params) -> None:
    write("metrics/crawl.json", json.dumps({str(number): number for number in range(1000)}))
    (table,) = stage_artifacts("crawl", params)
    assert len(table.data) == artifacts.MAX_ROWS + 1
    assert table.data[-1]["metric"] == "and 800 more"


def test_invalid_accepted_metrics_are_ignored(params: Params, git_env: dict[str, str]) -> None:
    write("metrics/crawl.json", "damaged")
    accept(git_env)
    write("metrics/crawl.json", '{"n": 1}')
    assert by_key("crawl", params)["crawl-metrics"].data == [{"metric": "n", "now": "1", "last commit": ""}]


def test_report_shows_changes_and_weak_categories(params: Params, git_env: dict[str, str]) -> None:
    def evaluation(value: float) -> str:
        split = {"micro_f1": value, "macro_f1": value, "intervals": {"micro_f1": [value - 0.01, value + 0.01]}}
        return json.dumps({"test": split, "val": split, "baseline": {"test": {"micro_f1": 0.8}}})

    write("metrics/evaluate.json", evaluation(0.9))
    accept(git_env)
    write("metrics/evaluate.json", evaluation(0.88))
    rows = [f"test,Fine {number},1,1,0.9,10" for number in range(20)]
    hostile = HOSTILE.replace("\n", " ")
    write("reports/evaluate/categories.csv", "\n".join(["split,category,precision,recall,f1,n", *rows, ""]))
    with Path("reports/evaluate/categories.csv").open("a") as handle:
        handle.write(f'test,"{hostile}",0.2,0.3,0.24,7\nval,Elsewhere,0,0,0,1\n')
    report = evaluation_report(params)
    assert "| micro F (exact paths), test | 0.8800 | 0.8700–0.8900 | 0.9000 | -0.0200 |" in report
    assert "| plain classifier: micro F, test | 0.8000 | | 0.8000 | +0.0000 |" in report
    table = report.partition("| category |")[2].splitlines()[2:]
    assert len(table) == artifacts.WEAKEST
    assert "| 0.2400 | 0.2000 | 0.3000 | 7 |" in table[0], "the weakest first"
    assert table[0].count("|") == 6
    assert "Elsewhere" not in report
    for harm in ("](", "<img", "`", "\n#"):
        assert harm not in report
    assert by_key("evaluate", params)["evaluation"].data == report


def test_draws_curves_from_csv_and_tsv(params: Params) -> None:
    write("plots/train/plots/metrics/categorizer/val_accuracy.tsv", "step\tval_accuracy\n1\t0.5\n2\t0.75\n")
    write("plots/train/plots/metrics/baseline/val_accuracy.tsv", "step\tval_accuracy\n1\t0.25\n")
    assert read_curves(Path("plots/train")) == {
        "val_accuracy": {"baseline": [(1, 0.25)], "categorizer": [(1, 0.5), (2, 0.75)]}
    }
    write("plots/zoom_train/history.csv", "epoch,train_loss,val_loss\n1,0.5,0.25\n")
    assert read_curves(Path("plots/zoom_train")) == {"loss": {"train": [(1, 0.5)], "val": [(1, 0.25)]}}
    assert opened(by_key("train", params)["train-curves"]).width > 300
    assert opened(by_key("zoom_train", params)["zoom-train-curves"]).width > 300


def test_shows_most_confidently_dropped_images(params: Params) -> None:
    def image(shade: int) -> bytes:
        return encode_png(Image.new("L", (8, 8), shade))

    shades = {"a": 10, "b": 20, "c": 30}
    images = [dict.fromkeys(IMAGES.names) | {"image_id": name, "bytes": image(shade)} for name, shade in shades.items()]
    bare = pa.schema([field.with_nullable(True) for field in IMAGES])
    Path("data/images/shards").mkdir(parents=True)
    pa.parquet.write_table(pa.Table.from_pylist(images, bare), "data/images/shards/0.parquet")
    reasons = {"a": ("zoomed", 0.6), "b": ("normal", 0.1), "c": ("zoomed", 0.9), "lost": ("zoomed", 0.8)}
    scores = [
        {"image_id": name, "p_zoomed": p, "keep": reason == "normal", "reason": reason, "phash": 1}
        for name, (reason, p) in reasons.items()
    ]
    Path("data/zoom").mkdir(parents=True)
    write_table(Path("data/zoom/scores.parquet"), pa.Table.from_pylist(scores, SCORES), SCORES)
    shown = opened(by_key("zoom", params)["zoom-dropped"])
    assert [np.asarray(shown)[48, column, 0] for column in (48, 144)] == [30, 10]
    assert shown.width == 192


def test_shows_plots_of_the_evaluation(params: Params) -> None:
    Path("reports/evaluate/attention").mkdir(parents=True)
    for name in ("confusion", "attention/1", "attention/2"):
        Image.new("RGB", (50, 20), "blue").save(f"reports/evaluate/{name}.png")
    found = by_key("evaluate", params)
    assert set(found) == {"evaluate-confusion", "evaluate-attention"}
    assert opened(found["evaluate-attention"]).size == (50, 40)


def test_montage_keeps_aspect_ratios() -> None:
    sheet = np.asarray(montage([Image.new("L", size, 0) for size in ((10, 10), (20, 10), (10, 20))], 2, 40))
    assert sheet.shape == (80, 80, 3)
    assert (sheet[:40, :40] == 0).all()
    assert [sheet[row, 60, 0] for row in (5, 20, 35)] == [255, 0, 255]


def test_artifact_images_have_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 3000, 3), dtype=np.uint8))
    url = data_url(noise)
    assert len(url) < artifacts.MAX_BYTES * 1.5
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as shown:
        assert shown.width <= artifacts.LONGEST_SIDE
    monkeypatch.setattr(artifacts, "MAX_BYTES", 20_000)
    assert len(data_url(noise)) < 20_000 * 1.5
    assert noise.size == (3000, 300), "the image itself stays"
