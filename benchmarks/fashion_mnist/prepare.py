"""Stage ``prepare`` of the benchmark: converts the files of Fashion-MNIST to the format of the stage ``split``.

The official test set is the split test. A hash of the number of each training image assigns it to train or val, as in
the stage ``split``. Nothing is filtered: duplicates stay, so that the metrics are comparable with those of others.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from atlas_model.core.files import replacing_folder
from atlas_model.core.params import Params
from atlas_model.core.progress import track
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.split.assign import assign_split
from atlas_model.split.files import SplitWriter
from atlas_model.split.names import SPLITS
from atlas_model.taxonomy.tree import SEPARATOR, Taxonomy
from crawlers.shop.wording import KINDS
from flows import paths
from flows.stages.entry import main, write_metrics
from tools.fashion_mnist import Part, find_or_download, read_part

PREPROCESSING = Preprocessing(28, "L", "squash")
VAL_SHARE = 1 / 12  # of the training part: about 5,000 of 60,000
SEED = 1


def run(params: Params) -> None:
    """Find or download the files, and write them as splits."""
    source = find_or_download(paths.WORK)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
    for part in ("train", "test"):
        for row in read_rows(source, part):
            rows[row["split"]].append(row)
    with replacing_folder(paths.SPLITS) as folder:
        for name, chosen in rows.items():
            with SplitWriter(folder, name, len(chosen), PREPROCESSING) as writer:
                for row in sorted(chosen, key=lambda row: (row["image_id"], row["product_id"])):
                    writer.append(row)
        Taxonomy([kind.taxonomy for kind in KINDS]).save(folder / paths.TAXONOMY.name)
    trained = {row["image_id"] for row in rows["train"]}
    sizes = {name: len(chosen) for name, chosen in rows.items()}
    also = {f"{name}_also_in_train": sum(row["image_id"] in trained for row in rows[name]) for name in ("val", "test")}
    write_metrics("prepare", {"images": sum(sizes.values())}, sizes | also)


def read_rows(source: Path, part: Part) -> Iterator[dict[str, Any]]:
    """The images of an official part as rows of `schemas.SPLIT`, in the order of its files."""
    images, labels = read_part(source, part)
    for index, (pixels, label) in enumerate(track(zip(images, labels, strict=True), part, len(labels), "images")):
        kind, png = KINDS[label], encode_png(Image.fromarray(pixels))
        image_id, product_id = hashlib.sha256(png).hexdigest(), f"fashion-mnist/{part}/{index}"
        yield {
            "image": {"bytes": png, "path": f"{image_id}.png"},
            "image_id": image_id,
            "product_id": product_id,
            "title": kind.taxonomy[-1],
            "taxonomy": list(kind.taxonomy),
            "label": SEPARATOR.join(kind.taxonomy),
            "split": "test"
            if part == "test"
            else assign_split(product_id, val_share=VAL_SHARE, test_share=0.0, seed=SEED),
        }


if __name__ == "__main__":
    main(run)
