"""The moving average of weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atlas_model.train.moving_average import MovingAverage
from atlas_model.train.validation import path_accuracies
from tests.support.training import CPU, RECIPE, make_split, train


def test_averaged_weights_are_validated_and_saved(tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "plain", replace(RECIPE, epochs=2))
    averaged, records = train(tmp_path / "averaged", replace(RECIPE, epochs=2, ema=0.99))
    names = [name for name, weight in plain.named_parameters()]
    assert not any(plain.state_dict()[name].equal(averaged.state_dict()[name]) for name in names if "weight" in name)
    val = make_split("val", 48, seed=2)
    assert path_accuracies(averaged, val, 16, CPU)[0] == max(record.val_accuracy for record in records)


def test_moving_average_follows_the_formula() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average, expected = MovingAverage(model, 0.5), 0.0
    for step in range(1, 20):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 19.0
