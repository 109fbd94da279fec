"""Untrusted weights with a malicious pickle: refused without unpickling, with a remedy."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from atlas_model.core.checkpoint import DESCRIPTION, WEIGHTS, load_model, save_model
from atlas_model.core.errors import CheckpointError, InputError
from atlas_model.data.images import Preprocessing
from atlas_model.encoders.encoder import build_encoder
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import load_categorizer, load_classifier, save
from atlas_model.zoom.model import ZoomModel, ZoomNet
from flows.cli.main import main
from tests.support.isolated_runs import Peak
from tests.support.training import CPU, SMALL, TAXONOMY


class Bomb:
    """A pickle payload that creates a folder when it is loaded."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.sign),)


def torch_file(bomb: Bomb) -> bytes:
    data = io.BytesIO()
    torch.save({"weight": bomb}, data)
    return data.getvalue()


def old_torch_file(bomb: Bomb) -> bytes:
    data = io.BytesIO()
    torch.save({"weight": bomb}, data, _use_new_zipfile_serialization=False)
    return data.getvalue()


KINDS = {"torch": torch_file, "old torch": old_torch_file, "pickle": lambda bomb: pickle.dumps({"weight": bomb})}


@pytest.fixture(params=KINDS)
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    """A file that runs code when it is unpickled; unpickled here once to verify that."""
    data = KINDS[request.param](Bomb(tmp_path / "sign"))
    torch.load(io.BytesIO(data), weights_only=False) if "torch" in request.param else pickle.loads(data)
    (tmp_path / "sign").rmdir()  # the payload works
    return data


def description(kind: str) -> str:
    return json.dumps({"format": 1, "kind": kind})


@pytest.mark.parametrize("given", ["file", "folder", "renamed weights", "renamed description"])
def test_refuses_pickle_as_model(
    given: str, hostile: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "m"):
        Path(folder).mkdir()
    Image.new("L", (28, 28)).save("in/a.png")
    name = {"renamed weights": WEIGHTS, "renamed description": DESCRIPTION}.get(given, "model.pt")
    (Path("m") / name).write_bytes(hostile)
    if given == "renamed weights":
        (Path("m") / DESCRIPTION).write_text(description("categorizer"))
    for command in (["in"], ["--input", "in", "--output", "out.parquet"]):
        assert main(["predict", *command, "--model", "m/model.pt" if given == "file" else "m"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: m/")
        assert "are not supported: reading them can execute code. Train the model again" in error
    assert not Path("sign").exists()
    assert not Path("out.parquet").exists()


def test_refuses_pickle_as_baseline(hostile: bytes, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(hostile)
    (tmp_path / DESCRIPTION).write_text(description("classifier"))
    with pytest.raises(CheckpointError, match="expected weights in the safetensors format"):
        load_classifier(tmp_path, torch.device("cpu"))
    assert not (tmp_path / "sign").exists()


@pytest.mark.slow  # imports torchvision
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_refuses_pickle_as_encoder_weights(name: str, hostile: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(hostile)
    with pytest.raises(InputError, match=r"train\.weights: .* are not supported.*safetensors\.torch\.save_file"):
        build_encoder("resnet18", in_channels=3, grid="native", weights=str(tmp_path / name))
    assert not (tmp_path / "sign").exists()


def test_size_that_a_model_declares_takes_no_memory_before_its_weights_are_compared(tmp_path: Path) -> None:
    """Few bytes can declare a network of any size."""
    image = Preprocessing(16, "L", "squash")
    save(Categorizer(SMALL, TAXONOMY), tmp_path / "model", image, params={}, metrics={})
    tensors, description = load_model(tmp_path / "model", "categorizer")
    description["architecture"]["hidden_size"] = 5_000  # 400 MB
    save_model(tmp_path / "model", tensors, description)
    ZoomModel(ZoomNet(16), Preprocessing(16, "RGB", "squash"), 0.5, {}).save(tmp_path / "zoom")
    tensors, description = load_model(tmp_path / "zoom", "zoom")
    description["preprocessing"]["size"] = 5_000
    save_model(tmp_path / "zoom", tensors, description)
    with Peak() as peak:
        with pytest.raises(CheckpointError, match="others, first"):
            load_categorizer(tmp_path / "model", CPU)
        with pytest.raises(CheckpointError, match="others, first"):
            ZoomModel.load(tmp_path / "zoom", CPU)
    assert peak.mb < 100
