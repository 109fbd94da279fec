"""A small split, as written by the stage split, whose categories follow from brightness and position."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.schemas import SPLIT
from atlas_model.taxonomy.tree import Taxonomy
from flows import paths

TAXONOMY = Taxonomy([("Bright", "Left"), ("Bright", "Right"), ("Dark", "Left")])


def write_split(name: str, count: int) -> None:
    """Write ``count`` images of 16 x 16 pixels as the split ``name`` of the project in the current folder."""
    generator = np.random.default_rng(count)
    rows = []
    for number in range(count):
        path = TAXONOMY.paths[number % 3]
        pixels = generator.integers(0, 40, (16, 16)) + (120 if path[0] == "Bright" else 0)
        pixels[:, :8] += 80 * (path[1] == "Left")
        image = encode_png(Image.fromarray(pixels.astype(np.uint8)))
        row = {"image": {"bytes": image, "path": None}, "image_id": f"{name}{number}", "product_id": f"{number}"}
        rows.append(row | {"title": "", "taxonomy": list(path), "label": " > ".join(path), "split": name})
    metadata = {"atlas": json.dumps({"preprocessing": Preprocessing(16, "L", "squash").to_json()})}
    table = pa.Table.from_pylist(rows, schema=SPLIT).replace_schema_metadata(metadata)
    paths.SPLITS.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, paths.SPLITS / f"{name}-00000-of-00001.parquet")
