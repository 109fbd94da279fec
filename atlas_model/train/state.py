"""Work in progress of a training run in one safetensors file: weights, best weights, optimizer, records.

Written whole after each epoch, so that a kill costs one epoch at most. Knows nothing of the loop.
"""

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
from atlas_model.core.progress import say


@dataclass
class TrainingState:
    """What has to survive beside the model and its optimizer."""

    records: list[dict[str, float | int | None]]  # one per finished epoch
    best: dict[str, Tensor]  # weights of the best epoch
    average: dict[str, Tensor]  # of the weights, as of `moving_average`; empty where there is none


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write everything to ``path``, whole or not at all.

    Raises:
        AtlasError: there is no room for it.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"average/{name}": tensor for name, tensor in state.average.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in values.items()}
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(cpu, temporary, metadata={"records": json.dumps(state.records)})
    except (OSError, SafetensorError) as error:
        raise AtlasError(
            f"{path}: the state of training could not be written: {error}. Make room there and run it again (it goes "
            "on after the last epoch that was)."
        ) from error


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
    """Put what `save_state` wrote into ``model`` and ``optimizer``.

    Returns:
        The rest; None where there is no such file, or none of this model: training then starts anew, and ``model`` and
        ``optimizer`` are as they were.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            records = json.loads(file.metadata()["records"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        say(f"{path}: expected the state of training, got: {error}. Training starts anew")
        return None
    weights, best = _below("model/", tensors), _below("best/", tensors)
    if not _shapes(weights) == _shapes(best) == _shapes(model.state_dict()):
        say(f"{path}: expected the state of training of this model, got that of another. Training starts anew")
        return None
    model.load_state_dict(weights)
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer/", tensors).items():
        index, _, key = name.partition("/")
        values.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
    for weight, kept in optimizer.state.items():
        for key, tensor in kept.items():
            if tensor.shape == weight.shape:  # a fused step takes for granted that they lie in memory alike
                kept[key] = torch.empty_like(weight).copy_(tensor)
    return TrainingState(records=records, best=best, average=_below("average/", tensors))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
