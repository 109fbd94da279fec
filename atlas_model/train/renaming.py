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

import pyarrow.parquet as pq

from atlas_model.core.checkpoint import CHECKSUM, DESCRIPTION, load_model, read_description, save_model
from atlas_model.core.errors import CheckpointError
from atlas_model.core.files import replacing, replacing_folder, write_json
from atlas_model.data.dataset import BATCH_ROWS, PREPROCESSING_KEY
from atlas_model.taxonomy.tree import Taxonomy

RECORD = "training.json"  # {"key": ..., "taxonomy": ...}
COLUMNS = ("image_id", "product_id", "title", "taxonomy", "image")


def training_content(folder: Path, names: Sequence[str], taxonomy: Taxonomy) -> str:
    """A digest of the splits ``names`` in ``folder`` and of the keys of ``taxonomy``.

    Raises:
        TaxonomyError: a label is not in ``taxonomy``.
    """
    digest = hashlib.sha256(json.dumps(taxonomy.keys).encode())
    for file in (file for name in names for file in sorted(folder.glob(f"{name}-*.parquet"))):
        with pq.ParquetFile(file) as table:
            metadata = table.schema_arrow.metadata or {}
            digest.update(b"%s\0%s\0" % (file.name.encode(), metadata.get(PREPROCESSING_KEY, b"")))
            for batch in table.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
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
        write_json(folder / RECORD, _record(key, taxonomy))


def restore(memory: Path, key: str, taxonomy: Taxonomy, outputs: Sequence[Path]) -> bool:
    """Write the outputs of the last training with the names and ids of ``taxonomy``; False: they cannot be used.

    They can if the last training had the same ``key``, but other names or ids. With the same names, too, someone wants
    to train again.
    """
    record = _record(key, taxonomy)
    before: Any = None
    with suppress(OSError, ValueError):
        before = json.loads((memory / RECORD).read_text(encoding="utf-8"))
    kept = [memory / str(number) for number in range(len(outputs))]
    if not isinstance(before, dict) or before.get("key") != key or before == record:
        return False
    if not all(path.exists() for path in kept):
        return False
    try:
        for path, output in zip(kept, outputs, strict=True):
            _write(path, output, taxonomy)
    except CheckpointError:  # the copy is damaged
        return False
    write_json(memory / RECORD, record)
    return True


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
