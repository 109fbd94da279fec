"""A small catalogue to review, as the stages write it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.schemas import (
    IMAGES,
    PRODUCT_PREDICTIONS,
    PRODUCTS,
    REFS,
    SCORES,
    ShardWriter,
    write_table,
)
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import save
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.paths import ROOT

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>{{7*7}}"
CATEGORIES = Taxonomy(
    [
        ("Clothing", "Tops", "Shirt"),
        ("Clothing", "Tops", "Pullover"),
        ("Footwear", "Boots"),
        (HOSTILE.replace(">", ""),),
    ]
)


def write_catalogue(folder: Path, products: int = 40) -> None:
    """Write params.yaml and the outputs of the stages to ``folder``, with an untrained model.

    Product 0 has a hostile title and two images. Each tenth product has a label outside the taxonomy, and no
    prediction. The prediction of product n is the less certain, the smaller n; it is right if n is even.
    """
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    taxonomy = folder / "data/taxonomy.csv"
    taxonomy.parent.mkdir(parents=True, exist_ok=True)
    taxonomy.write_text("\n".join(CATEGORIES.labels) + "\n", encoding="utf-8")
    names = [f"shop.test:{number:03d}" for number in range(products)]
    known = [number for number in range(products) if number % 10 != 9]
    paths = [CATEGORIES.paths[number % 3] if number in known else ("Garden",) for number in range(products)]
    rows = [
        {
            "product_id": name,
            "site": "shop.test",
            "page_url": "javascript:alert(1)" if number == 0 else f"http://shop.test/{number}",
            "title": HOSTILE if number == 0 else f"Product {number}",
            "price": None,
            "breadcrumb": ["Fashion", HOSTILE] if number == 0 else ["Fashion"],
            "taxonomy": list(paths[number]),
            "details": [],
            "image_urls": [],
        }
        for number, name in enumerate(names)
    ]
    write_table(folder / "data/raw/products.parquet", pa.Table.from_pylist(rows, schema=PRODUCTS), PRODUCTS)
    shown = [(name, f"image{number:03d}") for number, name in enumerate(names)] + [(names[0], "second")]
    info = {"width": 60, "height": 80, "format": "PNG", "mode": "RGB", "orientation": 1, "n_frames": 1}
    with ShardWriter(folder / "data/images/shards", IMAGES, 16) as writer:
        for number, (_, image_id) in enumerate(sorted(shown, key=lambda pair: pair[1])):
            writer.append({"image_id": image_id, "bytes": _image(number), **info})
    refs = [
        {"product_id": name, "image_url": image_id, "position": int(image_id == "second"), "image_id": image_id}
        | {"status": "ok"}
        for name, image_id in shown
    ]
    write_table(folder / "data/images/refs.parquet", pa.Table.from_pylist(refs, schema=REFS), REFS)
    scores = [
        {"image_id": image_id, "p_zoomed": number / 100, "keep": number < 35, "phash": number}
        | {"reason": "normal" if number < 35 else "zoomed"}
        for number, (_, image_id) in enumerate(shown)
    ]
    write_table(folder / "data/zoom/scores.parquet", pa.Table.from_pylist(scores, schema=SCORES), SCORES)
    predicted = [
        {
            "product_id": names[number],
            "actual_category": " > ".join(paths[number]),
            "predicted_category": CATEGORIES.labels[(number + number % 2) % 3],
            "log_probability": float(np.log(0.2 + number / 100)),
            "images": 1,
            "disagree": False,
            "split_value": ("train", "val", "test")[number % 3],
        }
        for number in known
    ]
    table = pa.Table.from_pylist(predicted, schema=PRODUCT_PREDICTIONS)
    write_table(folder / "reports/evaluate/products.parquet", table, PRODUCT_PREDICTIONS)
    torch.manual_seed(1)
    model = Categorizer(Architecture("small", 1, "native", 8, 8, 8, 0.0, normalize="children"), CATEGORIES)
    save(model, folder / "models/categorizer", Preprocessing(16, "L", "squash"), params={}, metrics={})


def _image(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    return encode_png(Image.fromarray(pixels).resize((60, 80)))
