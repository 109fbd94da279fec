"""A disk cache of activations: the outputs of an encoder's frozen blocks for a split, read instead of its images.

Each image may have several views: the image itself and augmented ones. They are drawn once, and an epoch reads one of
them at random for each image, so that only the trained blocks are computed.

A cache is one array in half precision. Its file name is a digest of all that it depends on: the code and weights of the
frozen blocks, the preprocessing, the pixels, the augmentation and its seed. So a changed split or weight file never
reads an old cache. It is written row by row under a temporary name, and a killed run resumes after the last complete
row. A split has one cache: making a new one removes the old.

Each row has a checksum (CRC-32), in a file of its own. They are compared when a cache is opened and when its making is
resumed: rows from the first damaged one on are computed again.
"""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import make_folder, sync_directory, write_json
from atlas_model.core.progress import Progress, say
from atlas_model.data import augmentation as augmentation_module
from atlas_model.data.augmentation import Augmentation, view
from atlas_model.data.dataset import Split, npy_header, release_page_cache, to_device
from atlas_model.encoders import efficientnet_lite as efficientnet_lite_module
from atlas_model.encoders import encoder as encoder_module
from atlas_model.encoders.encoder import Encoder, fold_batch_norms

HALF = np.dtype(np.float16)
SUM_BYTES = 4
SUMS = ".crc32"  # suffix of the checksums: of the header of the .npy file, then of each row
ENCODED = 16  # views per batch: few, so that their activations fit into the CPU's cache
ENCODED_ON_GPU = 256
CODE = (augmentation_module, efficientnet_lite_module, encoder_module)


@dataclass(frozen=True)
class Activations:
    """A split as activations of the frozen blocks of an encoder."""

    split: Split
    file: Path  # .npy: rows of views of `shape`, half precision
    header_bytes: int
    views: int  # of each image; the first is the image as it is
    shape: tuple[int, ...]  # of one view's activations

    def __len__(self) -> int:
        return len(self.split)

    @property
    def paths(self) -> Int[np.ndarray, "n"]:
        """Indices of the right paths."""
        return self.split.paths

    @property
    def titles(self) -> Sequence[str]:
        """As in `Split`."""
        return self.split.titles

    def read(
        self, rows: Int[np.ndarray, "b"], device: torch.device, views: Int[np.ndarray, "b"] | None = None
    ) -> Float[Tensor, "b ..."]:
        """Read the activations of ``rows``, in single precision: of the first view, or of ``views``.

        The file is not mapped: mapped pages would count as memory of this process.
        """
        size = HALF.itemsize * prod(self.shape)
        places = rows * self.views + (0 if views is None else views)
        array = np.empty((len(rows), *self.shape), HALF)
        with self.file.open("rb", buffering=0) as file:
            for place, target in zip(places.tolist(), array, strict=True):
                read = os.preadv(file.fileno(), [target.data], self.header_bytes + place * size)
                if read != size:
                    raise AtlasError(f"{self.file}: expected {size} bytes of row {place}, got {read}. Delete the file")
        tensor = to_device(array, device).float()
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def load_activations(
    encoder: Encoder,
    split: Split,
    cache: Path,
    *,
    device: torch.device,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
) -> Activations:
    """Open the activations of ``split`` in ``cache``; compute those that are missing.

    Args:
        encoder: its frozen blocks (`Encoder.freeze_before`) are run.
        split: the images.
        cache: folder. Caches of the same split (by name) with another encoder or other images are removed.
        device: to compute on.
        views: of each image; more than one needs an ``augmentation``.
        augmentation: for the views after the first.
        seed: of the augmentation.

    Raises:
        AtlasError: the disk is full, or a number is too large for half precision.
    """
    key = _key(encoder, split, repr((views, seed, augmentation) if views > 1 else 1))
    path = cache / f"{split.name}-{key}.npy"
    if path.exists() and not is_sound(path):
        say(f"{path}: this cache is damaged, or of an earlier version without checksums. It is made anew")
        path.replace(_part_of(path))
        _sums_of(path).touch()
        _sums_of(path).replace(_sums_of(_part_of(path)))
    if not path.exists():
        with torch.inference_mode():
            shape = tuple(encoder.to(device).eval().activations(split.images(np.arange(1), device)).shape[1:])
        header = npy_header(HALF, (len(split), views, *shape))
        make_folder(cache)
        part = _part_of(path)
        for old in cache.glob(f"{split.name}-*"):
            if old not in (part, _sums_of(part)):
                old.unlink()
        rows = max(1, (ENCODED if device.type == "cpu" else ENCODED_ON_GPU) // views)
        try:
            _write(encoder, split, part, header, shape, views, augmentation, seed, rows=rows, device=device)
        except OSError as error:
            raise AtlasError(
                f"{part}: the activations of {len(split)} images could not be written: {error}. Free disk space "
                f"({len(split) * views * prod(shape) * HALF.itemsize / 1e9:.1f} GB in all) and run it again (it "
                "resumes where it stopped), or lower train.views."
            ) from error
        _sums_of(part).replace(_sums_of(path))
        part.replace(path)
        sync_directory(cache)
    kept = np.load(path, mmap_mode="r", allow_pickle=False)
    return Activations(split, path, kept.offset, views, kept.shape[2:])


def forward_seconds(cache: Path, split: str) -> float | None:
    """Wall time of the frozen blocks for one view of one image, measured when the cache of a split was made.

    Augmentation, reading and writing are not included.

    Args:
        cache: folder, as in `load_activations`.
        split: its name.

    Returns:
        Seconds; None if there is no cache, or its time is unknown.
    """
    for path in cache.glob(f"{split}-*.json"):
        seconds: float = json.loads(path.read_text(encoding="utf-8"))["forward_seconds"]
        return seconds
    return None


@torch.inference_mode()
def _write(  # noqa: PLR0917 - of one caller
    encoder: Encoder,
    split: Split,
    part: Path,
    header: bytes,
    shape: tuple[int, ...],
    views: int,
    augmentation: Augmentation | None,
    seed: int,
    *,
    rows: int,
    device: torch.device,
) -> None:
    """Write the missing rows of ``part``: the header, then one row per image."""
    row_bytes = HALF.itemsize * views * prod(shape)
    frozen = fold_batch_norms(encoder).to(device)
    forward_s, forwarded = 0.0, 0
    with (
        part.open("ab") as file,
        _sums_of(part).open("ab") as sums,
        Progress(f"activations {split.name}", len(split), "images") as progress,
    ):
        done = _sound_rows(part, header, row_bytes)
        if done is None:
            done = 0
            file.truncate(0)
            file.write(header)
            sums.truncate(0)
            sums.write(_sum(header))
        file.truncate(len(header) + done * row_bytes)
        sums.truncate((1 + done) * SUM_BYTES)
        progress.advance(done)
        for start in range(done, len(split), rows):
            some = np.arange(start, min(start + rows, len(split)))
            images = split.images(some, device)
            pairs = zip(some.tolist(), images, strict=True)
            seen = torch.stack([_views(image, row, views, augmentation, seed) for row, image in pairs])
            seen = seen.flatten(0, 1)
            started = time.perf_counter()
            found = frozen.activations(seen).half().cpu()
            forward_s, forwarded = forward_s + time.perf_counter() - started, forwarded + len(seen)
            if not found.isfinite().all():
                raise AtlasError(
                    f"activations: the encoder's outputs overflow half precision (rows {some[0]}-{some[-1]} of "
                    f"{split.name}). Train from an earlier block (train.fine_tune_from), or use other weights."
                )
            written = found.contiguous().numpy().tobytes()
            file.write(written)
            starts = range(0, len(written), row_bytes)
            sums.write(b"".join(_sum(written[first : first + row_bytes]) for first in starts))
            release_page_cache(split.pixels)
            progress.advance(len(some))
        for each in (file, sums):
            each.flush()
            os.fsync(each.fileno())
    if forwarded:  # else a killed run had written all rows
        write_json(part.with_suffix(".json"), {"forward_seconds": forward_s / forwarded})


def is_sound(path: Path) -> bool:
    """Whether all bytes of the cache ``path`` are those of its checksums."""
    with path.open("rb") as file:
        start = file.read(10)  # format 1.0: magic string, version, length of the rest of the header
        header = start + file.read(int.from_bytes(start[8:], "little"))
    sums = _read_sums(path)
    if not sums or sums[0] != _sum(header):
        return False
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except ValueError:  # the file is shorter than its header says
        return False
    row_bytes = HALF.itemsize * prod(shape[1:])
    complete = path.stat().st_size == len(header) + shape[0] * row_bytes and len(sums) == 1 + shape[0]
    return bool(complete and _sound_rows(path, header, row_bytes) == shape[0])


def _sound_rows(path: Path, header: bytes, row_bytes: int) -> int | None:
    """Number of complete rows before the first one that is not that of its checksum; None if the header is not."""
    sums = _read_sums(path)
    with path.open("rb") as file:
        if file.read(len(header)) != header or not sums or sums[0] != _sum(header):
            return None
        rows: Iterator[bytes] = iter(lambda: file.read(row_bytes), b"")
        count = 0
        for expected, row in zip(sums[1:], rows, strict=False):
            if len(row) != row_bytes or _sum(row) != expected:
                break
            count += 1
    return count


def _sum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(SUM_BYTES, "little")


def _read_sums(path: Path) -> list[bytes]:
    """The checksums of the cache ``path``; empty if it has none."""
    try:
        data = _sums_of(path).read_bytes()
    except FileNotFoundError:
        return []
    return [data[start : start + SUM_BYTES] for start in range(0, len(data), SUM_BYTES)]


def _sums_of(path: Path) -> Path:
    return path.with_name(path.name + SUMS)


def _part_of(path: Path) -> Path:
    return path.with_suffix(".part")


def _views(image: Tensor, row: int, views: int, augmentation: Augmentation | None, seed: int) -> Tensor:
    others = []
    for number in range(1, views):
        assert augmentation is not None
        generator = torch.Generator().manual_seed((seed * 1_000_003 + row) * 1_009 + number)
        others.append(view(image, augmentation, generator, mirrored=number == 1 and augmentation.flip))
    return torch.stack([image, *others])


def _key(encoder: Encoder, split: Split, views: str) -> str:
    code = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in CODE]
    blocks: list[nn.Module] = list(encoder.trunk)[: encoder.frozen_blocks]
    digest = hashlib.sha256(
        repr((code, torch.__version__, blocks, split.preprocessing, split.pixels.shape, views)).encode()
    )
    tensors = {"mean": encoder.mean, "std": encoder.std}
    for index, block in enumerate(blocks):
        for name, tensor in (dict(block.named_buffers()) | block.state_dict()).items():  # state_dict lacks some buffers
            tensors[f"{index}.{name}"] = tensor
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for start in range(0, len(split), 256):
        digest.update(np.ascontiguousarray(split.pixels[start : start + 256]).data)
        release_page_cache(split.pixels)
    return digest.hexdigest()[:32]
