"""Weights that would run code if they were unpickled: refused unread, wherever they are given, with what to do."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from atlas_model.core.checkpoint import DESCRIPTION, WEIGHTS
from atlas_model.core.errors import CheckpointError, InputError
from atlas_model.encoders.encoder import build_encoder
from atlas_model.model.saved_models import load_classifier
from flows.cli.main import main


class Bomb:
    """Who unpickles it makes a folder."""

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
    """A file of our own that goes off when it is unpickled: here, once, to see that it would."""
    data = KINDS[request.param](Bomb(tmp_path / "sign"))
    torch.load(io.BytesIO(data), weights_only=False) if "torch" in request.param else pickle.loads(data)
    (tmp_path / "sign").rmdir()  # it works
    return data


def description(kind: str) -> str:
    return json.dumps({"format": 1, "kind": kind})


@pytest.mark.parametrize("given", ["file", "folder", "renamed weights", "renamed description"])
def test_as_a_model(
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


def test_as_the_baseline(hostile: bytes, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(hostile)
    (tmp_path / DESCRIPTION).write_text(description("classifier"))
    with pytest.raises(CheckpointError, match="expected weights in the safetensors format"):
        load_classifier(tmp_path, torch.device("cpu"))
    assert not (tmp_path / "sign").exists()


@pytest.mark.slow  # torchvision is
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_as_first_weights_of_an_encoder(name: str, hostile: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(hostile)
    with pytest.raises(InputError, match=r"train\.weights: .* are not supported.*safetensors\.torch\.save_file"):
        build_encoder("resnet18", in_channels=3, grid="native", weights=str(tmp_path / name))
    assert not (tmp_path / "sign").exists()
