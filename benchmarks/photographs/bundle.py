"""A model of the benchmark becomes the bundled one: weights in half precision, and the description as it is."""

from pathlib import Path

from atlas_model.core.checkpoint import WEIGHTS, load_model, save_model, to_half
from atlas_model.core.errors import AtlasError
from atlas_model.core.files import write_text
from atlas_model.model.categorizer import Categorizer

CARD = "README.md"
HALVED = 2  # dimensions of the tensors in half precision: vectors (biases, statistics of batch norm) are few
MOST_BYTES = 16_000_000


def bundle(model: Path, folder: Path) -> int:
    """Write ``model`` as ``folder``, whose card stays; the size of its weights in bytes.

    Raises:
        CheckpointError: there is no sequence model in ``model``.
        AtlasError: it is too large to be bundled.
    """
    tensors, description = load_model(model, Categorizer.kind)
    halved = to_half(tensors, dimensions=HALVED)
    size = sum(tensor.nbytes for tensor in halved.values())
    if size > MOST_BYTES:
        raise AtlasError(
            f"{model}: expected at most {MOST_BYTES / 1e6:.0f} MB in half precision, got {size / 1e6:.1f}. "
            "Train a smaller one (train.hidden_size, title_buckets)"
        )
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    del description["format"]  # `save_model` writes its own
    save_model(folder, halved, description)
    if card:
        write_text(folder / CARD, card)
    return (folder / WEIGHTS).stat().st_size
