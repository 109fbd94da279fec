"""Fake models, and runs of batch prediction, also for child processes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from atlas_model.confidence.products import ProductPool
from atlas_model.data.image_sources import ImageSource, open_source
from atlas_model.data.images import to_array
from atlas_model.inference import batch
from atlas_model.inference.batch import BatchReport, predict_all
from atlas_model.inference.batch_products import ProductOutput
from atlas_model.inference.predictor import Prediction, Predictor


class Model:
    """A fake model that predicts the shade of each image and records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def answer(self, pixels: np.ndarray) -> list[list[Prediction]]:
        shades = pixels[:, 0, 0, 0].tolist()
        self.batches.append(shades)
        return [[Prediction(("shade", str(shade)), 0.5, (1.0, 0.5))] for shade in shades]


def run(
    source: ImageSource,
    output: Path,
    answer: Callable[[np.ndarray], Sequence[Sequence[Prediction]]],
    model_key: str = "model",
    batch_size: int = 4,
    threads: int = 2,
) -> BatchReport:
    """Predict all images of ``source`` to ``output`` in small batches."""
    return predict_all(
        source,
        output,
        prepare=to_array,
        predict=answer,
        model_key=model_key,
        batch_size=batch_size,
        threads=threads,
    )


def pooled(
    folder: Path,
    model: Path,
    output: Path,
    before_answer: Callable[[], None] = lambda: None,
    before_product: Callable[[], None] = lambda: None,
) -> BatchReport:
    """Predict in batches of two, one part per batch."""
    predictor = Predictor.load(model, "cpu")

    def answer(pixels: np.ndarray) -> tuple[list[list[Prediction]], np.ndarray]:
        before_answer()
        return predictor.predict_with_distribution(pixels)

    def pool() -> ProductPool:
        before_product()
        return predictor.pool()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "PART_S", 0.0)
        return predict_all(
            open_source(folder, products=True),
            output,
            prepare=predictor.prepare,
            predict=predictor.predict_prepared,
            model_key="model",
            batch_size=2,
            products=ProductOutput(output.with_name("products.parquet"), answer, pool, predictor.predict_product),
        )
