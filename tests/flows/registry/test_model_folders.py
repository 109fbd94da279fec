"""Which model answers while others come and go: with real DVC, and a stage that takes the place of training."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from atlas_model.data.images import Preprocessing
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import save
from atlas_model.taxonomy.tree import Taxonomy
from flows.cli.main import main
from flows.registry.model_folders import bundled_model
from tests.support.flow_projects import environment, started
from tests.support.waiting import wait_until

DVC_YAML = """
stages:
  train:
    cmd: exec python stage.py
    deps: [wanted]
    outs: [models/categorizer]
    metrics: [{metrics/train.json: {cache: false}}]
"""
# Takes the model that `wanted` names; with `hang` it never comes to that.
STAGE = """
import pathlib, shutil, time
pathlib.Path(".atlas/train").mkdir(parents=True, exist_ok=True)
pathlib.Path("at-work").touch()
while pathlib.Path("hang").exists():
    time.sleep(0.05)
shutil.copytree(pathlib.Path("wanted").read_text(), "models/categorizer")
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/train.json").write_text("{}")
shutil.rmtree(".atlas/train")
"""


@pytest.fixture
def project(mini_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project whose stage train brings model ``one`` or ``two``, each of a single category; as current folder."""
    monkeypatch.chdir(mini_project)
    Path("dvc.yaml").write_text(DVC_YAML)
    Path("stage.py").write_text(STAGE)
    Image.new("L", (16, 16)).save("a.png")
    sizes: dict[str, Any] = {"attention_size": 8, "embedding_size": 8, "hidden_size": 8, "dropout": 0.0}
    architecture = Architecture(
        encoder="small", grid="native", in_channels=1, normalize="children", deep_output=True, **sizes
    )
    torch.manual_seed(1)
    for name in ("one", "two", "champion"):
        model = Categorizer(architecture, Taxonomy([(name,)]))
        save(model, Path(name), Preprocessing(16, "L", "squash"), params={}, metrics={})
    return mini_project


def repro(wanted: str) -> None:
    Path("wanted").write_text(wanted)
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def answer(capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    """The category of the image, which says who answered; and what stands on stderr."""
    assert main(["predict", "a.png"]) == 0
    out, err = capsys.readouterr()
    return out.split("\t")[-1].strip(), err.splitlines()


@pytest.mark.slow
def test_last_complete_model_is_used_during_training(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repro("one")
    assert answer(capsys) == ("one", ["model: models/categorizer"])
    Path("at-work").unlink()
    Path("hang").touch()
    Path("wanted").write_text("two")
    with started(["dvc", "repro"], project, tmp_path / "log"):
        wait_until(Path("at-work").exists)
        assert not Path("models/categorizer").exists(), "DVC has removed it"
        for _ in range(2):
            category, (warning, model) = answer(capsys)
            assert category == "one"
            assert "models/categorizer is missing" in warning and "The last complete model is used" in warning
            assert model.startswith("model: .atlas/last-model/")
    category, (warning, model) = answer(capsys)  # killed
    assert category == "one"

    shutil.rmtree(".atlas")  # make clean
    shutil.rmtree(".dvc/cache")
    Path(".atlas/train").mkdir(parents=True)
    _, (warning, model) = answer(capsys)
    assert warning.endswith("DVC's cache has no previous model, so the bundled model is used")
    assert model == f"model: {bundled_model()}"
    Path("hang").unlink()
    repro("two")
    assert answer(capsys) == ("two", ["model: models/categorizer"])
    repro("one")
    repro("two")  # out of the run cache: no code of ours has seen it
    Path("hang").touch()
    Path("wanted").write_text("three")
    Path("at-work").unlink()
    with started(["dvc", "repro"], project, tmp_path / "log"):
        wait_until(Path("at-work").exists)
        assert answer(capsys)[0] == "two"
        assert len(list(Path(".atlas/last-model").iterdir())) == 1

    Path("models/champion.dvc").write_text("outs: []")
    category, warnings = answer(capsys)
    assert category == "two"
    assert warnings[0].startswith("warning: models/champion is missing, although models/champion.dvc tracks a champion")
    shutil.copytree("champion", "models/champion")
    assert answer(capsys) == ("champion", ["model: models/champion"])


def test_fresh_clone_uses_bundled_model_without_waiting_for_dvc(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"cmd": "x", "outs": [{"path": "models/categorizer", "md5": "ab12.dir"}]}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"train": train}}))
    monkeypatch.setitem(sys.modules, "flows.dvc.repo", None)
    assert answer(capsys)[1] == [f"model: {bundled_model()}"]
