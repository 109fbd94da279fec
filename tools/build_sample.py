"""Builds the data of the demo in data/: the sample that the demo shop serves, and the labelled images of zoom_train.

    python -m tools.build_sample [FOLDER]

FOLDER contains the files of Fashion-MNIST. The result depends on its training files alone: each run writes the same
bytes.
"""

import argparse
import csv
import hashlib
import io
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import replacing, write_text
from atlas_model.data.schemas import LABELLED, write_table
from atlas_model.taxonomy.tree import SEPARATOR
from crawlers.shop.catalogue import SAMPLE, SAMPLE_SCHEMA, category_urls
from crawlers.shop.drawing import (
    CLOSE_UP_SIDES,
    SOURCE_SIDE,
    WholeView,
    draw,
    draw_downsampled,
    encode_jpeg,
    find_close_up,
)
from crawlers.shop.wording import KINDS, STYLES
from tools.fashion_mnist import FOLDERS, Images, Labels, find_folder, read_part

SERVED_PER_CLASS = 1250
LABELLED_PER_CLASS = 80
EXAMPLES_PER_CLASS = 2
SEED = 28


def choose(images: Images, labels: Labels, served: int, labelled: int) -> pa.Table:
    """Sample ``served`` + ``labelled`` distinct images of each class with a fixed seed, in the order of the source."""
    first_of = {image.tobytes(): index for index, image in reversed(list(enumerate(images)))}
    distinct = np.array(sorted(first_of.values()))
    random = np.random.default_rng(SEED)
    rows = []
    for label in range(len(KINDS)):
        chosen = random.permutation(distinct[labels[distinct] == label])[: served + labelled]
        rows += [
            {"index": index, "label": label, "served": place < served, "pixels": images[index].tobytes()}
            for place, index in enumerate(chosen.tolist())
        ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["index"]), schema=SAMPLE_SCHEMA)


def label_images(sample: pa.Table) -> pa.Table:
    """Normal and zoomed images (`schemas.LABELLED`) of those in ``sample`` that are not served.

    Every source gives a normal image, and a zoomed one if its garment is broad enough for a close-up. Half of the
    normal ones are scaled down as far as a close-up is, so that sharpness does not separate the classes.
    """
    rows = []
    for source in sample.filter(pa.compute.invert(sample["served"])).to_pylist():
        random = Random(f"{SEED} {source['index']}")
        pixels = np.frombuffer(source["pixels"], dtype=np.uint8).reshape(SOURCE_SIDE, SOURCE_SIDE)
        if random.random() < 0.5:
            normal = draw_downsampled(pixels, random.choice(CLOSE_UP_SIDES))
        else:
            normal = draw(pixels, WholeView())
        drawn = {"normal": normal}
        close_up = find_close_up(pixels, random)
        if close_up is not None:
            drawn["zoomed"] = draw(pixels, close_up)
        for label, image in drawn.items():
            content = encode_jpeg(image)
            rows.append(
                {
                    "image_id": hashlib.sha256(content).hexdigest(),
                    "bytes": content,
                    "label": label,
                    "source_id": f"fashion-mnist/train/{source['index']}",
                    "title": KINDS[source["label"]].taxonomy[-1],
                }
            )
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["image_id"])), schema=LABELLED)


def write_files_example(sample: pa.Table, folder: Path) -> None:
    """Write a small table with its images, as an example for ``crawl.source: files``.

    Two products of each class that are not served; the first has a second, mirrored image.
    """
    rows = [["image", "product", "title", "category", "price"]]
    seen: Counter[int] = Counter()
    for source in sample.filter(pa.compute.invert(sample["served"])).to_pylist():
        kind, number = KINDS[source["label"]], seen[source["label"]]
        if number == EXAMPLES_PER_CLASS:
            continue
        seen[source["label"]] += 1
        pixels = np.frombuffer(source["pixels"], dtype=np.uint8).reshape(SOURCE_SIDE, SOURCE_SIDE)
        product = f"{kind.slug}-{number + 1}"
        for view in range(1 if number else 2):
            name = f"{product}-{'ab'[view]}.jpg"
            with replacing(folder / "images" / name) as temporary:
                temporary.write_bytes(encode_jpeg(draw(pixels, WholeView(mirrored=bool(view)))))
            title = f"{STYLES[source['index'] % len(STYLES)]} {kind.nouns[0]}"
            price = f"{20 + source['index'] % 80}.90"
            rows.append([name, product, title, SEPARATOR.join(kind.taxonomy), price])
    write_text(folder / "products.csv", csv_text([rows[0], *sorted(rows[1:])]))


def csv_text(rows: list[list[str]]) -> str:
    """``rows`` as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def build(source: Path, data: Path, served: int = SERVED_PER_CLASS, labelled: int = LABELLED_PER_CLASS) -> None:
    """Write everything into the folder ``data``."""
    sample = choose(*read_part(source, "train"), served, labelled)
    with replacing(data / SAMPLE.name) as temporary:
        pq.write_table(sample, temporary, compression="zstd", compression_level=19, use_dictionary=False)
    write_table(data / "zoom/labelled/part-00000.parquet", label_images(sample), LABELLED)
    write_text(data / "taxonomy.csv", csv_text([["taxonomy"], *([SEPARATOR.join(kind.taxonomy)] for kind in KINDS)]))
    write_files_example(sample, data / "files")
    urls = category_urls()
    rows = [["->".join(kind.taxonomy), *(urls[host].get(kind, "") for host in urls)] for kind in KINDS]
    write_text(data / "sources.csv", csv_text([["Taxonomy", *urls], *rows]))


def main() -> None:
    """Build from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="with the files of Fashion-MNIST; default: that of the Debian package, or FashionMNIST/raw",
    )
    given = parser.parse_args().folder
    try:
        build(find_folder([given] if given else FOLDERS, "train"), SAMPLE.parent)
    except AtlasError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
