"""Finds, downloads and reads the published gzipped IDX files of Fashion-MNIST."""

import gzip
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from atlas_model.core.errors import InputError, MissingError, RetryError

Part = Literal["train", "test"]
Images = UInt8[np.ndarray, "n 28 28"]
Labels = UInt8[np.ndarray, "n"]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
DOWNLOADED = Path("FashionMNIST/raw")  # where torchvision writes it, below its root folder
FOLDERS = (DEBIAN, DOWNLOADED)
IMAGES = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
LABELS = {"train": "train-labels-idx1-ubyte.gz", "test": "t10k-labels-idx1-ubyte.gz"}
REMEDY = (
    "Install the Debian package dataset-fashion-mnist, or download them with torchvision "
    "(torchvision.datasets.FashionMNIST('.', download=True)) and pass its folder FashionMNIST/raw."
)


def read_part(folder: Path, part: Part) -> tuple[Images, Labels]:
    """The images and labels of the official training or test set in ``folder``.

    Raises:
        InputError: a file is damaged, or the numbers of images and labels differ.
    """
    images, labels = read_idx(folder / IMAGES[part], 3), read_idx(folder / LABELS[part], 1)
    if len(images) != len(labels):
        raise InputError(f"{folder}: {len(labels)} labels for {len(images)} images of {part}")
    return images, labels


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The array in a gzipped IDX file of unsigned bytes.

    Raises:
        InputError: the file has another format.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: expected a gzipped IDX file, got: {error}") from error
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise InputError(f"{path}: expected an IDX file of {dimensions} dimensions, got the start {content[:4].hex()}")
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def find_folder(folders: Sequence[Path], *parts: Part) -> Path:
    """The first of ``folders`` that has the files of ``parts``.

    Raises:
        MissingError: no folder has them.
    """
    names = [names[part] for part in parts for names in (IMAGES, LABELS)]
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return folder
    tried = " or ".join(str(folder) for folder in folders)
    raise MissingError(f"expected {' and '.join(names)} in {tried}; found no such files. {REMEDY}")


def find_or_download(folder: Path) -> Path:
    """The folder of the Debian package if it is installed; else torchvision's download below ``folder``.

    Raises:
        RetryError: the files are missing and could not be downloaded.
    """
    places = (DEBIAN, folder / DOWNLOADED)
    try:
        return find_folder(places, "train", "test")
    except MissingError as missing:
        from atlas_model.data import torchvision_compat  # noqa: F401 - torchvision then imports with a CPU-only torch

        datasets = import_module("torchvision.datasets")
        try:
            datasets.FashionMNIST(str(folder), download=True)
            return find_folder(places, "train", "test")
        except Exception as error:  # no network, no disk space, a wrong checksum, ...
            raise RetryError(f"{missing} The download failed: {error}") from error
