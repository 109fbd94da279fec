"""Keeps the weights of the last training where only names or ids of categories have changed since.

Training depends on categories only by their keys (`Taxonomy.keys`), which a renaming does not change. So it would give
the same weights again, and only the descriptions of the models change. `training_content` is a digest of all that
training reads in the splits, without names and ids. The outputs of the last training are kept under such a digest.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from atlas_model.core.checkpoint import CHECKSUM, DESCRIPTION, load_model, read_description, save_model
from atlas_model.core.checksums import read_json_with_checksum, sha256_of, write_json_with_checksum
from atlas_model.core.errors import CheckpointError
from atlas_model.core.files import replacing, replacing_folder
from atlas_model.core.progress import say
from atlas_model.data.dataset import BATCH_ROWS, PREPROCESSING_KEY
from atlas_model.data.schemas import iterate_batches, open_parquet
from atlas_model.taxonomy.tree import Taxonomy

RECORD = "training.json"  # {"key": ..., "taxonomy": ...}
SUMS = "checksums.json"  # {"<file>": <SHA-256>}
COLUMNS = ("image_id", "product_id", "title", "taxonomy", "image")


def training_content(folder: Path, names: Sequence[str], taxonomy: Taxonomy) -> str:
    """A digest of the splits ``names`` in ``folder`` and of the keys of ``taxonomy``.

    Raises:
        TaxonomyError: a label is not in ``taxonomy``.
    """
    digest = hashlib.sha256(json.dumps(taxonomy.keys).encode())
    for file in (file for name in names for file in sorted(folder.glob(f"{name}-*.parquet"))):
        with open_parquet(file) as table:
            metadata = table.schema_arrow.metadata or {}
        digest.update(b"%s\0%s\0" % (file.name.encode(), metadata.get(PREPROCESSING_KEY, b"")))
        for batch in iterate_batches(file, BATCH_ROWS, COLUMNS):
            for image_id, product_id, title, path, image in zip(
                *(batch[name].to_pylist() for name in COLUMNS), strict=True
            ):
                row = [image_id, product_id, title, taxonomy.index(path), len(image["bytes"])]
                digest.update(json.dumps(row).encode() + image["bytes"])
    return digest.hexdigest()


def keep(memory: Path, key: str, taxonomy: Taxonomy, outputs: Sequence[Path]) -> None:
    """Copy the ``outputs`` of a training (files and folders) to the folder ``memory``, which is replaced."""
    with replacing_folder(memory) as folder:
        for number, output in enumerate(outputs):
            _copy(output, folder / str(number))
        write_json_with_checksum(folder / SUMS, _sums(folder))
        write_json_with_checksum(folder / RECORD, _record(key, taxonomy))


def restore(
    memory: Path, key: str, taxonomy: Taxonomy, outputs: Sequence[Path], *, with_same_names: bool = False
) -> bool:
    """Write the outputs of the last training with the names and ids of ``taxonomy``; False: they cannot be used.

    They can if the last training had the same ``key``, but other names or ids. With the same names, too, someone wants
    to train again, unless ``with_same_names``: then the outputs were lost.
    """
    record = _record(key, taxonomy)
    before: Any = None
    with suppress(OSError, ValueError):
        before = read_json_with_checksum(memory / RECORD)
    kept = [memory / str(number) for number in range(len(outputs))]
    if not isinstance(before, dict) or before.get("key") != key:
        return False
    if before == record and not with_same_names:
        return False
    if not all(path.exists() for path in kept):
        return False
    if not is_sound(memory):
        say(f"{memory}: damaged, or of an earlier version without checksums. The models are trained again")
        return False
    try:
        for path, output in zip(kept, outputs, strict=True):
            _write(path, output, taxonomy)
    except CheckpointError:  # the copy is damaged
        return False
    write_json_with_checksum(memory / RECORD, record)
    return True


def is_sound(memory: Path) -> bool:
    """Whether all files that `keep` wrote are those of their checksums."""
    try:
        read_json_with_checksum(memory / RECORD)
        return bool(read_json_with_checksum(memory / SUMS) == _sums(memory))
    except (OSError, ValueError):
        return False


def _sums(memory: Path) -> dict[str, str]:
    files = sorted(path for path in memory.rglob("*") if path.is_file() and path.name not in (RECORD, SUMS))
    return {str(path.relative_to(memory)): sha256_of(path) for path in files}


def _record(key: str, taxonomy: Taxonomy) -> dict[str, Any]:
    return {"key": key, "taxonomy": taxonomy.to_json()}


def _write(kept: Path, output: Path, taxonomy: Taxonomy) -> None:
    if kept.is_file():
        with replacing(output) as temporary:
            shutil.copyfile(kept, temporary)
    elif (kept / DESCRIPTION).is_file():
        tensors, description = load_model(kept, str(read_description(kept).get("kind")))
        about = {key: value for key, value in description.items() if key not in ("format", CHECKSUM)}
        save_model(output, tensors, about | {"taxonomy": taxonomy.to_json()})
    else:
        with replacing_folder(output) as folder:
            shutil.copytree(kept, folder, dirs_exist_ok=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copyfile(source, target)
    else:
        shutil.copytree(source, target)
