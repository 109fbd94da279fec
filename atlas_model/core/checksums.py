"""Checksums of files that only this program reads: caches and work in progress.

A file has its SHA-256 in a file beside it, ``<file>.sha256``, in the format of the command ``sha256sum``. A JSON file
has it inside. Files of earlier versions have none.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from atlas_model.core.files import replacing, write_text

SUFFIX = ".sha256"
KEYS = {"sha256", "content"}  # of a JSON file


def sha256_of(path: Path) -> str:
    """SHA-256 of the bytes of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_file(path: Path) -> Path:
    """The file with the checksum of ``path``."""
    return path.with_name(path.name + SUFFIX)


@contextmanager
def replacing_with_checksum(path: Path) -> Iterator[Path]:
    """Like `files.replacing`; the checksum is written first, so ``path`` never exists without it."""
    with replacing(path) as temporary:
        yield temporary
        write_text(checksum_file(path), f"{sha256_of(temporary)}  {path.name}\n")


def write_checksum(path: Path) -> None:
    """Write the checksum of an existing file."""
    write_text(checksum_file(path), f"{sha256_of(path)}  {path.name}\n")


def state_of(path: Path) -> Literal["sound", "damaged", "unchecked"]:
    """Compare a file with its checksum; ``unchecked`` if it has none."""
    try:
        expected = checksum_file(path).read_bytes()
    except FileNotFoundError:
        return "unchecked"
    return "sound" if expected == f"{sha256_of(path)}  {path.name}\n".encode() else "damaged"


def remove_with_checksum(path: Path) -> None:
    """Remove a file and its checksum, if they exist."""
    path.unlink(missing_ok=True)
    checksum_file(path).unlink(missing_ok=True)


def write_json_with_checksum(path: Path, value: Any) -> None:
    """Write ``value`` atomically as JSON, with its checksum."""
    write_text(path, _text(value))


def read_json_with_checksum(path: Path) -> Any:
    """Read what `write_json_with_checksum` wrote, or the JSON of an earlier version, which had no checksum.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    data = path.read_bytes()
    value = json.loads(data)
    if not isinstance(value, dict) or not KEYS & value.keys():
        return value
    # The whole text is compared, so that no byte of it can change: neither the name of a key nor a space.
    if value.keys() != KEYS or data != _text(value["content"]).encode():
        raise ValueError(f"{path}: its content is not that of its checksum")
    return value["content"]


def _text(value: Any) -> str:
    content = json.dumps(value, ensure_ascii=False, allow_nan=False)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f'{{"sha256": "{digest}",\n"content": {content}}}\n'
