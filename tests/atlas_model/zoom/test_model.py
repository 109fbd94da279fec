"""The close-up classifier: the paper's network, its scores, saving and loading."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from atlas_model.core.errors import CheckpointError
from atlas_model.zoom.model import ZoomModel, ZoomNet, binary_scores
from atlas_model.zoom.training import ZoomEpoch
from tests.support.zoom_images import CPU, assert_same_weights


@pytest.mark.parametrize("size", [16, 33, 150])
def test_network_has_the_layers_of_the_paper(size: int) -> None:
    net = ZoomNet(size)
    cells = (size // 8) ** 2
    shapes = [tuple(parameter.shape) for parameter in net.parameters() if parameter.dim() > 1]
    assert shapes == [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64 * cells), (1, 64)]
    assert [module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)] == [0.5]
    assert sum(isinstance(module, torch.nn.MaxPool2d) for module in net.modules()) == 3
    assert net(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2,)


def test_saved_model_loads_unchanged(trained: tuple[ZoomModel, list[ZoomEpoch]], tmp_path: Path) -> None:
    trained[0].save(tmp_path / "zoom")
    loaded = ZoomModel.load(tmp_path / "zoom", CPU)
    assert_same_weights(loaded, trained[0])
    assert (loaded.preprocessing, loaded.threshold) == (trained[0].preprocessing, trained[0].threshold)
    assert loaded.metrics == trained[0].metrics
    assert loaded.architecture == "cnn"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "categorizer"},
        {"threshold": None},
        {"threshold": "high"},
        {"preprocessing": {"size": 32, "mode": "RGB", "resize": "squash"}},
        {"preprocessing": {"size": 8, "mode": "RGB", "resize": "squash"}},
        {"preprocessing": {"side": 16}},
        {"preprocessing": None},
        {"metrics": None},
        {"data": None},
        {"architecture": "linear"},
        {"architecture": "forest"},
        {"preprocessing": {"size": 16, "mode": "L", "resize": "squash"}},
    ],
)
def test_refuses_invalid_description(
    trained: tuple[ZoomModel, list[ZoomEpoch]], tmp_path: Path, change: dict[str, Any]
) -> None:
    trained[0].save(tmp_path / "zoom")
    path = tmp_path / "zoom/model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1, **change}))
    with pytest.raises(CheckpointError):
        ZoomModel.load(tmp_path / "zoom", CPU)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=12))
def test_scores_equal_sklearn(drawn: list[tuple[int, int]]) -> None:
    actual, predicted = np.array([a for a, _ in drawn], dtype=int), np.array([p for _, p in drawn], dtype=int)
    found = binary_scores(predicted, actual)
    reference = precision_recall_fscore_support(actual, predicted, labels=[0, 1], zero_division=np.nan)
    for name, column in zip(("precision", "recall", "f1"), reference, strict=False):
        for label, expected in zip(("normal", "zoomed"), column, strict=True):
            assert found[f"{name}_{label}"] == (None if np.isnan(expected) else pytest.approx(expected))
    assert found["n"] == len(drawn)
