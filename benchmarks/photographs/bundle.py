"""Bundles a model of the benchmark: weights in half precision, with an unchanged description."""

from pathlib import Path

from atlas_model.core.checkpoint import CHECKSUM, WEIGHTS, load_model, save_model, to_half
from atlas_model.core.errors import AtlasError
from atlas_model.core.files import write_text
from atlas_model.model.categorizer import Categorizer

CARD = "README.md"
HALVED = 2  # dimensions of tensors in half precision; vectors (biases, statistics of batch norm) stay in full precision
MAX_BYTES = 16_000_000


def bundle(model: Path, folder: Path) -> int:
    """Write ``model`` to ``folder``, whose README.md is kept; returns the size of the weights in bytes.

    Raises:
        CheckpointError: ``model`` is not a sequence model.
        AtlasError: the model is too large.
    """
    tensors, description = load_model(model, Categorizer.kind)
    halved = to_half(tensors, dimensions=HALVED)
    size = sum(tensor.nbytes for tensor in halved.values())
    if size > MAX_BYTES:
        raise AtlasError(
            f"{model}: expected at most {MAX_BYTES / 1e6:.0f} MB in half precision, got {size / 1e6:.1f}. "
            "Train a smaller one (train.hidden_size, title_buckets)"
        )
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    for key in ("format", CHECKSUM):  # `save_model` writes its own
        description.pop(key, None)
    save_model(folder, halved, description)
    if card:
        write_text(folder / CARD, card)
    return (folder / WEIGHTS).stat().st_size
