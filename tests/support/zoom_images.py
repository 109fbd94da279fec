"""Images that a close-up classifier can separate, labelled and unlabelled, and training on them."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.schemas import LABELLED
from atlas_model.zoom.model import ZoomModel
from atlas_model.zoom.training import (
    LabelledImages,
    ZoomEpoch,
    read_labelled,
    train_zoom,
)

CPU = torch.device("cpu")

SMALL = Preprocessing(size=16, mode="RGB", resize="squash")
RECIPE: dict[str, Any] = {
    "batch_size": 16,
    "epochs": 6,
    "patience": 3,
    "lr": 0.003,
    "val_share": 0.2,
    "test_share": 0.2,
    "seed": 1,
    "device": CPU,
}


def image(label: str, number: int) -> bytes:
    """Normal: a bright shape on black. Zoomed: bright up to all edges."""
    random = np.random.default_rng([number, label == "zoomed"])
    pixels = random.integers(120, 255, (24, 24, 3), dtype=np.uint8)
    if label == "normal":
        pixels[:6] = pixels[-6:] = pixels[:, :6] = pixels[:, -6:] = 0
    return encode_png(Image.fromarray(pixels))


def row(label: str, number: int, source: str | None = None, content: bytes | None = None) -> dict[str, Any]:
    """A row of the table of labelled images."""
    return {
        "image_id": f"{label}-{number:03}",
        "bytes": image(label, number) if content is None else content,
        "label": label,
        "source_id": source or f"source-{number}",
        "title": "",
    }


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Convert rows to a table of labelled images."""
    return pa.Table.from_pylist(list(rows), schema=LABELLED)


ROWS = [row(label, number) for number in range(60) for label in ("normal", "zoomed") if label == "normal" or number % 2]


@cache
def labelled_images() -> LabelledImages:
    """`ROWS` as training reads them; one object per process."""
    return read_labelled(table_of(ROWS), SMALL)


@cache
def trained_model() -> tuple[ZoomModel, list[ZoomEpoch]]:
    """The paper's network after training on `labelled_images`, once per process, and its epochs."""
    return train_zoom(labelled_images(), SMALL, **RECIPE)


def image_row(image_id: str, content: bytes) -> dict[str, Any]:
    """An image row as the stage fetch writes it."""
    return {
        "image_id": image_id,
        "bytes": content,
        "width": 24,
        "height": 24,
        "format": "PNG",
        "mode": "RGB",
        "orientation": 1,
        "n_frames": 1,
    }


IMAGE_ROWS = [
    image_row("d", image("zoomed", 1001)),
    image_row("b", b"no image"),
    image_row("c", image("normal", 1002)),
    image_row("a", image("zoomed", 1003)),
]


def assert_same_weights(one: ZoomModel, other: ZoomModel) -> None:
    """Fail unless two models have the same weights."""
    weights, others = one.net.state_dict(), other.net.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
