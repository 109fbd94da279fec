"""A stage's parameters are checked before it begins, and once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_model.core.errors import ParamsError
from flows.stages import parameters
from flows.stages.parameters import CHECKED, checked_params
from tests.support.paths import ROOT


@pytest.fixture
def params_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    return path


def break_it(path: Path) -> None:
    path.write_text(path.read_text().replace("epochs: 20", "epochs: 0"))


def test_reports_errors_before_first_access(params_file: Path) -> None:
    break_it(params_file)
    with pytest.raises(ParamsError, match=r"zoom_train\.epochs"):
        checked_params()
    with pytest.raises(ParamsError, match=r"zoom_train\.epochs"):
        checked_params()
    params_file.unlink()
    with pytest.raises(ParamsError, match="No such file"):
        checked_params()


def test_validates_again_after_params_or_code_changed(
    params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked_params().zoom_train.epochs == 20
    before = CHECKED.read_text()
    assert checked_params().model_dump()["crawl"]["source"] == "demo"
    code = tmp_path / "code"
    code.mkdir()
    for name in ("params.py", "yaml_files.py"):
        (code / name).write_text("other")
    monkeypatch.setattr(parameters, "CODE", code)
    checked_params()
    assert CHECKED.read_text() != before
    break_it(params_file)
    with pytest.raises(ParamsError):
        checked_params()


def test_params_with_sections_from_other_files_are_always_validated(params_file: Path, tmp_path: Path) -> None:
    params_file.rename(tmp_path / "all.yaml")
    params_file.write_text("base: all.yaml\n")
    assert checked_params().zoom_train.epochs == 20
    break_it(tmp_path / "all.yaml")
    with pytest.raises(ParamsError, match=r"zoom_train\.epochs"):
        checked_params()


def test_stage_without_params_starts_without_validation(params_file: Path) -> None:
    checked_params()
    program = """
import sys
from flows.stages.entry import main
def run(params):
    assert "pydantic" not in sys.modules
    assert "yaml" not in sys.modules
    assert params.train.epochs == 12
    assert "pydantic" in sys.modules
main(run)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
