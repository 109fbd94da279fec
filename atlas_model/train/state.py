"""The checkpoint of a training run in progress, one safetensors file: weights, best weights, optimizer, records.

It is written atomically after each epoch, so that a killed run loses at most one epoch. Its metadata hold a checksum of
all tensors and records, so that training never resumes from a damaged one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import replacing
from atlas_model.core.machine import check_machine
from atlas_model.core.progress import say

FORMAT = "2"  # 1 had neither a format nor a checksum
CHECKED = {"format", "sha256"}  # keys of the metadata of format 2


class DamagedStateError(ValueError):
    """A checkpoint whose content is not that of its checksum."""


@dataclass
class TrainingState:
    """State of a run other than the model and its optimizer."""

    records: list[dict[str, float | int | None]]  # one per finished epoch
    best: dict[str, Tensor]  # weights of the best epoch
    average: dict[str, Tensor]  # of the weights, from `moving_average`; empty if there is none


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write everything to ``path`` atomically.

    Raises:
        AtlasError: the disk is full.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"average/{name}": tensor for name, tensor in state.average.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in values.items()}
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            records = json.dumps(state.records)
            about = {"records": records, "format": FORMAT, "sha256": _checksum(cpu, records)}
            save_file(cpu, temporary, metadata=about)
    except (OSError, SafetensorError) as error:
        raise AtlasError(
            f"{path}: the state of training could not be written: {error}. Free disk space and run it again (it "
            "resumes after the last epoch that was written)."
        ) from error


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
    """Load what `save_state` wrote into ``model`` and ``optimizer``.

    Returns:
        The other state; None if there is no such file, or it is not of this model. Training then starts anew; ``model``
        and ``optimizer`` are not changed.
    """
    if not path.exists():
        return None
    try:
        tensors, records = _read(path)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        check_machine(error)
        say(f"{path}: expected the state of training, got: {error}. Training starts anew")
        return None
    weights, best = _below("model/", tensors), _below("best/", tensors)
    if not _shapes(weights) == _shapes(best) == _shapes(model.state_dict()):
        say(f"{path}: expected the state of training of this model, got that of another. Training starts anew")
        return None
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer/", tensors).items():
        index, _, key = name.partition("/")
        if not index.isascii() or not index.isdecimal():
            say(f"{path}: expected the state of an optimizer, got {name[:50]!r}. Training starts anew")
            return None
        values.setdefault(int(index), {})[key] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
    for weight, kept in optimizer.state.items():
        for key, tensor in kept.items():
            if tensor.shape == weight.shape:  # a fused step requires the same memory layout
                kept[key] = torch.empty_like(weight).copy_(tensor)
    return TrainingState(records=records, best=best, average=_below("average/", tensors))


def check_state(path: Path) -> None:
    """Compare a checkpoint with its checksum.

    Raises:
        DamagedStateError: it is not a checkpoint, or damaged.
        OSError: it cannot be read.
        MachineError: memory or open files ran out.
    """
    with path.open("rb"):  # whose error has a number; safetensors says of each that there is no such file
        pass
    try:
        _read(path)
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        check_machine(error)
        raise DamagedStateError(str(error)) from error


def _read(path: Path) -> tuple[dict[str, Tensor], list[dict[str, float | int | None]]]:
    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if CHECKED & about.keys():
        expected = {"records": about["records"], "format": FORMAT, "sha256": _checksum(tensors, about["records"])}
        if about != expected:
            raise DamagedStateError("other content than that of its checksum: it is damaged")
    records: list[dict[str, float | int | None]] = json.loads(about["records"])
    return tensors, records


def _checksum(tensors: Mapping[str, Tensor], records: str) -> str:
    """SHA-256 of the records, and of the names, types, shapes and bytes of the tensors."""
    digest = hashlib.sha256(records.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
