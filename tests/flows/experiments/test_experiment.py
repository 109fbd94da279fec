"""What docs/experiments.md says of `dvc exp`, on a small project; and which grids are refused."""

import csv
import io
import subprocess
from pathlib import Path

import pytest

from atlas_model.core.errors import InputError
from flows.experiments import experiment
from flows.experiments.experiment import Combination, last_commit, read_grid
from tests.support.git_repo import commit_all
from tests.support.sweeping import dvc, make_project, outside, ran


@pytest.mark.slow
def test_dvc_experiment_runs_and_applies(
    mini_project: Path, git_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_project(mini_project, git_env)
    monkeypatch.chdir(folder)
    ran(folder)
    dvc(folder, "exp", "run", "--quiet", "--name", "one", "-S", "train.encoder_lr=0.001")
    assert ran(folder) == ["evaluate 0.001 0.5", "train 0.001 0.5"]
    subprocess.run(["git", "checkout", "--quiet", "."], cwd=folder, check=True)
    dvc(folder, "exp", "run", "--quiet", "--queue", "--name", "more", "-S", "train.encoder_lr=0.004,0.005")
    assert ran(folder) == []
    dvc(folder, "exp", "run", "--run-all")
    assert ran(folder) == [f"{stage} {lr} 0.5" for stage in ("evaluate", "train") for lr in ("0.004", "0.005")]

    rows = {row["Experiment"]: row for row in csv.DictReader(io.StringIO(dvc(folder, "exp", "show", "--csv")))}
    assert set(rows) >= {"one", "more-1", "more-2"}
    assert rows["more-2"]["train.encoder_lr"] == "0.005"
    assert float(rows["more-1"]["val.micro_f1"]) == pytest.approx(0.7)
    assert rows["more-1"]["code"] == "of the workspace", "the installed packages are not what an experiment runs"
    command = ["git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/more-1"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    known = {"val.hierarchical_f1": None, "val.ece": None}
    approximate = {"val.micro_f1": pytest.approx(0.7), "val.nll": pytest.approx(0.3)}
    assert experiment.figures(commit, "evaluate") == known | approximate, "all of them, from DVC"
    (folder / ".dvc/cache").rename(folder / "lost")
    assert experiment.figures(commit, "evaluate") == known | approximate | {"val.nll": None}, "the headline, from git"
    (folder / "lost").rename(folder / ".dvc/cache")

    dvc(folder, "plots", "diff", "HEAD", "one", "more-2", "--out", "compared")
    page = (folder / "compared/index.html").read_text()
    assert all(f'"rev": "{name}"' in page for name in ("HEAD", "one", "more-2"))

    shown = dvc(folder, "exp", "show", "--only-changed", "--drop", "crawl|fetch", "--csv").splitlines()[0]
    assert "train.encoder_lr" in shown and "train.dropout" not in shown
    for key in ("user.name", "user.email"):
        subprocess.run(["git", "config", key, "a@example.org"], cwd=folder, check=True)
    dvc(folder, "exp", "apply", "more-2")
    assert "encoder_lr: 0.005" in (folder / "params.yaml").read_text()
    dvc(folder, "exp", "remove", "one")
    assert set(dvc(folder, "exp", "list", "--name-only").split()) == {"more-1", "more-2"}


@pytest.mark.slow
def test_commit_during_sweep_does_not_change_its_base(
    mini_project: Path, git_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_project(mini_project, git_env)
    monkeypatch.chdir(folder)
    (point,) = read_grid(["train.dropout=0.3"], "train", last_commit())
    with (folder / "stage.py").open("a") as stage:
        stage.write("# other code\n")
    commit_all(folder, git_env)
    ran(folder)
    experiment.run(point, print, 1, {"OUTSIDE": str(outside(folder))})
    assert ran(folder) == ["train 0.003 0.3"]
    found = experiment.commit_of(point)
    assert found is not None
    parent = subprocess.run(["git", "rev-parse", f"{found}^"], cwd=folder, capture_output=True, text=True, check=True)
    assert parent.stdout.strip() == point.base != last_commit()


def test_grid_is_cartesian_product(mini_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mini_project)
    monkeypatch.setattr(experiment, "METRICS_SHOWN", {"split": ("x",)})
    points = read_grid(["split.seed=1,2", "zoom_train.lr=1e-3"], "split", "abcd")
    assert [point.title for point in points] == ["split.seed=1 zoom_train.lr=1e-3", "split.seed=2 zoom_train.lr=1e-3"]
    assert points[0].experiment == "split_split.seed=1_zoom_train.lr=1e-3"
    for awkward in ("a..b", "a.lock", "a/b", "a."):
        point = Combination((("split.taxonomy", awkward),), "split", "abcd")
        assert subprocess.run(["git", "check-ref-format", point.reference], check=False).returncode == 0


def test_reports_all_grid_errors_at_once(mini_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mini_project)
    monkeypatch.setattr(experiment, "METRICS_SHOWN", {"split": ("x",)})
    with pytest.raises(InputError, match="--stage: expected one of split, got 'fetch'"):
        read_grid(["split.seed=1"], "fetch", "abcd")
    wrong = ["split.seed", "split.seed=1,,2", "seed=1", "split.seed=$(id)", "pipeline.workers=2", "split.seed=1"]
    with pytest.raises(InputError) as caught:
        read_grid([*wrong, "split.seed=2"], "split", "abcd")
    text = str(caught.value)
    assert text.startswith("the grid: 6 faults\n")
    assert "'split.seed=$(id)': expected section.key=value,value" in text
    assert "pipeline.workers: expected a parameter of a stage: crawl, split, zoom_train" in text
    assert "split.seed: given twice" in text

    with pytest.raises(InputError) as caught:
        read_grid(["split.val_share=0.5,0.15", "split.test_share=0.5,0.15", "split.sed=1"], "split", "abcd")
    text = str(caught.value)
    assert "split.sed: unknown key" in text
    with pytest.raises(InputError) as caught:
        read_grid(["split.val_share=0.5,0.15", "split.test_share=0.5,0.15", "split.seed=0,-1,many"], "split", "abcd")
    text = str(caught.value)
    assert "val_share + test_share must be below 1" in text, "of two values that are right each by itself"
    assert text.count("got -1") == 1 and text.count("got 'many'") == 1, "not for every point"


def test_refuses_to_sweep_uncommitted_changes(
    mini_project: Path, git_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mini_project)
    last_commit()
    (mini_project / "note").touch()
    last_commit()
    with (mini_project / "params.yaml").open("a") as file:
        file.write("# a word\n")
    with pytest.raises(InputError, match=r"commit or discard these changes first: M params\.yaml"):
        last_commit()
    monkeypatch.chdir(mini_project.parent)
    with pytest.raises(InputError, match="git status"):
        last_commit()
