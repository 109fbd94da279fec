"""The checkpoint of a training in progress, if the machine fails while it is read."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from atlas_model.core.errors import MachineError
from atlas_model.train import state


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
