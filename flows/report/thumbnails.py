"""Small copies of the images of a report, and the limit of their size.

Each image is stored once, whatever the number of places that show it. Images are added in the order of their
importance until the limit is reached; the page says how many are missing.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from atlas_model.core.errors import ImageError
from atlas_model.core.progress import track
from atlas_model.core.threads import ThreadPool
from atlas_model.data.images import decode
from atlas_model.data.schemas import open_parquet, shard_paths

QUALITY = 62  # of WebP: artefacts are not visible at this size
ENLARGED_BELOW = 48  # px: smaller images are enlarged, so that they can be seen
WRAPPING = 120  # bytes of the markup around an image
AT_ONCE = 64  # images in memory as they were fetched


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of an image."""

    number: int  # identifies it in the page
    url: str  # data:
    width: int  # px
    height: int


@dataclass(frozen=True)
class Thumbnails:
    """The images of a page."""

    by_id: Mapping[str, Thumbnail]
    wanted: int  # different images
    unreadable: int  # of these, cannot be decoded, or are not in the shards

    @property
    def left_out(self) -> int:
        """Images for which there was no room."""
        return self.wanted - self.unreadable - len(self.by_id)


def make_thumbnails(shards: Path, wanted: Iterable[str], *, side: int, max_bytes: int) -> Thumbnails:
    """Make thumbnails until they fill ``max_bytes`` of a page.

    Args:
        shards: of `schemas.IMAGES`.
        wanted: image ids, the most important first; repeated ones count once.
        side: px of the longer side.
        max_bytes: limit of their sum, with the markup around them.
    """
    order = list(dict.fromkeys(wanted))
    made: dict[str, tuple[str, int, int]] = {}
    images = track(_read(shards, set(order)), "report: images", len(order), "images")
    with ThreadPool() as threads:  # Pillow releases the GIL
        while batch := list(islice(images, AT_ONCE)):
            encoded = threads.map(partial(_encode, side=side), (content for _, content in batch))
            made |= {image_id: one for (image_id, _), one in zip(batch, encoded, strict=True) if one is not None}
    kept: dict[str, Thumbnail] = {}
    room = max_bytes
    for image_id in order:
        if image_id in made:
            url, width, height = made[image_id]
            room -= len(url) + WRAPPING
            if room < 0:  # a smaller one might fit, but then what is shown would depend on sizes
                break
            kept[image_id] = Thumbnail(len(kept), url, width, height)
    return Thumbnails(kept, len(order), len(order) - len(made))


def _encode(content: bytes, side: int) -> tuple[str, int, int] | None:
    """The URL, width and height of a thumbnail; None if the image cannot be decoded."""
    try:
        small = decode(content, side=side)
    except ImageError:
        return None
    small.thumbnail((side, side))
    if max(small.size) < ENLARGED_BELOW:
        factor = ENLARGED_BELOW / max(small.size)
        small = small.resize((max(1, round(small.width * factor)), max(1, round(small.height * factor))))
    buffer = io.BytesIO()
    small.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", *small.size


def _read(shards: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """The bytes of the images; reads only the row groups that have one."""
    ids = pa.array(sorted(wanted), pa.string())
    for shard in shard_paths(shards, "fetch"):
        with open_parquet(shard) as file:
            for group in range(file.num_row_groups):
                rows = pc.is_in(file.read_row_group(group, columns=["image_id"])["image_id"], value_set=ids)
                if pc.any(rows).as_py():
                    found = file.read_row_group(group, columns=["image_id", "bytes"]).filter(rows)
                    yield from zip(found["image_id"].to_pylist(), found["bytes"].to_pylist(), strict=True)
