"""Pictures to category paths with a model folder: what the command line and a service are made of.

Knows nothing of where pictures come from or where answers go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image

from atlas_model.categorizer import Categorizer, load_categorizer
from atlas_model.device import choose_device
from atlas_model.images import Preprocessing, to_array
from atlas_model.search import Found
from atlas_model.taxonomy import SEPARATOR, CategoryPath

BATCH = 64  # pictures at once, so that a folder of any size fits


@dataclass(frozen=True)
class Prediction:
    """A category path and how probable the model finds it, [0, 1]."""

    path: CategoryPath
    probability: float


class Predictor:
    """A trained model, ready to answer."""

    def __init__(self, model: Categorizer, preprocessing: Preprocessing, device: torch.device) -> None:
        self._model, self._preprocessing, self._device = model, preprocessing, device

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Self:
        """The model in ``folder``.

        Raises:
            CheckpointError: there is none.
            InputError: no such device.
        """
        chosen = choose_device(device)
        return cls(*load_categorizer(folder, chosen), chosen)

    def predict(self, pictures: Sequence[Image.Image], beam: int = 5, top: int = 1) -> list[list[Prediction]]:
        """The ``top`` most probable paths of each picture (as `images.decode` gives it), best first."""
        found = []
        for start in range(0, len(pictures), BATCH):
            found += self._read(self._search(pictures[start : start + BATCH], beam, top))
        return found

    def attention_overlay(self, picture: Image.Image, beam: int = 5) -> Image.Image:
        """A strip that shows where the model looked for each level of its best path."""
        from atlas_model.attention import overlay  # matplotlib is slow to import

        found = self._search([picture], beam, top=1)
        best = self._read(found)[0][0]
        title = f"{SEPARATOR.join(best.path)}   ({best.probability:.0%})"
        seen = self._preprocessing.apply(picture)
        return overlay(seen, best.path, found.attention[0, 0].cpu().numpy(), title=title)

    def _search(self, pictures: Sequence[Image.Image], beam: int, top: int) -> Found:
        pixels = np.stack([to_array(self._preprocessing.apply(picture)) for picture in pictures])
        with torch.inference_mode():
            return self._model.search(torch.from_numpy(pixels).to(self._device), beam=max(beam, top), top=top)

    def _read(self, found: Found) -> list[list[Prediction]]:
        probabilities = found.log_probability.exp().tolist()
        return [
            [
                Prediction(self._model.taxonomy.paths[path], probability)
                for path, probability in zip(row, row_probabilities, strict=True)
                if path >= 0
            ]
            for row, row_probabilities in zip(found.path.tolist(), probabilities, strict=True)
        ]
