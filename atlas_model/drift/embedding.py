"""Embeddings of images by a model's encoder: points whose distances measure how different images look."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from atlas_model.core.device import choose_device
from atlas_model.core.errors import ImageError
from atlas_model.data.images import Preprocessing, to_array
from atlas_model.encoders.encoder import encode
from atlas_model.model.saved_models import load_categorizer

SIZE = (
    64  # maximum dimensions; larger embeddings are projected at random, which keeps distances (Johnson-Lindenstrauss)
)
BATCH = 128  # images per batch


@torch.inference_mode()
def embed(model: Path, images: Iterable[bytes], device: str = "auto") -> Float[np.ndarray, "n d"]:
    """Embed each readable image as the mean of the encoder's cells, in half precision.

    Args:
        model: folder of a categorizer.
        images: bytes as served.
        device: as in `choose_device`.

    Raises:
        CheckpointError: ``model`` does not hold a categorizer.
    """
    chosen = choose_device(device)
    categorizer, preprocessing = load_categorizer(model, chosen)
    points = [np.zeros((0, categorizer.encoder.channels), dtype=np.float32)]
    ready = _prepared(images, preprocessing)
    while batch := list(islice(ready, BATCH)):
        cells = encode(categorizer.encoder, torch.from_numpy(np.stack(batch)).to(chosen))  # (b, cells, d)
        points.append(cells.mean(dim=1).float().cpu().numpy())
    found = np.concatenate(points)
    if found.shape[1] > SIZE:
        found = found @ np.random.default_rng(0).standard_normal((found.shape[1], SIZE)) / np.sqrt(SIZE)
    with np.errstate(over="ignore"):
        found = found.astype(np.float16)
    return found[np.isfinite(found).all(axis=1)]


def _prepared(images: Iterable[bytes], preprocessing: Preprocessing) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    for data in images:
        with suppress(ImageError):
            yield to_array(preprocessing.read(data))
