"""Training models that read titles: learning from both inputs, resuming, reproducibility."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas_model.data.dataset import Split
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import save
from atlas_model.taxonomy.tree import Taxonomy
from atlas_model.train import loop
from atlas_model.train.feature_cache import load_activations
from atlas_model.train.loop import Recipe, fit
from atlas_model.train.validation import Examples, evidence_batches, path_accuracies
from tests.support.title_models import ARCHITECTURE, CPU, PREPROCESSING

HALVES = Taxonomy([("Bright", "Left"), ("Bright", "Right"), ("Dark", "Left"), ("Dark", "Right")])
RECIPE = Recipe(
    encoder_lr=3e-3,
    decoder_lr=1e-2,
    weight_decay=0.01,
    warmup_share=0.1,
    clip_norm=5.0,
    batch_size=16,
    accumulate=1,
    epochs=3,
    patience=9,
    fine_tune_from="all",
    seed=1,
    precision="float32",
    shift=1,
    title_strip=0.5,
    title_drop=0.2,
)


def make_split(name: str, count: int, *, seed: int) -> Split:
    """Images show which half is brighter; titles give the brightness, some of them with the category's name."""
    generator = np.random.default_rng(seed)
    paths = generator.integers(0, 4, count)
    pixels = generator.integers(0, 60, (count, 1, 16, 16))
    for path, half in enumerate((slice(0, 8), slice(8, 16)) * 2):
        pixels[paths == path, :, :, half] += 120
    words = [["bright shiny", "shiny light"], ["dark gloomy", "gloomy night"]]
    titles = [f"item {number % 7} {words[path // 2][number % 2]}" for number, path in enumerate(paths.tolist())]
    names = [f"{name}-{row}" for row in range(count)]
    return Split(name, pixels.astype(np.uint8), paths, names, names, PREPROCESSING, titles)


def train(folder: Path, recipe: Recipe = RECIPE, on_epoch=lambda record: None, **more):
    torch.manual_seed(recipe.seed)
    model = Categorizer(ARCHITECTURE, HALVES, alpha_c=1.0)
    splits = [make_split("train", 96, seed=1), make_split("val", 48, seed=2)]
    examples: list[Examples] = [*splits]
    if recipe.fine_tune_from != "all":
        model.encoder.freeze_before(recipe.fine_tune_from)
        examples = [load_activations(model.encoder, split, folder / "activations", device=CPU) for split in splits]
    state = folder / "state.safetensors"
    records = fit(
        model, examples[0], examples[1], recipe, device=CPU, state_file=state, job="test", on_epoch=on_epoch, **more
    )
    return model, records


@pytest.mark.slow
def test_learns_from_titles_and_from_images(tmp_path: Path) -> None:
    model, records = train(tmp_path, replace(RECIPE, epochs=12))
    val = make_split("val", 48, seed=2)
    image, _, title, _ = path_accuracies(model, val, 16, CPU)
    assert 0.3 <= image <= 0.75, "an image shows only the second level"
    assert 0.3 <= title <= 0.75, "a title gives only the first level"
    best = max(records, key=lambda record: record.val_accuracy + record.val_accuracy_of_title)
    assert (best.val_accuracy, best.val_accuracy_of_title) == (image, title), "the epoch is chosen by both inputs"
    levels = {}
    for given in ("title", "image_and_title"):
        seen = evidence_batches(model, val, np.arange(48), modality=given, batch_size=16, device=CPU)
        levels[given] = torch.cat([model.best_path_of_cells(each) for each in seen]).numpy()
    assert (levels["title"] // 2 == val.paths // 2).mean() >= 0.9
    assert (levels["image_and_title"] == val.paths).mean() >= 0.9


class Killed(BaseException):
    """Simulates a kill between two epochs."""


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("block", ["all", "2"])
def test_killed_run_resumes_with_identical_result(block: str, tmp_path: Path) -> None:
    recipe = replace(RECIPE, fine_tune_from=block, shift=1 if block == "all" else 0, ema=0.9)
    whole, whole_records = train(tmp_path / "whole", recipe)

    def die(record: loop.EpochRecord) -> None:
        if record.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "killed", recipe, on_epoch=die)
    resumed, records = train(tmp_path / "killed", recipe)
    assert [record.train_loss for record in records] == [record.train_loss for record in whole_records]
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(resumed.state_dict()[name]), name


@pytest.mark.usefixtures("two_threads")
def test_seed_determines_files_and_title_augmentation(tmp_path: Path) -> None:
    for run, seed in (("one", 1), ("two", 1), ("three", 2)):
        model, _ = train(tmp_path / run, replace(RECIPE, epochs=2, seed=seed))
        save(model, tmp_path / run / "model", PREPROCESSING, params={}, metrics={})
    one, two, three = ((tmp_path / run / "model/model.safetensors").read_bytes() for run in ("one", "two", "three"))
    assert one == two != three


def test_augmented_titles_depend_only_on_seed_and_epoch() -> None:
    model, split = Categorizer(ARCHITECTURE, HALVES), make_split("train", 40, seed=1)
    batches = [np.arange(0, 20), np.arange(20, 40)]
    one, again, other = (list(loop._titles(model, split, batches, RECIPE, seed)) for seed in (5, 5, 6))
    assert one == again != other
    assert any("bright" in title for title in one[0])
    assert not any("item" not in title.split() for title in split.titles)
    assert any("item" not in title.split() for title in one[0]), "some words are dropped"
    unread = Categorizer(replace(ARCHITECTURE, title="none"), HALVES)
    assert list(loop._titles(unread, split, batches, RECIPE, 5)) == [None, None]
