"""Picture files in folders. Knows nothing of what is in them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath

from atlas_model.errors import InputError, PictureError
from atlas_model.images import FORMATS

SUFFIXES = {f".{name.lower()}" for name in (*FORMATS, "jpg", "tif")}  # what counts as a picture inside a folder


MAX_BYTES = 500_000_000  # of a file: more than any picture within `images.MAX_PIXELS` takes, however it is stored


def picture_files(folder: Path) -> Iterator[Path]:
    """The files in ``folder`` and below it that are called pictures, in the order of their paths.

    Links to folders are not followed; other links count as files, wherever they lead, but for pipes and devices,
    which may never end.

    Raises:
        InputError: a folder cannot be listed.
    """
    waiting = _listed(folder)  # last what comes first; no recursion, because folders may be deeper than Python's limit
    while waiting:
        entry = waiting.pop()
        if entry.is_dir(follow_symlinks=False):
            waiting += _listed(Path(entry.path))
        elif PurePath(entry.name).suffix.lower() in SUFFIXES and _may_be_file(entry):
            yield Path(entry.path)


def read_picture(path: Path) -> bytes:
    """The bytes of the file at ``path``.

    Raises:
        OSError: it cannot be read.
        PictureError: it is larger than `MAX_BYTES`.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise PictureError("too_large", f"expected at most {MAX_BYTES} bytes, got {size}")
        return file.read()


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name, reverse=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be listed: {error.strerror}") from error


def _may_be_file(entry: os.DirEntry[str]) -> bool:
    try:
        mode = entry.stat().st_mode
    except OSError:  # a link that leads nowhere: who reads it will say so
        return entry.is_symlink()
    return stat.S_ISREG(mode) or (entry.is_symlink() and stat.S_ISDIR(mode))
