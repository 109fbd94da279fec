"""``atlas export-data``: the splits as a WebDataset, or as a dataset folder of the Hugging Face Hub.

Both hold the images as they are stored in the splits (at training size, PNG) and the labels of today. The same splits
give the same bytes.
"""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.files import replacing_folder
from atlas_model.core.progress import say, track
from atlas_model.data.dataset import load_taxonomy_json
from atlas_model.data.schemas import CHECKSUMS, SPLIT, iterate_batches, open_parquet
from atlas_model.split.names import SPLITS
from atlas_model.taxonomy.tree import Taxonomy
from flows import paths
from flows.cli.outputs import writing

DataFormat = Literal["webdataset", "hub"]
ROWS_AT_ONCE = 256
BLOCK = 512  # bytes of a tar's header, and the unit of its contents
KEY = re.compile(r"[A-Za-z0-9_-]+")  # of a sample: readers split names at the first dot
CARD = paths.REPORTS / "cards/data/README.md"  # written by the stage report
HUB_NAMES = {"train": "train", "val": "validation", "test": "test"}  # of splits, on the Hub
FRONT_MATTER = re.compile(r"\A---\n(.*?\n)?---\n", re.DOTALL)
TEXT_FEATURE = {"dtype": "string", "_type": "Value"}


def export_data(output: Path, form: DataFormat, shard_mb: int) -> int:
    """Write the splits to the folder ``output``.

    Args:
        output: new or empty.
        form: the format.
        shard_mb: largest size of a tar file in MB (10^6 bytes); one sample may be larger.

    Raises:
        InputError: ``output`` is not empty or cannot be written.
        MissingError: there are no splits.
    """
    taxonomy = load_taxonomy_json(paths.TAXONOMY)
    files = {split: sorted(paths.SPLITS.glob(f"{split}-*.parquet")) for split in SPLITS}
    if not any(files.values()):
        raise MissingError(f"{paths.SPLITS}: no *.parquet there. Run the stage that makes it: dvc repro split")
    with writing(output):
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise InputError(
                f"{output}: expected a new or empty folder, got one with files. Choose another, or delete it."
            )
        with replacing_folder(output) as folder:
            if form == "webdataset":
                counts = {
                    split: write_tars(folder, split, found, taxonomy, shard_mb * 1_000_000)
                    for split, found in files.items()
                }
            else:
                counts = {split: _copy_parquet(folder / "data", found, taxonomy) for split, found in files.items()}
                (folder / "README.md").write_text(_hub_readme(counts), encoding="utf-8")
            shutil.copyfile(paths.TAXONOMY, folder / paths.TAXONOMY.name)
    say(f"written: {output} ({', '.join(f'{split} {count}' for split, count in counts.items())} images)")
    return 0


def write_tars(folder: Path, split: str, files: Sequence[Path], taxonomy: Taxonomy, max_bytes: int) -> int:
    """Write ``<split>-000000.tar``, ...; return the number of samples.

    A sample consists of the files ``<image_id>.png``, ``.json`` and ``.cls``, next to each other: the convention of
    WebDataset (https://github.com/webdataset/webdataset). ``.cls`` is the index of the path in taxonomy.json.
    """
    count = shards = 0
    tar: tarfile.TarFile | None = None
    try:
        for row in track(_rows(files), f"export {split}", _count(files), "images"):
            sample = _sample(row, taxonomy)
            size = sum(BLOCK + _rounded_up(len(data), BLOCK) for data in sample.values())
            # Two empty blocks end a tar, which is then filled up to whole records.
            if tar is not None and _rounded_up(tar.offset + size + 2 * BLOCK, tarfile.RECORDSIZE) > max_bytes:
                tar.close()
                tar = None
            if tar is None:
                # USTAR, with the times and owners that TarInfo has by default (none): the same bytes each time.
                path = folder / f"{split}-{shards:06d}.tar"
                tar = tarfile.open(path, "x", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # closed when it is full
                shards += 1
            for name, data in sample.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            count += 1
    finally:
        if tar is not None:
            tar.close()
    return count


def _rounded_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _sample(row: dict[str, Any], taxonomy: Taxonomy) -> dict[str, bytes]:
    key = row["image_id"]
    if not KEY.fullmatch(key):
        raise InputError(
            f"{paths.SPLITS}: the image_id {key!r} cannot be the name of a sample: expected letters, digits, - and _. "
            "Run: dvc repro split"
        )
    about = {name: row[name] for name in ("image_id", "product_id", "title", "taxonomy", "label", "split")}
    about["category_id"] = taxonomy.id_of(row["taxonomy"])
    return {
        f"{key}.png": row["image"]["bytes"],
        f"{key}.json": json.dumps(about, ensure_ascii=False).encode(),
        f"{key}.cls": str(taxonomy.index(row["taxonomy"])).encode(),
    }


def _rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        for batch in _batches(path):
            yield from batch.to_pylist()


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    yield from iterate_batches(path, ROWS_AT_ONCE, SPLIT.names)


def _count(files: Sequence[Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in files)


def _copy_parquet(folder: Path, files: Sequence[Path], taxonomy: Taxonomy) -> int:
    """Copy a split's files; with the column ``category_id`` if the taxonomy has ids."""
    folder.mkdir(exist_ok=True)
    for path in track(files, "export", len(files), "files"):
        if not taxonomy.ids:
            shutil.copyfile(path, folder / path.name)
            continue
        with open_parquet(path) as file:
            schema = _with_ids(file.schema_arrow)
            compression = file.metadata.row_group(0).column(0).compression.lower() if file.metadata.num_rows else "zstd"
        with pq.ParquetWriter(folder / path.name, schema, compression=compression, **CHECKSUMS) as writer:
            for batch in _batches(path):
                ids = [taxonomy.id_of(labels) for labels in batch["taxonomy"].to_pylist()]
                writer.write_batch(
                    pa.RecordBatch.from_arrays([*batch.columns, pa.array(ids, pa.string())], schema=schema)
                )
    return _count(files)


def _with_ids(schema: pa.Schema) -> pa.Schema:
    metadata = dict(schema.metadata or {})
    known = json.loads(metadata.get(b"huggingface", b"{}"))
    if "info" in known:
        known["info"]["features"]["category_id"] = TEXT_FEATURE
        metadata[b"huggingface"] = json.dumps(known).encode()
    return schema.append(pa.field("category_id", pa.string())).with_metadata(metadata)


def _hub_readme(counts: dict[str, int]) -> str:
    """The data card with the configuration that `datasets.load_dataset` reads; a minimal card if there is none."""
    configs = [
        {
            "config_name": "default",
            "data_files": [
                {"split": HUB_NAMES[split], "path": f"data/{split}-*"} for split, count in counts.items() if count
            ],
        }
    ]
    text = CARD.read_text(encoding="utf-8") if CARD.is_file() else _minimal_card(counts)
    found = FRONT_MATTER.match(text)
    try:
        known = yaml.safe_load(found[1] or "") if found else None
    except yaml.YAMLError as error:
        raise InputError(f"{CARD}: expected YAML between the lines ---: {error}. Run: dvc repro report") from error
    header = {**(known if isinstance(known, dict) else {}), "configs": configs}
    # Of data/splits: other names of splits, no ids. The Parquet files have the features of the exported columns.
    header.pop("dataset_info", None)
    body = text[found.end() :] if found else f"\n{text}"
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n{body}"


def _minimal_card(counts: dict[str, int]) -> str:
    sizes = ", ".join(f"{HUB_NAMES[split]} {count}" for split, count in counts.items())
    return f"""---
task_categories: [image-classification]
---

# Product images with category paths

Images: {sizes}. The column `taxonomy` has the names of the levels, `label` has them in one text. `taxonomy.json` lists
all paths. Products, exact duplicates and near-duplicates are never in two splits. Written by `atlas export-data`.
"""
