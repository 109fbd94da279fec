"""The checkpoint of a training in progress, if the machine fails while it is read."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from atlas_model.core.errors import MachineError
from atlas_model.train import state
from tests.support.unreadable import unreadable


def test_checkpoint_is_kept_if_too_many_files_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"epochs of work")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(state, "safe_open", fail)
    model = nn.Linear(1, 1)
    with pytest.raises(MachineError, match="too many files are open"):  # not: training starts anew
        state.load_state(path, model, torch.optim.AdamW(model.parameters()))
    assert path.read_bytes() == b"epochs of work"


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EMFILE, OSError), (errno.EACCES, PermissionError), (errno.ENOENT, FileNotFoundError)],
)
def test_checkpoint_that_cannot_be_read_is_not_called_damaged(
    number: int, expected: type[OSError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"epochs of work")
    with unreadable(monkeypatch, number, path), pytest.raises(expected) as caught:
        state.check_state(path)
    assert caught.value.errno == number


def test_checkpoint_is_not_called_damaged_if_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SafetensorError("Cannot allocate memory")

    path = tmp_path / "state.safetensors"
    path.write_bytes(b"epochs of work")
    monkeypatch.setattr(state, "safe_open", fail)
    with pytest.raises(MachineError, match="too little memory"):
        state.check_state(path)
