"""A contact sheet of the images with the highest probability to be zoomed, to inspect what the filter discards."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image, ImageDraw, ImageOps

from atlas_model.core.files import replacing
from atlas_model.data.images import decode

SHOWN = 60  # maximum number of images on a sheet
COLUMNS = 10
TILE = 112  # px
CAPTION = 14  # px below each


def most_confident_zoomed(
    scores: pa.Table, shards: Path, count: int, tile_px: int
) -> Iterator[tuple[Image.Image, float]]:
    """Yield up to ``count`` images that were discarded as zoomed, with p_zoomed, highest first.

    Args:
        scores: of `schemas.SCORES`.
        shards: of `schemas.IMAGES`.
        count: maximum number of images.
        tile_px: side of the square that each image is resized to fit into.
    """
    zoomed = scores.filter(pc.equal(scores["reason"], "zoomed"))
    chosen = zoomed.sort_by([("p_zoomed", "descending"), ("image_id", "ascending")]).slice(0, count)
    image_ids, p_zoomed = chosen["image_id"].to_pylist(), chosen["p_zoomed"].to_pylist()
    found = ds.dataset(shards).to_table(["image_id", "bytes"], filter=pc.field("image_id").isin(image_ids))
    content = dict(zip(found["image_id"].to_pylist(), found["bytes"].to_pylist(), strict=True))
    for image_id, p in zip(image_ids, p_zoomed, strict=True):
        if image_id in content:
            yield ImageOps.contain(decode(content[image_id], side=tile_px).convert("RGB"), (tile_px, tile_px)), p


def write_sheet(path: Path, scores: pa.Table, shards: Path) -> int:
    """Draw up to `SHOWN` images that were discarded as zoomed, with p_zoomed below each, as PNG; return their number.

    Args:
        path: of the file.
        scores: as in `most_confident_zoomed`, with at least one zoomed image.
        shards: as in `most_confident_zoomed`.
    """
    tiles = list(most_confident_zoomed(scores, shards, SHOWN, TILE))
    columns, rows = min(COLUMNS, len(tiles)), -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (max(1, columns) * TILE, max(1, rows) * (TILE + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (tile, p_zoomed) in enumerate(tiles):
        row, column = divmod(index, COLUMNS)
        left, top = column * TILE, row * (TILE + CAPTION)
        sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
        draw.text((left + 4, top + TILE), f"{p_zoomed:.3f}", fill="black")
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")
    return len(tiles)
