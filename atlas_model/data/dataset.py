"""A split as training reads it: pixels in a memory-mapped array, labels as indices of paths.

The images of a split are decoded once into an array on disk, from which each epoch reads.
"""

import hashlib
import io
import json
import mmap
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from atlas_model.core.errors import AtlasError, InputError, MissingError
from atlas_model.core.files import replacing
from atlas_model.core.progress import track
from atlas_model.data.images import Preprocessing, to_array
from atlas_model.taxonomy.tree import Taxonomy

PREPROCESSING_KEY = b"atlas"  # schema metadata of a split's files: {"preprocessing": {...}}
BATCH_ROWS = 1024

Item = TypeVar("Item")


@dataclass(frozen=True)
class Split:
    """One of train, val, test."""

    name: str
    pixels: UInt8[np.ndarray, "n c h w"]  # memory-mapped
    paths: Int[np.ndarray, "n"]
    image_ids: list[str]
    product_ids: list[str]
    preprocessing: Preprocessing
    titles: Sequence[str] = ()  # of the products; "" for none; an empty sequence if titles are not used

    def __len__(self) -> int:
        return len(self.image_ids)

    def images(self, rows: Int[np.ndarray, "b"], device: torch.device) -> UInt8[Tensor, "b c h w"]:
        """Pixels of ``rows``, on ``device``."""
        return to_device(self.pixels[rows], device)


def load_split(folder: Path, name: str, taxonomy: Taxonomy, cache: Path) -> Split:
    """Read split ``name`` from ``folder``.

    Args:
        folder: output of the stage `split`.
        name: train, val or test.
        taxonomy: converts labels to indices.
        cache: folder for the decoded pixels, keyed by the content of the split's files. Older entries of the same
            split are removed.

    Raises:
        AtlasError: the disk has no space for the pixels.
        MissingError: the split does not exist.
        TaxonomyError: a label is not in ``taxonomy``.
    """
    shards = sorted(folder.glob(f"{name}-*.parquet"))
    if not shards:
        raise MissingError(f"{folder}: no {name}-*.parquet there. Run the stage that makes it: dvc repro split")
    preprocessing = _preprocessing_of(shards[0])
    wanted = ["image_id", "product_id", "title", "taxonomy"]
    columns = [pq.read_table(shard, columns=wanted).to_pydict() for shard in shards]
    labels = [path for column in columns for path in column["taxonomy"]]
    return Split(
        name=name,
        pixels=_pixels(name, shards, len(labels), preprocessing, cache),
        paths=np.array([taxonomy.index(path) for path in labels], dtype=np.int64),
        image_ids=[image_id for column in columns for image_id in column["image_id"]],
        product_ids=[product_id for column in columns for product_id in column["product_id"]],
        preprocessing=preprocessing,
        titles=[title or "" for column in columns for title in column["title"]],
    )


def release_page_cache(array: np.ndarray) -> None:
    """Release the pages of a memory-mapped ``array``, which otherwise count as memory of this process."""
    base: Any = array
    while isinstance(base, np.ndarray):  # views of views
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy ``array`` to ``device``; to a GPU asynchronously, from pinned memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def prefetch(items: Iterator[Item], device: torch.device) -> Iterator[Item]:
    """Yield ``items``; with a GPU, a thread prefetches two of them."""
    if device.type != "cuda":  # the thread would take CPU time from the model
        yield from items
        return
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, items, None) for _ in range(2))
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, items, None))
            yield item


def load_taxonomy_json(path: Path) -> Taxonomy:
    """Read the taxonomy that the stage `split` wrote.

    Raises:
        MissingError: the file does not exist.
        TaxonomyError: the file is not a taxonomy.
    """
    if not path.exists():
        raise MissingError(f"{path}: no such file. Run the stage that makes it: dvc repro split")
    return Taxonomy.from_json(json.loads(path.read_text(encoding="utf-8")), source=str(path))


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file (format 1.0) for an array of ``shape``."""
    header = io.BytesIO()
    what = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, what)
    return header.getvalue()


def content_key(paths: list[Path]) -> str:
    """A short digest of the content of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:32]


def _preprocessing_of(shard: Path) -> Preprocessing:
    metadata = pq.read_schema(shard).metadata or {}
    try:
        return Preprocessing(**json.loads(metadata[PREPROCESSING_KEY])["preprocessing"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{shard}: no preprocessing in its metadata. Run the stage again: dvc repro split") from error


def _pixels(name: str, shards: list[Path], rows: int, preprocessing: Preprocessing, cache: Path) -> np.ndarray:
    path = cache / f"{name}-{content_key(shards)}.npy"
    if not path.exists():
        for old in [*cache.glob(f"{name}-*"), *cache.glob(f".{name}-*.tmp")]:  # the latter are left by killed runs
            old.unlink()
        channels = 3 if preprocessing.mode == "RGB" else 1
        shape = (channels, preprocessing.size, preprocessing.size)
        try:
            # Written, not mapped: writing to a mapped file kills the process (SIGBUS) when the disk is full.
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.write(npy_header(np.dtype(np.uint8), (rows, *shape)))
                for data in track(_image_bytes(shards), "decode", rows, "images"):
                    image = Image.open(io.BytesIO(data), formats=["PNG"]).convert(preprocessing.mode)
                    file.write(to_array(image).reshape(shape).tobytes())
        except OSError as error:
            raise AtlasError(
                f"{path}: the pixels of {rows} images could not be written: {error}. Free disk space, or, if an image "
                "cannot be read, make the split again: dvc repro split"
            ) from error
    pixels: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def _image_bytes(shards: list[Path]) -> Iterator[bytes]:
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["image"]):
                for image in batch.column("image").to_pylist():
                    yield image["bytes"]
