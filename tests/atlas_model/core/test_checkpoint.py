"""Model folders: save and load round trip, and rejection of invalid files."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from atlas_model.core.checkpoint import CHECKSUM, DESCRIPTION, WEIGHTS, load_model, load_weights, save_model
from atlas_model.core.errors import CheckpointError

TENSORS = {"b": torch.ones(2, 3).T, "a": torch.arange(4, dtype=torch.int64)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", TENSORS, {"kind": "toy", "size": 3})
    return tmp_path / "model"


def test_saved_model_loads_unchanged(folder: Path) -> None:
    tensors, description = load_model(folder, "toy")
    assert len(description.pop(CHECKSUM)) == 64
    assert description == {"format": 2, "kind": "toy", "size": 3}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_model(folder, dict(reversed(TENSORS.items())), {"kind": "toy", "size": 3})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (folder / WEIGHTS).stat().st_mode == (folder / DESCRIPTION).stat().st_mode


def test_failed_save_keeps_the_old_model(folder: Path) -> None:
    with pytest.raises(TypeError):
        save_model(folder, {"a": torch.zeros(1)}, {"kind": "toy", "size": object()})
    assert load_model(folder, "toy")[1]["size"] == 3
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_refuses_other_kinds_and_formats(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"kind 'other'.*kind 'toy'"):
        load_model(folder, "other")
    (folder / DESCRIPTION).write_text(json.dumps({"kind": "toy", "format": 0}))
    with pytest.raises(CheckpointError, match=r"format 1 or 2; .*format 0"):
        load_model(folder, "toy")


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
@pytest.mark.parametrize("damage", ["missing", "truncated", "pickle", "list", "endless"])
def test_refuses_damaged_files(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    contents = {"truncated": path.read_bytes()[:-4], "pickle": pickle.dumps({"kind": "toy"}), "list": b"[]"}
    contents["endless"] = b"[" * 100_000
    path.unlink()
    if damage != "missing":
        path.write_bytes(contents[damage])
    with pytest.raises(CheckpointError, match=name):
        load_model(folder, "toy")


def test_each_changed_byte_is_found(folder: Path) -> None:
    for name in (WEIGHTS, DESCRIPTION):
        whole = (folder / name).read_bytes()
        for position, byte in enumerate(whole):
            if name == DESCRIPTION and bytes([byte]).isspace():  # has no meaning
                continue
            (folder / name).write_bytes(whole[:position] + bytes([byte ^ 1]) + whole[position + 1 :])
            with pytest.raises(CheckpointError):
                load_model(folder, "toy")
        (folder / name).write_bytes(whole)


def test_a_model_of_format_1_has_no_checksum(folder: Path) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    del description[CHECKSUM]
    (folder / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(folder, "toy")
    description["format"] = 1
    (folder / DESCRIPTION).write_text(json.dumps(description))
    assert load_model(folder, "toy")[1]["size"] == 3


def test_refuses_weights_of_another_shape_in_one_line(folder: Path) -> None:
    module = nn.Linear(2, 2)
    load_weights(module, {name: tensor + 1 for name, tensor in module.state_dict().items()}, folder)
    with pytest.raises(CheckpointError, match=WEIGHTS) as caught:
        load_weights(module, TENSORS, folder)
    assert "\n" not in str(caught.value)
