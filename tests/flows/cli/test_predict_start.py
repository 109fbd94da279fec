"""The first answer comes soon: what `atlas predict` imports, and that the shipped model comes with the package."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.main import main
from flows.registry.model_folders import bundled_model

HEAVY = {
    "aiohttp",
    "dvc",
    "fsspec",
    "lxml",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "pandas",
    "prefect",
    "pyarrow",
    "pydantic",
    "requests",
    "scipy",
    "scrapy",
    "sklearn",
    "sympy",
    "torchvision",
    "twisted",
    "web_poet",
    "yaml",
}
OURS = {"atlas_model.inference.engines", "atlas_model.train.loop", "atlas_model.viz.attention", "crawlers"}

PROGRAM = """
import json, sys
from flows.cli.main import main
assert main(["predict", "a.jpg", "--model", "pretrained"]) == 0
assert main(["predict", "a.jpg", "--model", "pretrained", "--min-confidence", "0.5", "--json"]) == 0
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(1).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save("a.jpg")
    return tmp_path


@pytest.mark.usefixtures("here")
def test_predict_imports_no_heavy_library_but_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    *answers, imported = done.stdout.splitlines()
    assert len(answers) == 2
    modules = set(json.loads(imported))
    assert "torch" in modules
    assert sorted({name.partition(".")[0] for name in modules} & HEAVY) == []
    assert not modules & OURS


def test_pretrained_is_bundled_model_unless_given_as_path(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pretrained").mkdir()
    assert main(["predict", "a.jpg", "--model", "pretrained"]) == 0
    out, err = capsys.readouterr()
    assert err == f"model: {bundled_model()}\n"
    assert out.startswith("a.jpg\t")
    assert main(["predict", "a.jpg", "--model", "./pretrained"]) == 2
    assert "error: pretrained/model.json" in capsys.readouterr().err


def test_bundled_model_is_small() -> None:
    assert sum(file.stat().st_size for file in bundled_model().iterdir()) < 16_100_000


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_wheel_contains_bundled_model(copy_project: Callable[[Path], Path], tmp_path: Path) -> None:
    project, wheels, packages = copy_project(tmp_path / "project"), tmp_path / "wheels", tmp_path / "packages"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", wheels, project], check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    zipfile.ZipFile(wheel).extractall(packages)
    (data,) = packages.glob("*.data/data")  # what an installation moves to the venv's folder
    code = (
        "import sys, sysconfig; sysconfig.get_path = {'data': sys.argv[1]}.get\n"
        "from flows.cli.main import main; sys.exit(main(['predict', 'a.jpg', '--model', 'pretrained']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, data],
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"model: {data}/share/atlas/pretrained\n"
    assert done.stdout.startswith("a.jpg\t")
