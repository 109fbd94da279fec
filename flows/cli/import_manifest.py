"""``atlas import-manifest``: downloads labelled images for the stage zoom_train, from a manifest of their URLs.

Downloads as the stage fetch does: each distinct URL once, validated, resumable. A URL or an image with both labels is
discarded and counted; of exact duplicates, the first row of the manifest is kept.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from atlas_model.core.errors import InputError
from atlas_model.data.schemas import LABELLED, LABELS, ShardWriter
from crawlers.fetch.images import FetchReport, fetch_images
from crawlers.fetch.index import UrlStatus
from crawlers.fetch.spool import Spool
from crawlers.sources.manifest import LabelledImage, read_labelled_manifest

T = TypeVar("T")


@dataclass(frozen=True)
class ImportReport:
    """Counts of the rows of a manifest: each row is in ``kept`` or in ``dropped``."""

    rows: int
    kept: dict[str, int]  # by label
    dropped: dict[str, int]  # by reason: label_conflict, duplicate, or the status of the fetch
    label_conflicts: int  # URLs and images with both labels; each may have several rows
    fetch: FetchReport

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return asdict(self)


def import_manifest(manifest: Path, output: Path, work: Path, *, shard_rows: int, **fetch_options: Any) -> ImportReport:
    """Download the images of ``manifest`` to ``output``, whose content is replaced.

    Args:
        manifest: JSON, see `crawlers.sources.manifest.read_labelled_manifest`.
        output: folder for shards of `schemas.LABELLED`, sorted by image_id.
        work: folder of the spool that all manifests share; not tracked by git.
        shard_rows: images per shard.
        **fetch_options: as `crawlers.fetch.images.fetch_images` takes them.

    Raises:
        InputError: ``manifest`` is not valid, or ``output`` contains other files than Parquet.
        RetryError: no image could be downloaded.
    """
    _check_replaceable(output)
    rows = read_labelled_manifest(manifest)
    conflicting_urls = _with_both_labels((row.image_url, row.label) for row in rows)
    usable = [row for row in rows if row.image_url not in conflicting_urls]
    with manifest.open("rb") as file:
        snapshot = hashlib.file_digest(file, "sha256").hexdigest()
    with Spool(work) as spool:
        report = fetch_images((row.image_url for row in usable), spool, snapshot=snapshot, **fetch_options)
        fetched = [spool.lookup(row.image_url) for row in usable]
        conflicting = _with_both_labels(
            (found.image_id, row.label) for row, found in zip(usable, fetched, strict=True)
        ) - {None}
        kept, dropped = _decide(zip(usable, fetched, strict=True), conflicting)
        dropped["label_conflict"] += len(rows) - len(usable)
        with ShardWriter(output, LABELLED, shard_rows) as writer:
            for image in spool.images():
                if image["image_id"] in kept:
                    writer.append(_labelled_row(image, kept[image["image_id"]]))
        spool.drop_unwanted()
    labels = Counter(row.label for row in kept.values())
    return ImportReport(
        rows=len(rows),
        kept={label: labels[label] for label in LABELS},
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
        label_conflicts=len(conflicting_urls) + len(conflicting),
        fetch=report,
    )


def _check_replaceable(folder: Path) -> None:
    others = [path.name for path in folder.iterdir() if path.suffix != ".parquet"] if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        found = f"also {others[0]!r}" if others else "a file"
        raise InputError(
            f"{folder}: its content would be replaced: expected a new folder, or only Parquet files, got {found}"
        )


def _with_both_labels(labelled: Iterable[tuple[T, str]]) -> set[T]:
    labels_of: defaultdict[T, set[str]] = defaultdict(set)
    for key, label in labelled:
        labels_of[key].add(label)
    return {key for key, labels in labels_of.items() if len(labels) > 1}


def _decide(
    rows: Iterable[tuple[LabelledImage, UrlStatus]], conflicting: Set[str | None]
) -> tuple[dict[str, LabelledImage], Counter[str]]:
    """The row that is kept for each image_id, and the number of other rows by reason."""
    kept: dict[str, LabelledImage] = {}
    dropped: Counter[str] = Counter()
    for row, found in rows:
        if found.image_id is None:
            dropped[found.status] += 1
        elif found.image_id in conflicting:
            dropped["label_conflict"] += 1
        elif found.image_id in kept:
            dropped["duplicate"] += 1
        else:
            kept[found.image_id] = row
    return kept, dropped


def _labelled_row(image: Mapping[str, Any], row: LabelledImage) -> dict[str, Any]:
    image_id = image["image_id"]
    # A manifest does not name the original that an image was cut from, so each image is its own source.
    return {
        "image_id": image_id,
        "bytes": image["bytes"],
        "label": row.label,
        "source_id": image_id,
        "title": row.title,
    }
