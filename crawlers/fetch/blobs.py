"""Append-only storage of image bytes in files of bounded size.

A `Place` (file, offset, size) locates bytes; `index` stores the places.
"""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from atlas_model.core.files import sync_directory

FILE_BYTES = 64_000_000  # size from which a new file is started
MAX_OPEN = 64  # files that are open for reading

DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # errors of the disk, not of a request

NAME = "{:06d}.blob"


class Place(NamedTuple):
    """Location of bytes."""

    file: int
    offset: int
    size: int  # bytes


def damaged_images(folder: Path, images: Iterable[tuple[str, int, int, int]]) -> dict[Path, int]:
    """Compare stored images with their ids, which are their SHA-256.

    Args:
        folder: of the files.
        images: id, file, offset and size, sorted by file.

    Returns:
        Each file of these images, with the number of damaged ones.

    Raises:
        OSError: a file cannot be read.
    """
    found: dict[Path, int] = {}
    for number, of_file in groupby(images, key=itemgetter(1)):
        path = folder / NAME.format(number)
        found[path] = 0
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            found[path] = sum(1 for _ in of_file)
            continue
        try:
            for image_id, _, offset, size in of_file:
                found[path] += hashlib.sha256(os.pread(descriptor, size, offset)).hexdigest() != image_id
        finally:
            os.close(descriptor)
    return found


class Blobs:
    """The files in ``folder``; one process writes to them at a time.

    Args:
        folder: existing folder.
        ends: file -> end of its last indexed bytes. Bytes after it were written by an interrupted run and are cut off;
            files that are not in ``ends`` are removed.
    """

    def __init__(self, folder: Path, ends: Mapping[int, int]) -> None:
        self._folder = folder
        self._readers: dict[int, int] = {}  # file -> descriptor
        for number, path in self._files():
            if number not in ends:
                path.unlink()
            elif path.stat().st_size > ends[number]:
                os.truncate(path, ends[number])
        self.current = max(ends, default=1)  # file that is appended to
        self._offset = 0  # its size
        self._unsynced = self._is_new = False
        self._writer = self._open_writer()

    def sizes(self) -> dict[int, int]:
        """File -> its size in bytes."""
        return {number: path.stat().st_size for number, path in self._files()}

    def append(self, data: bytes) -> Place:
        """Write ``data``; on return the operating system has it."""
        if self._offset >= FILE_BYTES:
            self.start_file()
        place = Place(self.current, self._offset, len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self._writer, view) :]
        self._offset += len(data)
        self._unsynced = True
        return place

    def sync(self) -> None:
        """Sync the bytes to disk: only then may an index refer to them."""
        if self._unsynced:
            os.fsync(self._writer)
            if self._is_new:
                sync_directory(self._folder)
            self._unsynced = self._is_new = False

    def start_file(self) -> None:
        """Start a new file for the next bytes."""
        self.sync()
        os.close(self._writer)
        self.current += 1
        self._writer = self._open_writer()

    def read(self, place: Place) -> bytes:
        """The bytes at ``place``, fewer if the file has been damaged."""
        if place.file not in self._readers:
            if len(self._readers) >= MAX_OPEN:
                self._close_readers()
            self._readers[place.file] = os.open(self._path(place.file), os.O_RDONLY)
        return os.pread(self._readers[place.file], place.size, place.offset)

    def remove(self, file: int) -> None:
        """Remove a file other than the current one."""
        assert file != self.current
        self._close_readers()
        self._path(file).unlink()

    def close(self) -> None:
        """Close all files; a later `append` fails, and writes to no file that has the same descriptor then."""
        os.close(self._writer)
        self._writer = -1
        self._close_readers()

    def _path(self, file: int) -> Path:
        return self._folder / NAME.format(file)

    def _files(self) -> Iterator[tuple[int, Path]]:
        return ((int(path.stem), path) for path in sorted(self._folder.glob("[0-9]" * 6 + ".blob")))

    def _open_writer(self) -> int:
        path = self._path(self.current)
        self._unsynced, self._is_new = False, not path.exists()
        writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._offset = os.fstat(writer).st_size
        return writer

    def _close_readers(self) -> None:
        for descriptor in self._readers.values():
            os.close(descriptor)
        self._readers.clear()
