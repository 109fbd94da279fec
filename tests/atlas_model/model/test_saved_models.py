"""Saved models: round trip, and rejection of invalid descriptions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atlas_model.core.errors import CheckpointError, InputError
from atlas_model.data.images import Preprocessing
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.model.saved_models import load_categorizer, load_classifier, save
from tests.support.training import CPU, RECIPE, SMALL, TAXONOMY, make_split, train


def test_invalid_description_raises_checkpoint_error(tmp_path: Path) -> None:
    model = Categorizer(SMALL, TAXONOMY)
    save(model, tmp_path / "model", Preprocessing(16, "L", "squash"), params={}, metrics={})
    description = json.loads((tmp_path / "model/model.json").read_text())
    for place, key, value in [
        ("architecture", "encoder", "vgg"),
        ("architecture", "hidden_size", -1),
        ("preprocessing", "mode", "CMYK"),
        ("taxonomy", "paths", "all of them"),
    ]:
        changed = {**description, "format": 1, place: {**description[place], key: value}}
        (tmp_path / "model/model.json").write_text(json.dumps(changed))
        with pytest.raises(InputError):
            load_categorizer(tmp_path / "model", CPU)


def test_baseline_round_trips_and_other_kinds_are_refused(tmp_path: Path) -> None:
    model, _ = train(tmp_path, replace(RECIPE, epochs=1), model=Classifier(SMALL, TAXONOMY))
    save(model, tmp_path / "baseline", Preprocessing(16, "L", "squash"), params={}, metrics={})
    loaded, _ = load_classifier(tmp_path / "baseline", CPU)
    images = make_split("val", 8, seed=2).images(np.arange(8), CPU)
    assert loaded.best_path(images).equal(model.best_path(images))
    with pytest.raises(CheckpointError, match="expected a model of kind 'categorizer'"):
        load_categorizer(tmp_path / "baseline", CPU)
