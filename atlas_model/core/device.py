"""Device selection, torch's threads, and the memory allocator's settings."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from atlas_model.core.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """Return the device for ``name``: "cpu", "cuda", or "auto" (CUDA if available).

    Raises:
        InputError: CUDA was requested and is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was requested, but torch finds no GPU. Use auto or cpu, or fix the driver.")
    return torch.device(name)


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Let torch compute with one thread, for work that several workers share.

    Floating-point sums depend on the number of threads. With one thread they are the same on every machine, whichever
    worker computes a part. Enter this before starting threads: they inherit the setting.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let malloc keep freed memory instead of returning it to the system.

    Each training step allocates and frees the same hundreds of MiB. Keeping them saves a tenth of its time. Has an
    effect with glibc only.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**30)  # bytes
        mallopt(M_MMAP_THRESHOLD, 2**30)
