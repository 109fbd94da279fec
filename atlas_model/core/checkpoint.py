"""Checkpoints: a folder with a model's weights (safetensors) and its description (JSON), written together.

Works for any model. Nothing is unpickled: an untrusted folder can cause an error, but cannot run code. The description
holds a checksum of both files, so that a damaged model is an error and gives no predictions.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from atlas_model.core.errors import CheckpointError
from atlas_model.core.files import replacing, replacing_folder, write_json

FORMAT = 2  # of written models; format 1 had no checksum
READABLE = (1, FORMAT)
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
CHECKSUM = "sha256"  # key of the description
MAX_SHOWN = 500  # characters of what was found, in a message
UNSUPPORTED_FORMATS = "Other formats (.pt, .pth, .ckpt, .bin) are not supported: reading them can execute code"


def save_model(folder: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write both files to ``folder`` atomically; the same values give the same bytes.

    Args:
        folder: replaced if it exists.
        tensors: the weights, by name.
        description: JSON values; ``"kind"`` is the type of model, which `load_model` checks. The written one also has
            the keys ``"format"`` and `CHECKSUM`.
    """
    assert isinstance(description.get("kind"), str), "a description has a kind"
    with replacing_folder(folder) as temporary:
        with replacing(temporary / WEIGHTS) as weights:
            # Not `save_file`: it makes the file readable for its owner alone, whatever the umask.
            weights.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
        whole = {"format": FORMAT, **description}
        write_json(temporary / DESCRIPTION, whole | {CHECKSUM: _checksum(temporary / WEIGHTS, whole)})


def _checksum(weights: Path, description: dict[str, Any]) -> str:
    """SHA-256 of the weights' bytes and of the description without the key `CHECKSUM`."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    rest = {key: value for key, value in description.items() if key != CHECKSUM}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def to_half(tensors: dict[str, Tensor], *, dimensions: int) -> dict[str, Tensor]:
    """Convert tensors of at least ``dimensions`` dimensions to half precision, to halve their size on disk.

    Other tensors are not changed. A model that loads them computes in its own precision.
    """
    return {name: tensor.half() if tensor.dim() >= dimensions else tensor for name, tensor in tensors.items()}


def load_model(folder: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights (onto the CPU) and the description that `save_model` wrote.

    Raises:
        CheckpointError: the folder or a file in it is missing or damaged, or has another kind or format.
    """
    if folder.is_file():
        raise _bad(folder, f"a folder with {DESCRIPTION} and {WEIGHTS}", f"a file. {UNSUPPORTED_FORMATS}")
    description = read_description(folder)
    found = (description.get("kind"), description.get("format"))
    if found[0] != kind or found[1] not in READABLE:
        raise CheckpointError(
            f"{folder}: expected a model of kind {kind!r}, format {' or '.join(map(str, READABLE))}; "
            f"got kind {_shortened(repr(found[0]))}, format {_shortened(repr(found[1]))}. "
            "Train it again with this version, or name another folder."
        )
    try:
        tensors = load_file(folder / WEIGHTS)
        if found[1] != 1 and description.get(CHECKSUM) != _checksum(folder / WEIGHTS, description):
            raise _bad(folder, f"the content that the checksum in {DESCRIPTION} is of", "other content: it is damaged")
        return tensors, description
    except (OSError, SafetensorError) as error:
        raise _bad(folder / WEIGHTS, "weights in the safetensors format", f"{error}. {UNSUPPORTED_FORMATS}") from error


def read_description(folder: Path) -> dict[str, Any]:
    """Read the description without checking its content.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last: JSON nested too deep
        raise _bad(path, "a model's description in JSON", f"{error}. {UNSUPPORTED_FORMATS}") from error
    if not isinstance(description, dict):
        raise _bad(path, "a model's description in JSON", f"a {type(description).__name__}")
    return description


def check_shapes(build: Callable[[], nn.Module], tensors: dict[str, Tensor], folder: Path, *, largest: int) -> None:
    """Check that the module of ``build`` has the ``tensors``, before it is built: it may need any amount of memory.

    Does nothing if the file has as many weights as layers of the declared size have, as all real models do: the check
    imports libraries for a second.

    Args:
        build: builds the module.
        tensors: of the file.
        folder: for the error message.
        largest: of the declared sizes.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape.
    """
    if 4 * largest**2 <= sum(tensor.numel() for tensor in tensors.values()):
        return
    with torch.device("meta"):  # tensors without memory
        expected = build().state_dict()
    wrong = [name for name in expected.keys() | tensors.keys() if _shape(expected, name) != _shape(tensors, name)]
    if wrong:
        name = min(wrong)
        raise _bad(
            folder / WEIGHTS,
            "the weights that its description declares",
            f"{len(wrong)} others, first {name!r}: declared {_shape(expected, name)}, there {_shape(tensors, name)}",
        )


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "none"


def load_weights(module: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Load ``tensors`` into ``module``; ``folder`` is for the error message.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise _bad(
            folder / WEIGHTS, "the weights that its description declares", " ".join(str(error).split())
        ) from error


def _bad(path: Path, expected: str, got: object) -> CheckpointError:
    return CheckpointError(
        f"{path}: expected {expected}, got: {_shortened(got)}. Train the model again, or name another folder."
    )


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
