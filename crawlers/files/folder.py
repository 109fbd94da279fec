"""Opens files inside one folder only: untrusted paths and symbolic links cannot lead outside."""

import errno
import os
import re
import stat
from contextlib import suppress
from pathlib import Path, PurePosixPath

from atlas_model.core.errors import MissingError
from atlas_model.core.machine import check_machine
from crawlers.files.table import PARQUET

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class RefusedError(Exception):
    """The file cannot be read; ``status`` is the reason."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Folder:
    """The files in ``path`` and its subfolders.

    Args:
        path: a folder, or a Parquet table with embedded images, which has no files.

    Raises:
        MissingError: ``path`` is neither.
    """

    def __init__(self, path: Path) -> None:
        self.is_table = path.is_file() and path.suffix.lower() in PARQUET
        if not path.is_dir() and not self.is_table:
            raise MissingError(f"{path}: expected a folder of images, got {'a file' if path.exists() else 'nothing'}")
        self.path = path
        self._root = path.resolve(strict=True)

    def open(self, name: str) -> int:
        """Open the file at ``name``, a path relative to the folder; returns a descriptor that the caller closes.

        Raises:
            RefusedError: ``no_image`` (the name is empty), ``url_not_path``, ``outside_folder`` (it is absolute, has
                ``..`` in it, or a link on its way leads out), ``not_found`` (also a link that leads nowhere),
                ``not_a_file``, ``unreadable``.
        """
        if not name:
            raise RefusedError("no_image")
        if URL.match(name):
            raise RefusedError("url_not_path")
        if self.is_table:
            raise RefusedError("not_found")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise RefusedError("outside_folder")
        try:
            real = (self._root / path).resolve(strict=True)  # follows all links without opening the file
        except (ValueError, RuntimeError) as error:  # a NUL character; circular links before Python 3.13
            raise RefusedError("not_found") from error
        except OSError as error:
            raise (RefusedError("not_found") if error.errno == errno.ELOOP else _refused(error)) from error
        if not real.is_relative_to(self._root):
            raise RefusedError("outside_folder")
        return self._open_without_links(real.relative_to(self._root))

    def has(self, name: str) -> bool:
        """Whether `open` would succeed for ``name``."""
        try:
            os.close(self.open(str(PurePosixPath(name)) if name else name))
        except RefusedError:
            return False
        return True

    def _open_without_links(self, path: Path) -> int:
        """Open a resolved path one folder at a time with O_NOFOLLOW, so that a link added meanwhile is not followed."""
        *folders, name = path.parts or (".",)
        at = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in folders:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = below
            if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise RefusedError("not_a_file")
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)  # a pipe would block
        except OSError as error:
            raise _refused(error) from error
        finally:
            with suppress(OSError):
                os.close(at)


def _refused(error: OSError) -> RefusedError:
    check_machine(error)
    if error.errno == errno.ELOOP:  # caused by O_NOFOLLOW
        return RefusedError("outside_folder")
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    return RefusedError("not_found" if missing else "unreadable")
