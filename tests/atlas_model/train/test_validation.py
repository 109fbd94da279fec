"""Validation: accuracy of each epoch, which epoch is kept, the effect of the constraint."""

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


def test_stops_when_validation_no_longer_gets_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.65, 0.9])
    monkeypatch.setattr(loop, "path_accuracies", lambda *args: (next(accuracies), 0.0))
    _, records = train(tmp_path, replace(RECIPE, epochs=6, patience=3))
    assert [record.val_accuracy for record in records] == [0.5, 0.7, 0.6, 0.7, 0.65]
    assert best_record(records).epoch == 2


def test_the_epoch_is_chosen_by_the_score_that_was_asked_for() -> None:
    of_titles = {"val_accuracy_of_title": None, "val_macro_f1_of_title": None}
    record: Any = SimpleNamespace(val_accuracy=0.8, val_macro_f1=0.5, **of_titles)
    kinds: tuple[Literal["micro", "macro", "both"], ...] = ("micro", "macro", "both")
    scores = [loop.EpochRecord.score(record, select) for select in kinds]
    assert scores == [0.8, 0.5, pytest.approx(0.65)]


def test_the_constraints_effect_is_measured_at_each_epoch(tmp_path: Path) -> None:
    model, records = train(tmp_path, replace(RECIPE, epochs=1))
    (record,) = records
    val = make_split("val", 48, seed=2)
    found = model.search(val.images(np.arange(48), CPU), beam=1, constrained=False).tokens[:, 0].numpy()
    assert record.constrained_accuracy == record.val_accuracy, "the sample is all of so few"
    assert record.free_invalid == invalid_paths(found, TAXONOMY) / 48
    assert record.free_accuracy == (found == TAXONOMY.targets[val.paths]).all(axis=1).mean()
    untaught = Categorizer(replace(SMALL, normalize="children"), TAXONOMY)
    for model in (untaught, Classifier(SMALL, TAXONOMY)):
        assert constraint_effect(model, val, 16, CPU) is None


def test_the_constraints_effect_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model, val = Categorizer(SMALL, TAXONOMY).eval(), make_split("val", 4, seed=2)
    right = torch.from_numpy(TAXONOMY.targets[val.paths])
    written = right.clone()
    written[1] = torch.from_numpy(TAXONOMY.targets[(val.paths[1] + 1) % 4])  # another path
    written[2] = written[2].flip(0)  # no path
    found = SimpleNamespace(path=torch.from_numpy(val.paths)[:, None], tokens=written[:, None])
    monkeypatch.setattr(model, "search_cells", lambda cells, **keywords: found)
    assert constraint_effect(model, val, 4, CPU) == ConstraintEffect(1.0, 0.5, 0.25)
