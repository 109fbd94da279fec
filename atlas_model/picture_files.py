"""Picture files in folders. Knows nothing of what is in them."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from atlas_model.errors import InputError
from atlas_model.images import FORMATS

SUFFIXES = {f".{name.lower()}" for name in (*FORMATS, "jpg", "tif")}  # what counts as a picture inside a folder


def picture_files(folder: Path) -> Iterator[Path]:
    """The files in ``folder`` and below it that are called pictures, in the order of their paths.

    Links to folders are not followed; other links count as files, wherever they lead.

    Raises:
        InputError: a folder cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be listed: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from picture_files(Path(entry.path))
        elif PurePath(entry.name).suffix.lower() in SUFFIXES and (entry.is_symlink() or entry.is_file()):
            yield Path(entry.path)
