"""A model on disk: a folder with its weights (safetensors) and its description (JSON), written together.

Knows nothing of what the models are. Nothing here is ever unpickled, so a folder from a stranger can be wrong,
and says so, but cannot run code.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from atlas_model.core.errors import CheckpointError
from atlas_model.core.files import replacing, replacing_folder, write_json

FORMAT = 1  # raise it when an older description can no longer be read
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
UNSUPPORTED_FORMATS = (
    "Weights in other forms (.pt, .pth, .ckpt, .bin) are never read: to read them can run what they hold"
)


def save_model(folder: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write both files as ``folder``, whole or not at all; the same values give the same bytes.

    Args:
        folder: replaced if it is there.
        tensors: the weights, by name.
        description: plain JSON values; ``"kind"`` says which model it is, for `load_model` to check.
    """
    assert isinstance(description.get("kind"), str), "a description names its kind"
    with replacing_folder(folder) as temporary:
        with replacing(temporary / WEIGHTS) as weights:
            # Not `save_file`: it lets nobody but the owner read the file, whatever the umask says.
            weights.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
        write_json(temporary / DESCRIPTION, {"format": FORMAT, **description})


def to_half(tensors: dict[str, Tensor], *, dimensions: int) -> dict[str, Tensor]:
    """Half precision for tensors of at least so many ``dimensions``: half the size on disk. The rest stays as it is.

    A model that loads them computes in its own precision.
    """
    return {name: tensor.half() if tensor.dim() >= dimensions else tensor for name, tensor in tensors.items()}


def load_model(folder: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights (on the CPU) and the description that `save_model` wrote.

    Raises:
        CheckpointError: no such folder, a file of it is missing or broken, or it holds another kind or format.
    """
    if folder.is_file():
        raise _bad(folder, f"a folder with {DESCRIPTION} and {WEIGHTS}", f"a file. {UNSUPPORTED_FORMATS}")
    description = read_description(folder)
    found = (description.get("kind"), description.get("format"))
    if found != (kind, FORMAT):
        raise CheckpointError(
            f"{folder}: expected a model of kind {kind!r}, format {FORMAT}; "
            f"got kind {found[0]!r}, format {found[1]!r}. "
            "Train it again with this version, or name another folder."
        )
    try:
        return load_file(folder / WEIGHTS), description
    except (OSError, SafetensorError) as error:
        raise _bad(folder / WEIGHTS, "weights in the safetensors format", f"{error}. {UNSUPPORTED_FORMATS}") from error


def read_description(folder: Path) -> dict[str, Any]:
    """The description alone; what it says of the model is not checked.

    Raises:
        CheckpointError: there is none, or it is broken.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets in brackets in brackets ...
        raise _bad(path, "a model's description in JSON", f"{error}. {UNSUPPORTED_FORMATS}") from error
    if not isinstance(description, dict):
        raise _bad(path, "a model's description in JSON", f"a {type(description).__name__}")
    return description


def load_weights(module: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Put loaded ``tensors`` into ``module``; ``folder`` is named in the error.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise _bad(
            folder / WEIGHTS, "the weights that its description speaks of", " ".join(str(error).split())
        ) from error


def _bad(path: Path, expected: str, got: object) -> CheckpointError:
    return CheckpointError(f"{path}: expected {expected}, got: {got}. Train the model again, or name another folder.")
