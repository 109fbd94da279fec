"""Embeddings of images by the evaluated model: the mean of the encoder's cells, reduced to a bounded size."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from atlas_model.core.device import choose_device, single_threaded_torch
from atlas_model.core.progress import Progress
from atlas_model.data.dataset import Split, to_device
from atlas_model.encoders.encoder import encode
from atlas_model.evaluate.search_runner import CHUNK_BATCHES, StoredModel, pooled_cells
from atlas_model.inference.engines import accelerate
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import load_categorizer

Rows = Int[np.ndarray, "n"]
Points = Float[np.ndarray, "n d"]


def embed_split(
    model: Categorizer,
    split: Split,
    rows: Rows,
    *,
    batch_size: int,
    device: torch.device,
    parallel_map: Callable[[Callable[[Rows], Points], Sequence[Rows]], Iterable[Points]] = map,
    stored: StoredModel | None = None,
) -> Points:
    """Embed ``rows`` of a split as `evaluate` embeds those that it searches; the arguments as there."""
    if stored is None:
        work = partial(embed, model=model, pixels=split.pixels, batch_size=batch_size, device=device)
    else:
        work = partial(embed_stored, stored=stored, batch_size=batch_size)
    chunk = CHUNK_BATCHES * batch_size
    chunks = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    found = [np.empty((0, 0), dtype=np.float32)]
    with Progress(f"embed {split.name}", len(rows), "images") as progress, single_threaded_torch():
        for points in parallel_map(work, chunks):
            found.append(points)
            progress.advance(len(points))
    return np.concatenate(found[1:] or found)


def embed_stored(rows: Rows, *, stored: StoredModel, batch_size: int) -> Points:
    """As `embed`, with the model and the pixels from files."""
    device = choose_device(stored.device)
    pixels = np.load(stored.pixels, mmap_mode="r", allow_pickle=False)
    with single_threaded_torch():
        model, _ = load_categorizer(stored.model, device)
        accelerate(model, "torch", pixels=pixels.shape[1:], cache=None)
        return embed(rows, model=model, pixels=pixels, batch_size=batch_size, device=device)


@torch.inference_mode()
def embed(
    rows: Rows, *, model: Categorizer, pixels: UInt8[np.ndarray, "images c h w"], batch_size: int, device: torch.device
) -> Points:
    """Embed images, batch by batch."""
    batches = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    return np.concatenate([pooled_cells(encode(model.encoder, to_device(pixels[batch], device))) for batch in batches])
