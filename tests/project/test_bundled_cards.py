"""The cards of the models in models/: the Hub's format, and figures that are those of the results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from flows.text import share
from tests.support.paths import ROOT
from tools.bundled_cards import CARD, SEED, expected_front_matter, models, split_card

RESULTS = ROOT / "benchmarks/results"


def card_of(model: str) -> Path:
    return ROOT / "models" / model / CARD


def text_of(model: str) -> str:
    return card_of(model).read_text(encoding="utf-8").replace("**", "")


def with_interval(found: dict[str, Any], key: str, digits: int = 3) -> str:
    def text(value: float) -> str:
        return f"{value:.{digits}f}".removeprefix("0")

    low, high = found["intervals"][key]
    return f"{text(found[key])} ({text(low)} to {text(high)})"


@pytest.mark.parametrize("model", models())
def test_front_matter_has_figures_of_results(model: str) -> None:
    head, below = split_card(card_of(model).read_text(encoding="utf-8"))
    assert head == expected_front_matter(model), "renew it: python -m tools.bundled_cards"
    assert re.match(r"\n# Model card: ", below)


@pytest.mark.parametrize("model", models())
def test_hub_reads_card(model: str) -> None:
    card = ModelCard.load(card_of(model))
    assert card.data.license == "mit"
    assert card.data.library_name == "atlas"
    assert card.data.eval_results
    assert all(0 <= each.metric_value <= 1 for each in card.data.eval_results)


def test_text_of_pretrained_model_has_figures_of_its_seed() -> None:
    seeds = json.loads((RESULTS / "photographs.json").read_text(encoding="utf-8"))["seeds"]
    text, found = text_of("pretrained"), seeds[SEED]
    for name, key in (
        ("image", "image"),
        ("image and title", "image_and_title"),
        ("title", "title"),
        ("image and title; all words of category names removed from the titles", "image_and_stripped_title"),
        ("image, plain classifier with the same encoder and epochs", "classifier"),
    ):
        figures = found[key]
        row = [name, with_interval(figures, "micro_f1"), share(figures["macro_f1"]), share(figures["ece"])]
        assert f"| {' | '.join(row)} |" in text
    assert f"best of three seeds on validation ({share(found['val']['micro_f1'])})" in text
    scores = sorted(share(seed["image"]["micro_f1"]) for seed in seeds.values())
    assert f"{scores[0]}, {scores[1]} and {scores[2]}" in text
    levels = [share(level) for level in found["image"]["level_accuracy"]]
    assert f"{levels[0]} of the predictions are correct at level 1, {levels[1]} down to level 2 and {levels[2]}" in text


def test_text_of_fashion_mnist_model_has_figures_of_benchmark() -> None:
    found = json.loads((RESULTS / "fashion-mnist.json").read_text(encoding="utf-8"))
    text, plain = text_of("fashion_mnist"), found["baseline"]
    rows = [
        ("exact path (micro F)", with_interval(found, "micro_f1", 4), with_interval(plain, "micro_f1", 4)),
        *(
            (name, *(f"{each[key]:.4f}".removeprefix("0") for each in (found, plain)))
            for name, key in (("macro F", "macro_f1"), ("hierarchical F", "hierarchical_f1"))
        ),
    ]
    for row in rows:
        assert f"| {' | '.join(row)} |" in text


def test_text_of_zoom_filter_has_figures_of_its_description() -> None:
    found = json.loads((card_of("zoom_photographs").parent / "model.json").read_text(encoding="utf-8"))["metrics"]
    text, shares = text_of("zoom_photographs"), found["cross_validated"]["zoomed_share_of_kind"]
    assert f"| recall: all close-ups | {share(found['cross_validated']['recall_zoomed'])} |" in text
    for name, kinds in (
        ("the same, reduced to as few pixels as a close-up, with noise and shading", ("whole",)),
        ("products on coloured, rough or patterned backgrounds", ("ground",)),
        ("several products side by side", ("group",)),
        ("products cropped tightly, without background on some side", ("tight",)),
        (
            "recall: fabric that fills the frame; details; hems, soles and collars with some background; mirrored "
            "pieces",
            ("texture", "detail", "edge", "repeat"),
        ),
    ):
        assert f"| {name} | {'; '.join(share(shares[kind]) for kind in kinds)} |" in text
