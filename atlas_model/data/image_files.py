"""Finds image files in folders by their suffixes, and reads them. Does not decode them."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

from atlas_model.core.errors import ImageError, InputError

SUFFIXES_OF = {  # suffixes of image files, for each of `images.FORMATS`: Pillow's, and some more
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
SUFFIXES = frozenset(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
APPLE_DOUBLE = "._"  # prefix of the files in which macOS keeps metadata of other files
MAX_LISTED = 8  # suffixes in a message

MAX_BYTES = 500_000_000  # of a file: more than any image of `images.MAX_PIXELS` needs, in any format


def image_files(folder: Path, skipped: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the files in ``folder`` and below it that have a suffix of an image, in the order of their paths.

    Links to folders are not followed. Other links are files, except links to pipes and devices, which may never end.

    Args:
        folder: to search.
        skipped: counts the other files, by suffix or kind.

    Raises:
        InputError: a folder cannot be listed.
    """
    waiting = _scan(folder)  # reversed; no recursion, because folders may be deeper than Python's limit
    while waiting:
        entry = waiting.pop()
        if entry.is_dir(follow_symlinks=False):
            waiting += _scan(Path(entry.path))
        elif reason := _skip_reason(entry):
            if skipped is not None:
                skipped[reason] += 1
        else:
            yield Path(entry.path)


def describe_skipped(skipped: Counter[str]) -> str:
    """Describe what `image_files` has skipped, which is at least one file."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in skipped.most_common(MAX_LISTED))
    more = ", ..." if len(skipped) > MAX_LISTED else ""
    files = f"{skipped.total()} {'file' if skipped.total() == 1 else 'files'}"
    return f"{files} skipped, whose names have no suffix of a supported image format: {kinds}{more}"


def read_image(path: Path) -> bytes:
    """Read the file at ``path``.

    Raises:
        OSError: it cannot be read.
        ImageError: it is larger than `MAX_BYTES`.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ImageError("too_large", f"expected at most {MAX_BYTES} bytes, got {size}")
        return file.read()


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name, reverse=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be listed: {error.strerror}") from error


def _skip_reason(entry: os.DirEntry[str]) -> str:
    """The reason to skip a file; empty if it may be an image."""
    if entry.name.startswith(APPLE_DOUBLE):
        return "AppleDouble"
    suffix = PurePath(entry.name).suffix.lower()
    if suffix not in SUFFIXES:
        return suffix.encode(errors="replace").decode() or "no suffix"
    return "" if _may_be_file(entry) else "not a file"


def _may_be_file(entry: os.DirEntry[str]) -> bool:
    try:
        mode = entry.stat().st_mode
    except OSError:  # a dangling link: reading it will report the error
        return entry.is_symlink()
    return stat.S_ISREG(mode) or (entry.is_symlink() and stat.S_ISDIR(mode))
