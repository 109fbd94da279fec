"""Importing torchvision with a build of torch that lacks its operators."""

import subprocess
import sys

import pytest


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_torchvision_models_work_after_the_import() -> None:
    program = """
import atlas_model.data.torchvision_compat, torch
from torchvision.models import resnet18
print(resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape)
"""
    assert "torch.Size([1, 1000])" in run(program)


@pytest.mark.slow
def test_import_works_without_torchvision_operators() -> None:
    """Simulates a torch build for which torchvision's shared library was not compiled."""
    program = """
import importlib, pathlib, shutil, sys, tempfile
import torch
import importlib.util
source = pathlib.Path(importlib.util.find_spec("torchvision").origin).parent
folder = pathlib.Path(tempfile.mkdtemp())
shutil.copytree(source, folder / "torchvision", ignore=shutil.ignore_patterns("*.so", "datasets", "prototype"))
(folder / "torchvision" / "datasets").symlink_to(source / "datasets")
sys.path.insert(0, str(folder))
try:
    import torchvision
except RuntimeError as error:
    print("broken:", error)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
import atlas_model.data.torchvision_compat
import torchvision
from torchvision.models import resnet18
print(torchvision.__file__.startswith(str(folder)), resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape)
shutil.rmtree(folder)
"""
    out = run(program)
    assert "broken: operator torchvision::nms does not exist" in out
    assert "True torch.Size([1, 1000])" in out
