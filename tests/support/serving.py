"""A model for the service with titles and guarantees, and images for requests."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atlas_model.model.saved_models import save
from tests.support.title_models import PREPROCESSING, make

PROMISED = 0.9  # accuracy that the model claims to guarantee; its thresholds are arbitrary


def save_model(folder: Path) -> Path:
    """Save the untrained model that reads titles, with guarantees, in ``folder``."""
    model, _ = make()
    of = {"held_out": 500, "accuracy": [PROMISED], "whole": [0.5], "shorter": [0.3]}
    both: dict[str, Any] = {"images": of, "products": of}
    guarantees = {"risk": 0.1, **both, "with_titles": {"image_and_title": both, "title": both}}
    save(model, folder, PREPROCESSING, params={}, metrics={}, guarantees=guarantees)
    return folder


def image_file(seed: int, form: str = "PNG", side: int = 40) -> bytes:
    """The file of an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + seed % 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()
