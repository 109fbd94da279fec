"""The bundled filter for photographs."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from atlas_model.data.images import decode
from atlas_model.zoom.model import ZoomModel
from flows.stages import zoom as zoom_stage
from tests.support.paths import ROOT
from tests.support.zoom_images import CPU


def bundled() -> ZoomModel:
    return ZoomModel.load(ROOT / zoom_stage.PHOTO_FILTER, CPU)


def test_bundled_filter_is_small_and_describes_itself() -> None:
    model = bundled()
    assert model.architecture == "linear"
    assert "photographs" in model.trained_on
    assert sum(path.stat().st_size for path in (ROOT / zoom_stage.PHOTO_FILTER).iterdir()) < 5_000_000
    assert model.metrics["cross_validated"]["discarded_share_of_photographs"] <= 0.02
    assert "recall" in (ROOT / zoom_stage.PHOTO_FILTER / "README.md").read_text().lower()


def test_bundled_filter_separates_fabric_from_products() -> None:
    """Synthetic images: stripes, checks and dots that fill the frame; product shapes on plain backgrounds."""
    model, close_ups, products = bundled(), [], []
    rows, columns = np.mgrid[0:300, 0:300]
    for number, (first, second) in enumerate([((200, 30, 60), (240, 240, 230)), ((20, 40, 90), (120, 150, 200))]):
        for pattern in (np.sin(columns / 9), np.sin(columns / 14) * np.sin(rows / 14), np.sin((rows + columns) / 5)):
            weave = 0.5 + 0.4 * pattern + 0.1 * np.sin(rows * 1.5) * np.sin(columns * 1.5)
            mixed = np.array(first) * weave[..., None] + np.array(second) * (1 - weave[..., None])
            close_ups.append(Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)))
        for ground in ("white", (215, 210, 200), (90, 90, 95)):
            image = Image.new("RGB", (300, 300), ground)
            draw = ImageDraw.Draw(image)
            draw.polygon([(90, 60), (130, 50), (170, 50), (210, 60), (260, 120), (225, 150), (205, 125)], first)
            draw.polygon([(90, 60), (210, 60), (205, 260), (95, 260)], first)
            draw.polygon([(90, 60), (40, 120), (75, 150), (95, 125)], first)
            draw.ellipse((130, 38 + number, 170, 66), ground)
            products.append(image)
    images = np.stack([model.pixels(image) for image in [*close_ups, *products]])
    said = model.probabilities(images) >= model.threshold
    assert said.tolist() == [True] * len(close_ups) + [False] * len(products)


@pytest.mark.slow
def test_bundled_filter_discards_few_photographs() -> None:
    path = ROOT / "../shared/images/myntra.parquet"
    if not path.is_file():
        pytest.skip("the photographs are not there")
    model = bundled()
    photographs = pq.read_table(path, columns=["jpeg"])["jpeg"].to_pylist()[::10]
    pixels = np.stack([model.pixels(decode(content)) for content in photographs])
    assert (model.probabilities(pixels) >= model.threshold).mean() <= 0.02
