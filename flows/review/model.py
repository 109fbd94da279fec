"""Alternatives and attention from the trained model, computed when an item is shown.

The model is loaded in the background, because importing torch takes seconds. Without a model the page works, with the
labels and the stored predictions only.
"""

import io
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atlas_model.core.errors import AtlasError, ImageError
from atlas_model.core.progress import say
from atlas_model.taxonomy.tree import CategoryPath, Taxonomy
from flows.review.images import ImageStore

if TYPE_CHECKING:
    from atlas_model.inference.predictor import Prediction, Predictor

ALTERNATIVES = 9  # at most: one per digit
POOLED_IMAGES = 6  # of a product: the prediction is from these
POOLED_NODES = 20_000  # larger taxonomies: from the first image alone, without the exact search over all nodes
CACHED = 2_000  # answers
CACHED_OVERLAYS = 64  # some 50 kB each

Alternative = tuple[CategoryPath, float]  # path, probability


class Advisor:
    """The model of one server.

    Args:
        folder: of the model; None: there is none.
        images: the images of the catalogue.
        taxonomy: alternatives that are not in it are left out.
    """

    def __init__(self, folder: Path | None, images: ImageStore, taxonomy: Taxonomy) -> None:
        self.folder = folder
        self._images, self._taxonomy = images, taxonomy
        self._predictor: Predictor | None = None
        self._loaded = threading.Event()
        self._busy = threading.Lock()  # one prediction or drawing at a time: torch uses all cores for one
        self.alternatives = lru_cache(CACHED)(self._alternatives)
        self.overlay = lru_cache(CACHED_OVERLAYS)(self._overlay)

    def start(self) -> None:
        """Load the model in a thread."""
        if self.folder is None:
            self._loaded.set()
        else:
            threading.Thread(target=self._load, args=(self.folder,), daemon=True).start()

    def _load(self, folder: Path) -> None:
        try:
            from atlas_model.inference.predictor import Predictor

            self._predictor = Predictor.load(folder)
        except AtlasError as error:
            say(f"warning: review: no alternatives and no attention, because the model cannot be loaded: {error}")
        finally:
            self._loaded.set()

    @property
    def predictor(self) -> "Predictor | None":
        """The model, once it is loaded; None: there is none, or it cannot be loaded."""
        self._loaded.wait()
        return self._predictor

    def _alternatives(self, image_ids: Sequence[str], title: str) -> list[Alternative]:
        """The most probable paths for the images of a product, best first; empty without a model or a readable image.

        Args:
            image_ids: a tuple.
            title: used by models that read titles.
        """
        predictor = self.predictor
        if predictor is None:
            return []
        pixels = []
        for image_id in image_ids[:POOLED_IMAGES]:
            try:
                pixels.append(predictor.prepare(predictor.read(self._images.read(image_id))))
            except (ImageError, KeyError):
                continue
            if predictor.nodes > POOLED_NODES:
                break
        if not pixels:
            return []
        with self._busy:
            found = self._predict(predictor, np.stack(pixels), title if predictor.reads_titles else None)
        return [(each.path, float(each.probability or 0.0)) for each in found if each.path in self._taxonomy]

    def _predict(self, predictor: "Predictor", pixels: np.ndarray, title: str | None) -> "list[Prediction]":
        titles = None if title is None else [title] * len(pixels)
        if predictor.nodes > POOLED_NODES:
            return predictor.predict_prepared(pixels, beam=ALTERNATIVES, top=ALTERNATIVES, titles=titles)[0]
        pool = predictor.pool()
        pool.add(predictor.distribution(pixels, titles))
        return predictor.predict_product(pool, top=ALTERNATIVES).predictions

    def _overlay(self, image_id: str, path: CategoryPath) -> bytes | None:
        """The attention for each level of ``path`` on the image, as PNG; None without a model that knows the path.

        Raises:
            KeyError: there is no such image.
            ImageError: it cannot be decoded.
        """
        predictor = self.predictor
        if predictor is None or path not in predictor.taxonomy:
            return None
        from atlas_model.inference.predictor import Prediction

        image = predictor.read(self._images.read(image_id))
        buffer = io.BytesIO()
        with self._busy:
            predictor.attention_overlay(image, Prediction(path, None, ())).save(buffer, "PNG")
        return buffer.getvalue()
