"""Which device a model runs on, with how many threads, and how a process keeps its memory."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from atlas_model.core.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """The device called ``name``: "cpu", "cuda", or "auto" (CUDA where there is one).

    Raises:
        InputError: CUDA was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for, but torch sees no GPU. Use auto or cpu, or mend the driver.")
    return torch.device(name)


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Have torch compute with one thread, for work of which several parts are done at once.

    Sums of many numbers depend on how many threads add them up: with one, on every machine, they do not depend on who
    does which part. To be entered before threads of ours start, because theirs is the number that they find.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Have this process keep what it frees, rather than give it back and fetch it anew, zeroed, at every step.

    A step of training frees and needs the same hundreds of MiB over and over: kept, it takes a tenth less time. Only
    where the C library is glibc; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**30)  # bytes
        mallopt(M_MMAP_THRESHOLD, 2**30)
