"""Writes selected values into params.yaml: keys, order and comments stay, and the previous file is kept as a backup."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atlas_model.core.errors import InputError, ParamsError
from atlas_model.core.files import replacing, write_json
from atlas_model.core.params import load_params
from atlas_model.core.yaml_files import parse_yaml, replace_values
from flows import paths
from flows.git import run_git
from flows.init.choices import Choice

# Digest of the file that this command wrote last; any other content is an edit of the user.
WRITTEN = paths.WORK / "init/written.json"


def check_not_edited(path: Path, force: bool) -> None:
    """Refuse a file with uncommitted changes, unless this module wrote them.

    Raises:
        InputError: it has such changes, and ``force`` is False.
    """
    if force or (WRITTEN.is_file() and json.loads(WRITTEN.read_text())["sha256"] == _digest(path.read_bytes())):
        return
    try:
        said = run_git("status", "--porcelain", "--", path.name, at=path.parent)
    except InputError:  # without git, uncommitted changes are unknown
        return
    if said and not said.startswith("??"):
        raise InputError(
            f"{path}: it has uncommitted changes. Commit them, or overwrite them with --force (the file is kept as a "
            "backup in either case)"
        )


def known_choices(choices: Sequence[Choice], path: Path) -> list[Choice]:
    """The choices whose keys are in the file at ``path``."""
    content = parse_yaml(path)
    return [choice for choice in choices if _has(content, choice.key.split("."))]


def write_choices(path: Path, choices: Sequence[Choice]) -> Path | None:
    """Write the choices if the result is valid and new; return the path of the backup, or None if nothing changed.

    Raises:
        ParamsError: the result would not be valid.
    """
    content = replace_values(path, {tuple(one.key.split(".")): one.value for one in choices}, ParamsError)
    before = path.read_bytes()
    if before == content:
        return None
    backup = path.with_name(f"{path.name}.bak")
    number = 1
    while backup.exists() and backup.read_bytes() != before:
        number += 1
        backup = path.with_name(f"{path.name}.bak{number}")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        shutil.copymode(path, temporary)
        try:
            load_params(temporary)
        except ParamsError as error:
            text = str(error).replace(str(temporary), "with the values for these data")
            raise ParamsError(
                f"{path}: not changed: {text}. Reset the keys named here to their values in git"
            ) from error
        with replacing(backup) as copy:
            shutil.copy2(path, copy)
    write_json(WRITTEN, {"sha256": _digest(content)})
    return backup


def describe_written(path: Path, backup: Path | None) -> str:
    """A line for the report, given the result of `write_choices`."""
    return f"{path}: " + ("unchanged" if backup is None else f"written (the previous file: {backup})")


def _has(content: Any, place: Sequence[str]) -> bool:
    for key in place:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
