"""Fixtures of the close-up classifier, trained once per process."""

import pytest

from atlas_model.zoom.model import ZoomModel
from atlas_model.zoom.training import LabelledImages, ZoomEpoch
from tests.support.zoom_images import labelled_images, trained_model


@pytest.fixture(scope="session")
def labelled() -> LabelledImages:
    """Labelled images as training reads them."""
    return labelled_images()


@pytest.fixture(scope="session")
def trained() -> tuple[ZoomModel, list[ZoomEpoch]]:
    """A model trained on these images, and the records of its epochs."""
    return trained_model()
