"""Files whose reading fails, as that of a bad sector does, or of a file of another user."""

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class _BadSector(io.FileIO):
    """A file that can be opened, but not read."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # as of the system, without a name

    def readinto(self, buffer: Any, /) -> int:
        return len(self.read())

    def readall(self) -> bytes:
        return self.read()


@contextmanager
def unreadable(patch: pytest.MonkeyPatch, number: int, *paths: Path) -> Iterator[None]:
    """In the block, reading ``paths`` fails with the error ``number``: EIO on read, others when they are opened."""
    real, bad = io.open, {path.resolve() for path in paths}

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, int) and Path(os.fsdecode(file)).absolute() in bad:
            if number == errno.EIO and "b" in mode:
                return _BadSector(file)
            raise OSError(number, os.strerror(number), str(file))
        return real(file, mode, *arguments, **options)

    with patch.context() as inside:
        inside.setattr(io, "open", opened)
        inside.setattr(builtins, "open", opened)
        yield
