"""Several processes train one model, each on its share of every batch; a single one needs none of this.

`torchrun --nproc_per_node N -m flows.stages.train` starts them on one machine, and ends all where one dies. Each
adds its part of a step's gradients to those of the others; the first alone validates, writes and speaks.

Knows nothing of models. Without torchrun everything here does nothing.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from atlas_model.core.errors import InputError
from atlas_model.core.progress import WATCHER

PATIENCE = timedelta(days=7)  # for the first one, who may work alone for hours; torchrun sees to those who die

Batch = TypeVar("Batch", bound=Any)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Be one of the processes that torchrun started, if it did.

    Raises:
        InputError: there are fewer GPUs than processes.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if device.type == "cuda":
        own, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= gpus:
            raise InputError(f"torchrun: expected at most {gpus} processes, a GPU for each; got number {own + 1}")
        torch.cuda.set_device(own)  # from now on, what "cuda" means
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        if is_main_process():
            yield
        else:
            os.environ.pop(WATCHER, None)
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
                yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this process is the one that validates, writes and speaks."""
    return rank() == 0


def local_shard(batch: Batch) -> Batch:
    """This process's part of ``batch`` (a tensor, array or list): empty where there are more processes than rows."""
    part: Batch = batch[rank() :: world_size()]
    return part


@contextmanager
def main_process_first() -> Iterator[None]:
    """The first process goes through the block before the others do."""
    if world_size() > 1 and not is_main_process():
        dist.barrier()
    yield
    if world_size() > 1 and is_main_process():
        dist.barrier()


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replace each by its sum over the processes."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split_with_sizes([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Replace each by its mean over the processes."""
    all_reduce_sum(tensors)
    for tensor in tensors:
        tensor.div_(world_size())


def all_reduce_gradients(weights: Sequence[Tensor]) -> None:
    """Give all processes the sum of their gradients; one that saw no image adds nothing."""
    if world_size() == 1:
        return
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    all_reduce_sum([weight.grad for weight in weights if weight.grad is not None])


def broadcast_from_main(number: float) -> float:
    """What the first process says ``number`` is."""
    if world_size() == 1:
        return number
    value = torch.tensor(number, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(value, src=0)
    return float(value)
