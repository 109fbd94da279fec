"""What a frozen encoder makes of a split's pictures: computed once, kept on disk, and read instead of the pictures.

A cache is one array in half precision, named after all that it depends on: the encoder's code, weights and form, the
preprocessing, and the pixels themselves; so a changed split or weight file never reads an old one. It grows row by
row under another name: a run that was killed goes on after its last whole row. A split has one cache: making a new
one removes the old.

Augmentation changes pixels, so there is none here (params.yaml must say so). Knows nothing of what the cells are for.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlas_model import encoder as encoder_module
from atlas_model.dataset import Split, npy_header, to_device
from atlas_model.encoder import Encoder
from atlas_model.errors import AtlasError
from atlas_model.files import sync_directory
from atlas_model.progress import Progress

HALF = np.dtype(np.float16)


@dataclass(frozen=True)
class Features:
    """A split as a frozen encoder sees it."""

    split: Split
    cells: Float[np.ndarray, "n cells d"]  # memory-mapped, half precision

    def __len__(self) -> int:
        return len(self.split)

    @property
    def paths(self) -> Int[np.ndarray, "n"]:
        """Indices of the right paths."""
        return self.split.paths

    def cells_of(self, rows: Int[np.ndarray, "b"], device: torch.device) -> Float[Tensor, "b cells d"]:
        """Of ``rows``, in single precision."""
        return to_device(self.cells[rows], device).float()


def load_features(encoder: Encoder, split: Split, cache: Path, *, batch_size: int, device: torch.device) -> Features:
    """The cells of ``split``, from ``cache`` as far as they are there.

    Args:
        encoder: frozen: what it makes of a picture must not change as long as the result is in use.
        split: the pictures.
        cache: folder; its caches of the same split (by name) with another encoder or other pictures are removed.
        batch_size: pictures encoded at once.
        device: where.

    Raises:
        AtlasError: there is no room for them, or a feature is too large for half precision.
    """
    path = cache / f"{split.name}-{_key(encoder, split)}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        for old in cache.glob(f"{split.name}-*"):
            if old != part:
                old.unlink()
        try:
            _encode(encoder.to(device).eval(), split, part, batch_size=batch_size, device=device)
        except OSError as error:
            raise AtlasError(
                f"{part}: the features of {len(split)} pictures could not be written: {error}. Make room there and "
                "run it again (it goes on where it stopped), or train with fine_tune_from: layer4."
            ) from error
        part.replace(path)
        sync_directory(cache)
    cells: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return Features(split, cells)


@torch.inference_mode()
def _encode(encoder: Encoder, split: Split, part: Path, *, batch_size: int, device: torch.device) -> None:
    """Bring ``part`` to its full length: a header of numpy's, then one row a picture."""
    shape = (len(split), *encoder(split.pictures(np.arange(1), device)).shape[1:])
    header = npy_header(HALF, shape)
    row_bytes = HALF.itemsize * shape[1] * shape[2]
    with part.open("ab") as file, Progress(f"features {split.name}", len(split), "pictures") as progress:
        done = (file.tell() - len(header)) // row_bytes
        if done < 0:
            done = 0
            file.truncate(0)
            file.write(header)
        file.truncate(len(header) + done * row_bytes)
        progress.advance(done)
        for start in range(done, len(split), batch_size):
            rows = np.arange(start, min(start + batch_size, len(split)))
            cells = encoder(split.pictures(rows, device)).half()
            if not cells.isfinite().all():
                raise AtlasError(
                    f"features: the encoder's numbers do not fit half precision (rows {rows[0]}-{rows[-1]} of "
                    f"{split.name}). Train the last block with it (fine_tune_from: layer4), or take other weights."
                )
            file.write(cells.cpu().numpy())
            progress.advance(len(rows))
        file.flush()
        os.fsync(file.fileno())


def _key(encoder: Encoder, split: Split) -> str:
    code = Path(str(encoder_module.__file__)).read_text(encoding="utf-8"), torch.__version__
    digest = hashlib.sha256(repr((code, encoder, split.preprocessing, split.pixels.shape)).encode())
    for name, tensor in (dict(encoder.named_buffers()) | encoder.state_dict()).items():  # not all buffers are saved
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    digest.update(np.ascontiguousarray(split.pixels).data)  # mapped, not loaded
    return digest.hexdigest()[:32]
