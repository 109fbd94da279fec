"""The training loop: convergence, reproducibility, frozen weights."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atlas_model.core.errors import AtlasError
from atlas_model.data.images import Preprocessing
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.model.saved_models import load_categorizer, save
from atlas_model.train import distributed, loop
from atlas_model.train.feature_cache import load_activations
from atlas_model.train.loop import fit, learning_rate_factor
from atlas_model.train.validation import Examples, path_accuracies
from tests.support.training import CPU, RECIPE, SMALL, TAXONOMY, make_split, train


def test_trains_on_separable_images_and_round_trips(tmp_path: Path) -> None:
    model, records = train(tmp_path, replace(RECIPE, epochs=12))
    val = make_split("val", 48, seed=2)
    accuracy, _ = path_accuracies(model, val, 32, CPU)
    assert accuracy >= 0.9
    assert accuracy == max(record.val_accuracy for record in records), "the best epoch's weights are kept"
    save(model, tmp_path / "model", val.preprocessing, params={}, metrics={"val_accuracy": accuracy})
    loaded, preprocessing = load_categorizer(tmp_path / "model", CPU)
    assert preprocessing == val.preprocessing
    assert loaded.taxonomy == TAXONOMY
    images = val.images(np.arange(48), CPU)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.search(images, beam=3).log_probability, model.search(images, beam=3).log_probability
        )


@pytest.mark.usefixtures("two_threads")
def test_same_seed_gives_identical_files(tmp_path: Path) -> None:
    for run in ("one", "two"):
        model, _ = train(tmp_path / run, replace(RECIPE, epochs=2))
        save(model, tmp_path / run / "model", Preprocessing(16, "L", "squash"), params={}, metrics={})
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "one/model" / name).read_bytes() == (tmp_path / "two/model" / name).read_bytes()


def still(model: Categorizer) -> Categorizer:
    """The model without parts that depend on the batch: the encoder frozen, no dropout."""
    model.decoder.dropout.p = 0.0
    return model


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    recipe = replace(RECIPE, fine_tune_from="none", shift=0, epochs=2)
    runs = {}
    sizes_of: dict[str, dict[str, Any]] = {"large": {"batch_size": 36}, "small": {"batch_size": 12, "accumulate": 3}}
    for name, sizes in sizes_of.items():
        torch.manual_seed(1)
        model = still(Categorizer(SMALL, TAXONOMY, alpha_c=1.0, alpha_target="one"))
        runs[name] = train(tmp_path / name, replace(recipe, **sizes), model=model)
    (large, large_records), (small, small_records) = runs["large"], runs["small"]
    torch.testing.assert_close(small.state_dict(), large.state_dict(), rtol=1e-3, atol=1e-4)
    assert small_records[-1].train_loss == pytest.approx(large_records[-1].train_loss, rel=1e-4)
    assert small_records[0].lr == large_records[0].lr, "the learning rate depends on steps"


@pytest.mark.parametrize("kind", [Categorizer, Classifier])
@pytest.mark.parametrize("block", ["none", "3"])  # of `small`: everything frozen, all but the last three blocks
def test_training_on_activations_equals_freezing_the_blocks(kind: type, block: str, tmp_path: Path) -> None:
    recipe = replace(RECIPE, fine_tune_from=block, batch_norm="frozen", shift=0, epochs=3)
    splits = make_split("train", 96, seed=1), make_split("val", 48, seed=2)
    found = []
    for name in ("images", "activations"):
        torch.manual_seed(1)
        model = kind(SMALL, TAXONOMY)
        model.encoder.freeze_before(block)
        examples: Sequence[Examples] = splits
        if name == "activations":
            examples = [load_activations(model.encoder, each, tmp_path, device=CPU) for each in splits]
            model.encoder.activations = None  # must not be called
        records = fit(
            model,
            examples[0],
            examples[1],
            recipe,
            device=CPU,
            state_file=tmp_path / f"{name}.safetensors",
            job=name,
            on_epoch=lambda record: None,
        )
        found.append([record.train_loss for record in records])
    alike = 3 if block == "none" else 1  # epochs: half-precision rounding accumulates where blocks are trained on it
    assert found[1][:alike] == pytest.approx(found[0][:alike], rel=1e-3)
    assert found[0][2] < found[0][0]
    assert found[1][2] < found[1][0]


def test_encoder_is_frozen_in_head_epochs(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Categorizer(SMALL, TAXONOMY)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(tmp_path / "head", replace(RECIPE, epochs=1, head_epochs=1), model=model)
    changed = {name.partition(".")[0] for name, weight in model.named_parameters() if not weight.equal(before[name])}
    assert changed == {"decoder"}
    train(tmp_path / "all", replace(RECIPE, epochs=2, head_epochs=1), model=model)
    changed = {name.partition(".")[0] for name, weight in model.named_parameters() if not weight.equal(before[name])}
    assert changed == {"decoder", "encoder"}


def test_earlier_blocks_have_lower_learning_rates() -> None:
    model = Categorizer(SMALL, TAXONOMY)
    groups = loop._optimizer(model, replace(RECIPE, encoder_lr=1.0, layer_decay=0.5)).param_groups
    assert [group["peak"] for group in groups] == [0.5**4, 0.5**3, 0.5**2, 0.5, 1.0, RECIPE.decoder_lr]
    count = sum(weight.numel() for group in groups for weight in group["params"])
    assert count == sum(weight.numel() for weight in model.parameters())


def test_few_images_get_more_epochs() -> None:
    recipe = replace(RECIPE, batch_size=16, accumulate=2, epochs=4, patience=2, min_steps=100)
    assert recipe.for_images(40) == replace(recipe, epochs=50, patience=25), "2 steps an epoch"
    assert recipe.for_images(10_000) is recipe


@pytest.mark.parametrize("kind", [Categorizer, Classifier])
def test_logit_adjustment_removes_class_frequency(kind: type) -> None:
    """At the optimum of the adjusted loss, logits and log priors together give the frequencies."""
    counts = np.array([60.0, 20.0, 15.0, 5.0])
    torch.manual_seed(1)
    model = kind(replace(SMALL, dropout=0.0, normalize="children"), TAXONOMY, priors=counts)
    cells = torch.zeros(100, 4, 128)
    paths = torch.from_numpy(np.repeat(np.arange(4), counts.astype(int)))
    optimizer = torch.optim.Adam(model.head().parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        model.loss_of_cells(cells, paths, paths).backward()
        optimizer.step()
    if kind is Classifier:
        log_p = model.logits_of_cells(cells[:1]).log_softmax(dim=1)
        assert log_p.exp()[0].tolist() == pytest.approx([0.25] * 4, abs=0.02)
    else:
        found = model.eval().search_cells(cells[:1], beam=4, top=4)
        probability = dict(zip(found.path[0].tolist(), found.log_probability[0].exp().tolist(), strict=True))
        # Bright and Dark are equally probable, and so are the ends of each.
        assert [probability[path] for path in range(4)] == pytest.approx([0.25] * 4, abs=0.02)


@pytest.mark.parametrize("fine_tune_from", ["none", "all"])
def test_averaging_over_processes_keeps_a_frozen_encoder(
    fine_tune_from: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulates three equal processes: 3 * x / 3 is not always x in floating point."""
    monkeypatch.setattr(distributed, "all_reduce_mean", lambda tensors: [tensor.mul_(3).div_(3) for tensor in tensors])
    torch.manual_seed(1)
    model = Categorizer(SMALL, TAXONOMY)
    for name, buffer in model.encoder.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 2.0)
    before = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    train(tmp_path, replace(RECIPE, fine_tune_from=fine_tune_from, shift=0, epochs=1), model=model)
    same = [tensor.equal(before[name]) for name, tensor in model.encoder.state_dict().items()]
    assert all(same) if fine_tune_from == "none" else not any(same)


@pytest.mark.parametrize("batch_size", [16, 96])  # the second: in the last step
def test_nan_weights_stop_training(batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    real_step = loop._step
    monkeypatch.setattr(loop, "_step", lambda *args: taken.append(1) or real_step(*args))
    wild = replace(RECIPE, encoder_lr=1e39, decoder_lr=1e39, clip_norm=1e30, batch_size=batch_size, epochs=1)
    with pytest.raises(AtlasError, match=r"diverged \(NaN or Inf in the weights\) in epoch 1. Lower train\.encoder_lr"):
        train(tmp_path, wild)
    assert len(taken) == 1, "training stops at the first step"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_resnet101_trains_one_step_and_round_trips(tmp_path: Path) -> None:
    architecture = replace(SMALL, encoder="resnet101", in_channels=3)
    torch.manual_seed(1)
    model = Categorizer(architecture, TAXONOMY)
    split = make_split("train", 4, seed=1, size=64, channels=3)
    recipe = replace(RECIPE, epochs=1, batch_size=4, encoder_lr=1e-4)
    before = model.decoder.output.weight.clone()
    fit(model, split, split, recipe, device=CPU, state_file=tmp_path / "s", job="resnet", on_epoch=lambda record: None)
    assert not model.decoder.output.weight.equal(before)
    save(model, tmp_path / "model", Preprocessing(64, "RGB", "squash"), params={}, metrics={})
    loaded, _ = load_categorizer(tmp_path / "model", CPU)
    images = split.images(np.arange(4), CPU)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder(images), model.encoder(images))


def test_last_batch_of_one_image_is_dropped() -> None:
    generator = torch.Generator().manual_seed(1)
    assert sorted(map(len, loop._order(33, 16, generator))) == [16, 16]
    assert sorted(map(len, loop._order(1, 16, generator))) == [1]
    assert sorted(map(len, loop._order(3, 1, generator))) == [1, 1, 1], "a batch size of one keeps all batches"


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[-1] < 0.001
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors[9:]))


def test_attention_term_is_zero_for_even_attention_with_target_share() -> None:
    model = Categorizer(SMALL, TAXONOMY, alpha_c=1.0).eval()
    with torch.no_grad():  # scores that do not depend on the cell: every cell gets the same attention
        model.decoder.score.weight.zero_()
    images, paths = make_split("x", 8, seed=3).images(np.arange(8), CPU), torch.arange(8) % 4
    with torch.no_grad():
        with_term = model.loss(images, paths)
        model.alpha_c = 0.0
        without = model.loss(images, paths)
        model.alpha_c, model.alpha_target = 1.0, "one"
        paper = model.loss(images, paths)
    torch.testing.assert_close(with_term, without)
    assert paper > without
