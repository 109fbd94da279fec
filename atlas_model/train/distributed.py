"""Data-parallel training in several processes, each with a part of every batch.

`torchrun --nproc_per_node N -m flows.stages.train` starts them on one machine, and stops all if one fails. The
gradients of a step are summed over the processes. Only the main process (rank 0) validates, writes files and logs.

Without torchrun all functions are no-ops for a single process.
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

PATIENCE = timedelta(days=7)  # timeout: the main process may work alone for hours; torchrun handles failed processes

Batch = TypeVar("Batch", bound=Any)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group, if torchrun started this process.

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
        torch.cuda.set_device(own)  # "cuda" is this GPU from now on
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
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this process validates, writes files and logs."""
    return rank() == 0


def local_shard(batch: Batch) -> Batch:
    """This process's part of ``batch`` (a tensor, array or list); empty if there are fewer rows than processes."""
    part: Batch = batch[rank() :: world_size()]
    return part


@contextmanager
def main_process_first() -> Iterator[None]:
    """The main process runs the block before the others do."""
    if world_size() > 1 and not is_main_process():
        dist.barrier()
    yield
    if world_size() > 1 and is_main_process():
        dist.barrier()


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split_with_sizes([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes."""
    all_reduce_sum(tensors)
    for tensor in tensors:
        tensor.div_(world_size())


def all_reduce_gradients(weights: Sequence[Tensor]) -> None:
    """Replace the gradients by their sum over the processes; a process without images adds 0."""
    if world_size() == 1:
        return
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    all_reduce_sum([weight.grad for weight in weights if weight.grad is not None])


def broadcast_from_main(number: float) -> float:
    """Broadcast the main process's ``number``."""
    if world_size() == 1:
        return number
    value = torch.tensor(number, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(value, src=0)
    return float(value)
