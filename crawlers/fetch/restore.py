"""Rebuilds a spool from the output tables, so that a deleted spool does not require fetching everything again."""

from collections.abc import Iterator
from pathlib import Path

from atlas_model.core.progress import track
from atlas_model.data.images import ImageInfo
from atlas_model.data.schemas import IMAGES, REFS, iterate_shards
from crawlers.fetch.index import UrlStatus
from crawlers.fetch.spool import Spool

ROWS_AT_ONCE = 256
INFO = [name for name in IMAGES.names if name not in ("image_id", "bytes")]


def restore(spool: Spool, shards: Path, refs: Path, snapshot: str) -> None:
    """Store the images in ``shards`` and ``refs`` as results of ``snapshot``.

    The next run requests only URLs without an image.

    Raises:
        MissingError: the output tables do not exist.
    """
    spool.restore(_missing(spool, shards))
    spool.settle(_refs(refs), snapshot)


def _missing(spool: Spool, shards: Path) -> Iterator[tuple[str, bytes, ImageInfo]]:
    for batch in track(iterate_shards(shards, IMAGES, "fetch", ROWS_AT_ONCE), "restore", None, "batches"):
        for row, image_id in enumerate(batch["image_id"].to_pylist()):
            if spool.lacks(image_id):
                info = ImageInfo(**{name: batch[name][row].as_py() for name in INFO})
                yield image_id, batch["bytes"][row].as_py(), info


def _refs(refs: Path) -> Iterator[tuple[str, UrlStatus]]:
    for batch in iterate_shards(refs, REFS, "fetch", ROWS_AT_ONCE):
        columns = (batch[name].to_pylist() for name in ("image_url", *UrlStatus._fields))
        yield from ((url, UrlStatus(*found)) for url, *found in zip(*columns, strict=True))
