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
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from atlas_model.core.checksums import remove_with_checksum, replacing_with_checksum, state_of
from atlas_model.core.errors import AtlasError, InputError, MissingError, TaxonomyError
from atlas_model.core.progress import say, track
from atlas_model.data.images import Preprocessing, to_array
from atlas_model.data.schemas import iterate_batches, open_parquet, read_parquet
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
    columns = [read_parquet(shard, wanted).to_pydict() for shard in shards]
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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last: nested too deep
        raise TaxonomyError(
            f"{path}: expected a taxonomy in JSON, got something else ({error}). Make it again: dvc repro split"
        ) from error
    return Taxonomy.from_json(content, source=str(path))


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
    with open_parquet(shard) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        return Preprocessing(**json.loads(metadata[PREPROCESSING_KEY])["preprocessing"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{shard}: no preprocessing in its metadata. Run the stage again: dvc repro split") from error


def _pixels(name: str, shards: list[Path], rows: int, preprocessing: Preprocessing, cache: Path) -> np.ndarray:
    path = cache / f"{name}-{content_key(shards)}.npy"
    if path.exists() and (state := state_of(path)) != "sound":
        why = "damaged" if state == "damaged" else "without a checksum, of an earlier version"
        say(f"{path}: this cache is {why}. The images are decoded again")
        remove_with_checksum(path)
    if not path.exists():
        for old in [*cache.glob(f"{name}-*"), *cache.glob(f".{name}-*.tmp")]:  # the latter are left by killed runs
            old.unlink()
        channels = 3 if preprocessing.mode == "RGB" else 1
        shape = (channels, preprocessing.size, preprocessing.size)
        try:
            # Written, not mapped: writing to a mapped file kills the process (SIGBUS) when the disk is full.
            with replacing_with_checksum(path) as temporary, temporary.open("wb") as file:
                file.write(npy_header(np.dtype(np.uint8), (rows, *shape)))
                for data in track(_image_bytes(shards), "decode", rows, "images"):
                    file.write(_decoded(data, preprocessing, name).tobytes())
        except OSError as error:
            raise AtlasError(
                f"{path}: the pixels of {rows} images could not be written: {error}. Free disk space, and run it again"
            ) from error
    pixels: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def _decoded(data: Any, preprocessing: Preprocessing, name: str) -> UInt8[np.ndarray, "c h w"]:
    """The pixels of an image that the stage `split` wrote."""
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        image.load()
        if image.size != (preprocessing.size, preprocessing.size):
            raise ValueError(f"expected {preprocessing.size} x {preprocessing.size} pixels, got {image.size}")
        return to_array(image.convert(preprocessing.mode))
    except Exception as error:  # decoders raise errors of many types
        raise InputError(
            f"the split {name}: expected PNG images of the stage split, got one that cannot be read: {error}. Make the "
            "split again: dvc repro split"
        ) from error


def _image_bytes(shards: list[Path]) -> Iterator[bytes | None]:
    for shard in shards:
        for batch in iterate_batches(shard, BATCH_ROWS, ["image"]):
            kind = batch.schema.field("image").type
            if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
                raise InputError(f"{shard}: expected images in the column image. Make the split again: dvc repro split")
            yield from pc.struct_field(batch.column("image"), "bytes").to_pylist()
