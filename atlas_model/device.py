"""Which device a model runs on."""

import torch

from atlas_model.errors import InputError


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
