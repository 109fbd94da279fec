"""A few generated images, stored as the shared photographs are."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from benchmarks.photographs import photographs

KINDS = {
    ("Apparel", "Topwear", "Shirts"): ("rectangle", "crimson"),
    ("Apparel", "Topwear", "Tops"): ("ellipse", "seagreen"),
    ("Footwear", "Shoes", "Heels"): ("rectangle", "royalblue"),
    ("Footwear", "Shoes", "Flats"): ("ellipse", "goldenrod"),
}


def write_photographs(path: Path, each: int = 14) -> Path:
    """Coloured shapes of four categories, as the shared photographs are stored."""
    rows = []
    draw = np.random.default_rng(1)
    for number in range(each * len(KINDS)):
        kind = list(KINDS)[number % len(KINDS)]
        shape, color = KINDS[kind]
        image = Image.fromarray(draw.integers(180, 256, (48, 48, 3), dtype=np.uint8))
        left, top = draw.integers(2, 18, 2).tolist()
        width, height = draw.integers(14, 28, 2).tolist()
        getattr(ImageDraw.Draw(image), shape)((left, top, left + width, top + height), fill=color)
        data = io.BytesIO()
        image.save(data, "JPEG", quality=95)
        title = f"{color} {kind[-1]} {number}"
        rows.append(
            {"id": number, "jpeg": data.getvalue(), "title": title} | dict(zip(photographs.LEVELS, kind, strict=True))
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
