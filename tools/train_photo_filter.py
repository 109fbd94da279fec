"""Trains models/zoom_photographs: the close-up filter of ``zoom.filter: photographs`` in params.yaml.

    python -m tools.train_photo_filter PHOTOGRAPHS.parquet [--cnn-epochs 4]

PHOTOGRAPHS.parquet has a row per product: ``id`` and ``jpeg``, a photograph on a white background.
`tools.photo_filter_images` generates close-ups and normal images from them. The linear layer is evaluated by
cross-validation over products, then fitted on all of them. For comparison, the paper's network is trained on the same
images with the same test split. The threshold is the lowest one that discards at most `MOST_HARD` of the difficult
normal images and `MOST_PLAIN` of the unchanged photographs. All metrics are stored in the description of the model.
Each run on one machine writes the same bytes.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import say, track
from atlas_model.data.images import Preprocessing, decode, to_array
from atlas_model.zoom.linear import ZoomLinear
from atlas_model.zoom.model import ZoomModel
from atlas_model.zoom.training import LabelledImages, draw_splits, encode_features, fit_head, train_zoom
from tools.photo_filter_images import Photograph, close_up, find_product, normal, photographed

OUTPUT = Path("models/zoom_photographs")
SIZE = 64  # px: a close-up of 30 % of a photograph of 224 px is as sharp at this size as a whole one
DRAWN_EVERY = 2  # one of so many products gives generated images; the others only their photograph
NORMAL_VIEWS = 2  # generated normal images of such a product, besides one close-up
OTHERS = 200  # products used in images of groups and in backgrounds
SEED = 1
FOLDS = 5
BATCH = 256
INVERSE_STRENGTH = 0.01
MOST_HARD = 0.03  # largest discarded share of normal images on other backgrounds, in groups or tightly cropped
MOST_PLAIN = 0.002  # largest discarded share of unchanged photographs
VAL_SHARE, TEST_SHARE = 0.1, 0.2  # of the comparison with the paper's network
PLAIN = "photograph"


@dataclass(frozen=True)
class Drawn:
    """Images of one size; parallel lists."""

    pixels: np.ndarray  # uint8, (n, 3, SIZE, SIZE)
    kinds: np.ndarray  # those of `close_up` and `normal`, or PLAIN
    zoomed: np.ndarray  # 0 or 1
    products: np.ndarray  # id of the product


def draw(path: Path, preprocessing: Preprocessing, limit: int | None = None) -> Drawn:
    """The photograph of each product; for some products also generated normal images and a close-up."""
    rows = pq.read_table(path, columns=["id", "jpeg"]).slice(0, limit).to_pylist()
    others = [find_product(decode(row["jpeg"])) for row in rows[::DRAWN_EVERY][:OTHERS]]
    pixels, kinds, zoomed, products = [], [], [], []
    for number, row in enumerate(track(rows, "draw", len(rows), "products")):
        image = decode(row["jpeg"])
        drawn = [(PLAIN, 0, to_array(preprocessing.apply(image)))]
        if number % DRAWN_EVERY == 0:
            drawn += _draw_from(image, others, Random(f"{SEED} {row['id']}"), preprocessing.size)
        for kind, label, values in drawn:
            pixels.append(values)
            kinds.append(kind)
            zoomed.append(label)
            products.append(str(row["id"]))
    return Drawn(np.stack(pixels), np.array(kinds), np.array(zoomed), np.array(products))


def _draw_from(
    image: Image.Image, others: list[Photograph], random: Random, size: int
) -> Iterator[tuple[str, int, np.ndarray]]:
    photograph = find_product(image)
    for _ in range(NORMAL_VIEWS):
        shown, kind = normal(photograph, random.sample(others, 2), random)
        yield kind, 0, photographed(shown, random, size)
    found = close_up(photograph, random)
    if found is not None:
        yield found[1], 1, photographed(found[0], random, size)


def cross_validate(net: ZoomLinear, features: np.ndarray, drawn: Drawn) -> np.ndarray:
    """p_zoomed of each image, from a layer that was fitted on other products."""
    order = {product: place for place, product in enumerate(sorted(set(drawn.products.tolist())))}
    places = np.random.default_rng(SEED).permutation(len(order))
    fold = np.array([places[order[product]] % FOLDS for product in drawn.products.tolist()])
    p_zoomed = np.zeros(len(features), dtype=np.float32)
    for number in range(FOLDS):
        held_out = fold == number
        fit_head(net, features[~held_out], drawn.zoomed[~held_out], INVERSE_STRENGTH)
        p_zoomed[held_out] = probabilities(net, features[held_out])
    return p_zoomed


@torch.inference_mode()
def probabilities(net: ZoomLinear, features: np.ndarray) -> np.ndarray:
    """p_zoomed of each row of features."""
    return torch.sigmoid(net.head(torch.from_numpy(features)).squeeze(1)).numpy()


def choose_threshold(p_zoomed: np.ndarray, drawn: Drawn) -> float:
    """The lowest threshold that discards at most `MOST_HARD` of the difficult and `MOST_PLAIN` of the plain images."""
    hard = (drawn.zoomed == 0) & (drawn.kinds != PLAIN)
    bounds = (np.quantile(p_zoomed[hard], 1 - MOST_HARD), np.quantile(p_zoomed[drawn.kinds == PLAIN], 1 - MOST_PLAIN))
    return round(float(max(bounds)), 3)


def figures(p_zoomed: np.ndarray, drawn: Drawn, threshold: float) -> dict[str, Any]:
    """The share classified as zoomed, for each kind and for the zoomed images together."""
    said = p_zoomed >= threshold
    shares = {kind: float(said[drawn.kinds == kind].mean()) for kind in sorted(set(drawn.kinds.tolist()))}
    return {
        "zoomed_share_of_kind": {kind: round(share, 4) for kind, share in shares.items()},
        "recall_zoomed": round(float(said[drawn.zoomed == 1].mean()), 4),
        "discarded_share_of_photographs": round(shares[PLAIN], 4),
    }


def compare(features: np.ndarray, drawn: Drawn, preprocessing: Preprocessing, epochs: int) -> dict[str, Any]:
    """Metrics of both models, trained and tested on the same products.

    Each uses the threshold that discards `MOST_HARD` of the difficult normal images of the test split.
    """
    part = draw_splits(drawn.products.tolist(), val_share=VAL_SHARE, test_share=TEST_SHARE, seed=SEED)
    shares = {"val_share": VAL_SHARE, "test_share": TEST_SHARE}
    labelled = LabelledImages(drawn.pixels, drawn.zoomed, drawn.products.tolist(), {})
    cnn, _ = train_zoom(
        labelled,
        preprocessing,
        batch_size=128,
        epochs=epochs,
        patience=epochs,
        lr=1e-3,
        seed=SEED,
        device=torch.device("cpu"),
        **shares,
    )
    net = ZoomLinear()
    fit_head(net, features[part == 0], drawn.zoomed[part == 0], INVERSE_STRENGTH)
    test = part == 2
    tested = Drawn(drawn.pixels[test], drawn.kinds[test], drawn.zoomed[test], drawn.products[test])
    scored = {
        "cnn": np.concatenate([cnn.probabilities(batch) for batch in _batches(tested.pixels)]),
        "linear": probabilities(net, features[test]),
    }
    return {name: figures(p, tested, choose_threshold(p, tested)) for name, p in scored.items()}


def _batches(pixels: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(pixels), BATCH):
        yield pixels[start : start + BATCH]


def make(path: Path, output: Path, epochs: int, limit: int | None) -> dict[str, Any]:
    """Write the folder of the model; returns its metrics."""
    preprocessing = Preprocessing(size=SIZE, mode="RGB", resize="squash")
    drawn = draw(path, preprocessing, limit)
    net = ZoomLinear()
    net.load_encoder()
    features = encode_features(net, drawn.pixels, BATCH)
    p_zoomed = cross_validate(net, features, drawn)
    threshold = choose_threshold(p_zoomed, drawn)
    metrics = {"cross_validated": figures(p_zoomed, drawn, threshold)}
    if epochs:
        metrics["held_out_products"] = compare(features, drawn, preprocessing, epochs)
    fit_head(net, features, drawn.zoomed, INVERSE_STRENGTH)
    metrics["fitted_on_all"] = figures(probabilities(net, features), drawn, threshold)
    counts = {label: int((drawn.zoomed == index).sum()) for index, label in enumerate(("normal", "zoomed"))}
    products = len(set(drawn.products.tolist()))
    data = {
        "description": f"{products} photographs of clothing and accessories on white, and {counts['zoomed']} "
        "close-ups cut from them",
        "images": counts,
        "products": products,
        "source": "Fashion Product Images, Kaggle, published by Param Aggarwal, there under the MIT licence",
    }
    ZoomModel(net, preprocessing, threshold, metrics, data).save(output)
    return {"threshold": threshold, **metrics}


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, metavar="PHOTOGRAPHS.parquet", help="columns id and jpeg")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--cnn-epochs", type=int, default=4, help="epochs of the paper's network (default: 4; 0: no comparison)"
    )
    parser.add_argument("--limit", type=int, help="use only the first products, for a test run")
    given = parser.parse_args()
    try:
        found = make(given.photographs, given.output, given.cnn_epochs, given.limit)
    except AtlasError as error:
        sys.exit(f"error: {error}")
    for name, value in found.items():
        say(f"{name}: {value}")


if __name__ == "__main__":
    main()
