"""Validation: accuracy of each epoch, choice of the best epoch, effect of the constraint."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from atlas_model.metrics.scores import invalid_paths
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.train import loop
from atlas_model.train.loop import best_record
from atlas_model.train.validation import ConstraintEffect, constraint_effect
from tests.support.training import CPU, RECIPE, SMALL, TAXONOMY, make_split, train


def test_stops_when_validation_does_not_improve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.65, 0.9])
    monkeypatch.setattr(loop, "path_accuracies", lambda *args: (next(accuracies), 0.0))
    _, records = train(tmp_path, replace(RECIPE, epochs=6, patience=3))
    assert [record.val_accuracy for record in records] == [0.5, 0.7, 0.6, 0.7, 0.65]
    assert best_record(records).epoch == 2


def test_best_epoch_uses_the_configured_score() -> None:
    of_titles = {"val_accuracy_of_title": None, "val_macro_f1_of_title": None}
    record: Any = SimpleNamespace(val_accuracy=0.8, val_macro_f1=0.5, **of_titles)
    kinds: tuple[Literal["micro", "macro", "both"], ...] = ("micro", "macro", "both")
    scores = [loop.EpochRecord.score(record, select) for select in kinds]
    assert scores == [0.8, 0.5, pytest.approx(0.65)]


def test_measures_effect_of_the_constraint_at_each_epoch(tmp_path: Path) -> None:
    model, records = train(tmp_path, replace(RECIPE, epochs=1))
    (record,) = records
    val = make_split("val", 48, seed=2)
    found = model.search(val.images(np.arange(48), CPU), beam=1, constrained=False).tokens[:, 0].numpy()
    assert record.constrained_accuracy == record.val_accuracy, "a small split is sampled completely"
    assert record.free_invalid == invalid_paths(found, TAXONOMY) / 48
    assert record.free_accuracy == (found == TAXONOMY.targets[val.paths]).all(axis=1).mean()
    untaught = Categorizer(replace(SMALL, normalize="children"), TAXONOMY)
    for model in (untaught, Classifier(SMALL, TAXONOMY)):
        assert constraint_effect(model, val, 16, CPU) is None


def test_effect_of_the_constraint_in_a_hand_computed_case(monkeypatch: pytest.MonkeyPatch) -> None:
    model, val = Categorizer(SMALL, TAXONOMY).eval(), make_split("val", 4, seed=2)
    right = torch.from_numpy(TAXONOMY.targets[val.paths])
    written = right.clone()
    written[1] = torch.from_numpy(TAXONOMY.targets[(val.paths[1] + 1) % 4])  # a different valid path
    written[2] = written[2].flip(0)  # an invalid path
    found = SimpleNamespace(path=torch.from_numpy(val.paths)[:, None], tokens=written[:, None])
    monkeypatch.setattr(model, "search_cells", lambda cells, **keywords: found)
    assert constraint_effect(model, val, 4, CPU) == ConstraintEffect(1.0, 0.5, 0.25)
