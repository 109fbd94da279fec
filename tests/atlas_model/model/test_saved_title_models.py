"""Saved models that read titles: round trip, and rejection of invalid descriptions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atlas_model.core.errors import CheckpointError
from atlas_model.model.categorizer import Categorizer, reads_titles
from atlas_model.model.saved_models import load_categorizer, save
from tests.support.title_models import ARCHITECTURE, CPU, PREPROCESSING, TAXONOMY, TITLES, WEIGHTS, make


def test_title_weights_are_saved_with_the_model(tmp_path: Path) -> None:
    model, images = make()
    model.temperature = 1.5
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    loaded, _ = load_categorizer(tmp_path / "model", CPU)
    assert (loaded.architecture, loaded.temperature, loaded.title_weights) == (ARCHITECTURE, 1.5, WEIGHTS)
    with torch.no_grad():
        one, other = (each.exact_cells(each.evidence(each.encoder(images), TITLES))[1] for each in (model, loaded))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", "words"),
        ("title_buckets", 2**30),
        ("title_buckets", 0),
        ("title_size", 2**20),
        ("title_size", "8"),
    ],
)
def test_refuses_invalid_title_description(key: str, value: object, tmp_path: Path) -> None:
    model, _ = make()
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    description = tmp_path / "model/model.json"
    content = json.loads(description.read_text())
    content["architecture"][key] = value
    content["format"] = 1  # without a checksum
    description.write_text(json.dumps(content))
    with pytest.raises(CheckpointError):
        load_categorizer(tmp_path / "model", CPU)


@pytest.mark.parametrize(
    "weights",
    [
        None,
        {},
        [1.0, 1.0],
        {"named": {"image": 1.0, "title": 1.0, "alone": 1.0}},
        WEIGHTS.to_json() | {"other": {"image": 1.0, "title": -1.0, "alone": 1.0}},
        WEIGHTS.to_json() | {"other": {"image": 1.0, "title": 1.0, "alone": 0.0}},
        WEIGHTS.to_json() | {"other": {"image": "nan", "title": 1.0, "alone": 1.0}},
    ],
)
def test_refuses_invalid_title_weights(weights: object, tmp_path: Path) -> None:
    model, _ = make()
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    description = tmp_path / "model/model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"format": 1, "title_weights": weights}))
    with pytest.raises(CheckpointError):
        load_categorizer(tmp_path / "model", CPU)


def test_loads_model_saved_before_title_support(tmp_path: Path) -> None:
    model = Categorizer(replace(ARCHITECTURE, title="none", title_buckets=0, title_size=0), TAXONOMY).eval()
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    description = tmp_path / "model/model.json"
    content = json.loads(description.read_text())
    assert "title_weights" not in content
    content["format"] = 1
    for key in ("title", "title_buckets", "title_size"):
        del content["architecture"][key]
    description.write_text(json.dumps(content))
    loaded, _ = load_categorizer(tmp_path / "model", CPU)
    assert loaded.architecture == model.architecture
    assert not reads_titles(loaded)
