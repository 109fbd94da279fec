"""The loop: it learns, resumes where it was, repeats itself byte for byte, and both encoders go through it."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch

from atlas_model.core.errors import AtlasError, CheckpointError, InputError
from atlas_model.data.augmentation import Augmentation, augment
from atlas_model.data.dataset import Split
from atlas_model.data.images import Preprocessing
from atlas_model.metrics.scores import invalid_paths
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.model.saved_models import load_categorizer, load_classifier, save
from atlas_model.taxonomy.tree import Taxonomy
from atlas_model.train import distributed, loop
from atlas_model.train.feature_cache import load_activations
from atlas_model.train.loop import Recipe, best_record, fit, learning_rate_factor
from atlas_model.train.moving_average import MovingAverage
from atlas_model.train.validation import Constraint, constraint_effect, path_accuracies
from tests.support.full_disk import limited_file_size

CPU = torch.device("cpu")
TAXONOMY = Taxonomy([("Bright", "Left"), ("Bright", "Right"), ("Dark", "Left"), ("Dark",)])
RECIPE = Recipe(
    encoder_lr=3e-3,
    decoder_lr=3e-3,
    weight_decay=0.01,
    warmup_share=0.1,
    clip_norm=5.0,
    batch_size=16,
    accumulate=1,
    epochs=4,
    patience=9,
    fine_tune_from="all",
    flip=False,
    shift=1,
    erase=0.0,
    seed=1,
    precision="float32",
)
SMALL = Architecture(
    encoder="small", in_channels=1, grid="native", attention_size=16, embedding_size=8, hidden_size=16, dropout=0.1
)


def make_split(name: str, count: int, *, seed: int, size: int = 16, channels: int = 1) -> Split:
    """Images whose category can be seen: overall brightness, and which half is brighter."""
    generator = np.random.default_rng(seed)
    paths = generator.integers(0, 4, count)
    pixels = generator.integers(0, 30, (count, channels, size, size))
    pixels[paths < 2] += 120
    for path, half in ((0, slice(0, size // 2)), (1, slice(size // 2, size)), (2, slice(0, size // 2))):
        pixels[paths == path, :, :, half] += 90
    names = [f"{name}-{row}" for row in range(count)]
    return Split(name, pixels.astype(np.uint8), paths, names, names, Preprocessing(size, "L", "squash"))


def train(folder: Path, recipe: Recipe = RECIPE, model=None, on_epoch=lambda record: None):
    torch.manual_seed(recipe.seed)
    model = model or Categorizer(SMALL, TAXONOMY, alpha_c=1.0)
    records = fit(
        model,
        make_split("train", 96, seed=1),
        make_split("val", 48, seed=2),
        recipe,
        device=CPU,
        state_file=folder / "state.safetensors",
        job="test",
        on_epoch=on_epoch,
    )
    return model, records


def test_learns_what_can_be_seen_and_round_trips(tmp_path: Path) -> None:
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
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for run in ("one", "two"):
        model, _ = train(tmp_path / run, replace(RECIPE, epochs=2))
        save(model, tmp_path / run / "model", Preprocessing(16, "L", "squash"), params={}, metrics={})
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "one/model" / name).read_bytes() == (tmp_path / "two/model" / name).read_bytes()


class Killed(BaseException):
    """Stands for a kill between two epochs."""


@pytest.mark.usefixtures("two_threads")
def test_a_killed_run_resumes_and_ends_as_if_never_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, whole_records = train(tmp_path / "whole")

    def die(record: loop.EpochRecord) -> None:
        if record.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "killed", on_epoch=die)
    trained_epochs = []
    real_epoch = loop._epoch
    monkeypatch.setattr(
        loop,
        "_epoch",
        lambda *args, **kwargs: trained_epochs.append(kwargs["epoch"]) or real_epoch(*args, **kwargs),
    )
    seen = []
    resumed, records = train(tmp_path / "killed", on_epoch=seen.append)
    assert trained_epochs == [3, 4], "what is done is not done again"
    assert [record.epoch for record in seen] == [1, 2, 3, 4], "plots get every epoch"
    assert [record.train_loss for record in records] == [record.train_loss for record in whole_records]
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(resumed.state_dict()[name]), name


def torn(content: bytes) -> bytes:
    return content[:1000]


def foreign(content: bytes) -> bytes:
    """Sound, but without a word on what it is."""
    return safetensors.torch.save(safetensors.torch.load(content))


def of_another_model(content: bytes) -> bytes:
    """With the right names, and one weight larger than here."""
    tensors = {name: tensor + 7 for name, tensor in safetensors.torch.load(content).items()}
    tensors["model/decoder.output.weight"] = torch.zeros(99, 16)
    return safetensors.torch.save(tensors, {"records": "[]"})


@pytest.mark.parametrize("damage", [torn, foreign, of_another_model])
def test_a_state_file_of_no_use_starts_anew_and_leaves_no_trace(
    damage: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = replace(RECIPE, epochs=1)
    right, _ = train(tmp_path, once)
    state = tmp_path / "state.safetensors"
    state.write_bytes(damage(state.read_bytes()))
    model, records = train(tmp_path, once)
    assert len(records) == 1
    assert all(tensor.equal(model.state_dict()[name]) for name, tensor in right.state_dict().items())
    assert capsys.readouterr().err.count(f"{state}: expected the state of training") == 1


def test_no_room_for_the_state_is_an_error_that_says_so(tmp_path: Path) -> None:
    with (
        limited_file_size(),
        pytest.raises(AtlasError, match=r"state of training could not be written.*Make room"),
    ):
        train(tmp_path, replace(RECIPE, epochs=1))
    assert not list(tmp_path.iterdir())


def test_stops_when_validation_no_longer_gets_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.65, 0.9])
    monkeypatch.setattr(loop, "path_accuracies", lambda *args: (next(accuracies), 0.0))
    _, records = train(tmp_path, replace(RECIPE, epochs=6, patience=3))
    assert [record.val_accuracy for record in records] == [0.5, 0.7, 0.6, 0.7, 0.65]
    assert best_record(records).epoch == 2


def still(model: Categorizer) -> Categorizer:
    """Without what depends on how images are put together: the encoder frozen, no dropout."""
    model.decoder.dropout.p = 0.0
    return model


def test_accumulated_batches_make_the_step_of_a_large_one(tmp_path: Path) -> None:
    recipe = replace(RECIPE, fine_tune_from="none", shift=0, epochs=2)
    runs = {}
    for name, sizes in (("large", {"batch_size": 36}), ("small", {"batch_size": 12, "accumulate": 3})):
        torch.manual_seed(1)
        model = still(Categorizer(SMALL, TAXONOMY, alpha_c=1.0, alpha_target="one"))
        runs[name] = train(tmp_path / name, replace(recipe, **sizes), model=model)
    (large, large_records), (small, small_records) = runs["large"], runs["small"]
    torch.testing.assert_close(small.state_dict(), large.state_dict(), rtol=1e-3, atol=1e-4)
    assert small_records[-1].train_loss == pytest.approx(large_records[-1].train_loss, rel=1e-4)
    assert small_records[0].lr == large_records[0].lr, "the learning rate goes by steps"


@pytest.mark.parametrize("kind", [Categorizer, Classifier])
@pytest.mark.parametrize("block", ["none", "3"])  # of `small`: everything frozen, all but the last three blocks
def test_training_on_activations_is_training_with_the_blocks_frozen(kind: type, block: str, tmp_path: Path) -> None:
    recipe = replace(RECIPE, fine_tune_from=block, batch_norm="frozen", shift=0, epochs=3)
    splits = make_split("train", 96, seed=1), make_split("val", 48, seed=2)
    found = []
    for name in ("images", "activations"):
        torch.manual_seed(1)
        model = kind(SMALL, TAXONOMY)
        model.encoder.freeze_before(block)
        examples = splits
        if name == "activations":
            examples = [load_activations(model.encoder, each, tmp_path, device=CPU) for each in splits]
            model.encoder.activations = None  # nothing calls it
        records = fit(
            model,
            *examples,
            recipe,
            device=CPU,
            state_file=tmp_path / f"{name}.safetensors",
            job=name,
            on_epoch=lambda record: None,
        )
        found.append([record.train_loss for record in records])
    alike = 3 if block == "none" else 1  # epochs: what half precision rounds off adds up where blocks learn from it
    assert found[1][:alike] == pytest.approx(found[0][:alike], rel=1e-3)
    assert found[0][2] < found[0][0]
    assert found[1][2] < found[1][0]


@pytest.mark.usefixtures("two_threads")
def test_views_are_drawn_anew_in_each_epoch_and_resumed_exactly(tmp_path: Path) -> None:
    recipe = replace(RECIPE, fine_tune_from="3", batch_norm="frozen", views=3, flip=True, shift=2, ema=0.9, epochs=4)

    def run(name: str, stop_after: int | None = None) -> tuple[Categorizer, list[loop.EpochRecord]]:
        torch.manual_seed(1)
        model = Categorizer(SMALL, TAXONOMY)
        model.encoder.freeze_before("3")
        examples = [
            load_activations(
                model.encoder,
                split,
                tmp_path / "activations",
                device=CPU,
                views=3 if split.name == "train" else 1,
                augmentation=recipe.augmentation,
            )
            for split in (make_split("train", 96, seed=1), make_split("val", 48, seed=2))
        ]

        def stop(record: loop.EpochRecord) -> None:
            if record.epoch == stop_after:
                raise Killed

        state = tmp_path / f"{name}.safetensors"
        return model, fit(model, *examples, recipe, device=CPU, state_file=state, job=name, on_epoch=stop)

    whole, whole_records = run("whole")
    with pytest.raises(Killed):
        run("killed", stop_after=2)
    resumed, records = run("killed")
    assert [record.train_loss for record in records] == [record.train_loss for record in whole_records]
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(resumed.state_dict()[name]), name


def test_the_average_of_weights_is_validated_and_kept(tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "plain", replace(RECIPE, epochs=2))
    averaged, records = train(tmp_path / "averaged", replace(RECIPE, epochs=2, ema=0.99))
    names = [name for name, weight in plain.named_parameters()]
    assert not any(plain.state_dict()[name].equal(averaged.state_dict()[name]) for name in names if "weight" in name)
    val = make_split("val", 48, seed=2)
    assert path_accuracies(averaged, val, 16, CPU)[0] == max(record.val_accuracy for record in records)


def test_moving_average_is_that_of_the_formula() -> None:
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


def test_in_head_epochs_the_encoder_stays_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Categorizer(SMALL, TAXONOMY)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(tmp_path / "head", replace(RECIPE, epochs=1, head_epochs=1), model=model)
    changed = {name.partition(".")[0] for name, weight in model.named_parameters() if not weight.equal(before[name])}
    assert changed == {"decoder"}
    train(tmp_path / "all", replace(RECIPE, epochs=2, head_epochs=1), model=model)
    changed = {name.partition(".")[0] for name, weight in model.named_parameters() if not weight.equal(before[name])}
    assert changed == {"decoder", "encoder"}


def test_earlier_blocks_learn_more_slowly() -> None:
    model = Categorizer(SMALL, TAXONOMY)
    groups = loop._optimizer(model, replace(RECIPE, encoder_lr=1.0, layer_decay=0.5)).param_groups
    assert [group["peak"] for group in groups] == [0.5**4, 0.5**3, 0.5**2, 0.5, 1.0, RECIPE.decoder_lr]
    count = sum(weight.numel() for group in groups for weight in group["params"])
    assert count == sum(weight.numel() for weight in model.parameters())


def test_few_images_get_more_epochs() -> None:
    recipe = replace(RECIPE, batch_size=16, accumulate=2, epochs=4, patience=2, min_steps=100)
    assert recipe.for_images(40) == replace(recipe, epochs=50, patience=25), "2 steps an epoch"
    assert recipe.for_images(10_000) is recipe


def test_the_epoch_is_chosen_by_the_score_that_was_asked_for() -> None:
    record = SimpleNamespace(val_accuracy=0.8, val_macro_f1=0.5, val_accuracy_of_title=None, val_macro_f1_of_title=None)
    scores = [loop.EpochRecord.score(record, select) for select in ("micro", "macro", "both")]
    assert scores == [0.8, 0.5, pytest.approx(0.65)]


@pytest.mark.parametrize("kind", [Categorizer, Classifier])
def test_priors_take_from_the_logits_what_frequency_explains(kind: type) -> None:
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
        # Bright and Dark are even, and so are the ends of each.
        assert [probability[path] for path in range(4)] == pytest.approx([0.25] * 4, abs=0.02)


@pytest.mark.parametrize("fine_tune_from", ["none", "all"])
def test_what_several_processes_average_leaves_a_frozen_encoder_as_it_is(
    fine_tune_from: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As three processes that agree would: a third of three times a number is not always the number."""
    monkeypatch.setattr(distributed, "average", lambda tensors: [tensor.mul_(3).div_(3) for tensor in tensors])
    torch.manual_seed(1)
    model = Categorizer(SMALL, TAXONOMY)
    for name, buffer in model.encoder.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 2.0)
    before = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    train(tmp_path, replace(RECIPE, fine_tune_from=fine_tune_from, shift=0, epochs=1), model=model)
    same = [tensor.equal(before[name]) for name, tensor in model.encoder.state_dict().items()]
    assert all(same) if fine_tune_from == "none" else not any(same)


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
    assert constraint_effect(model, val, 4, CPU) == Constraint(1.0, 0.5, 0.25)


@pytest.mark.parametrize("batch_size", [16, 96])  # the second: in the very last step
def test_weights_that_are_no_numbers_end_training(
    batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    real_step = loop._step
    monkeypatch.setattr(loop, "_step", lambda *args: taken.append(1) or real_step(*args))
    wild = replace(RECIPE, encoder_lr=1e39, decoder_lr=1e39, clip_norm=1e30, batch_size=batch_size, epochs=1)
    with pytest.raises(AtlasError, match=r"weights grew beyond all numbers in epoch 1. Lower train\.encoder_lr"):
        train(tmp_path, wild)
    assert len(taken) == 1, "no step is taken for nothing"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_resnet101_trains_a_step_and_round_trips(tmp_path: Path) -> None:
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


def test_a_last_batch_of_one_is_left_out() -> None:
    generator = torch.Generator().manual_seed(1)
    assert sorted(map(len, loop._order(33, 16, generator))) == [16, 16]
    assert sorted(map(len, loop._order(1, 16, generator))) == [1]
    assert sorted(map(len, loop._order(3, 1, generator))) == [1, 1, 1], "who wants batches of one gets them"


def test_a_description_that_makes_no_sense_is_a_checkpoint_error(tmp_path: Path) -> None:
    model = Categorizer(SMALL, TAXONOMY)
    save(model, tmp_path / "model", Preprocessing(16, "L", "squash"), params={}, metrics={})
    description = json.loads((tmp_path / "model/model.json").read_text())
    for place, key, value in [
        ("architecture", "encoder", "vgg"),
        ("architecture", "hidden_size", -1),
        ("preprocessing", "mode", "CMYK"),
        ("taxonomy", "paths", "all of them"),
    ]:
        changed = {**description, place: {**description[place], key: value}}
        (tmp_path / "model/model.json").write_text(json.dumps(changed))
        with pytest.raises(InputError):
            load_categorizer(tmp_path / "model", CPU)


def test_the_baseline_round_trips_and_kinds_are_told_apart(tmp_path: Path) -> None:
    model, _ = train(tmp_path, replace(RECIPE, epochs=1), model=Classifier(SMALL, TAXONOMY))
    save(model, tmp_path / "baseline", Preprocessing(16, "L", "squash"), params={}, metrics={})
    loaded, _ = load_classifier(tmp_path / "baseline", CPU)
    images = make_split("val", 8, seed=2).images(np.arange(8), CPU)
    assert loaded.best_path(images).equal(model.best_path(images))
    with pytest.raises(CheckpointError, match="expected a model of kind 'categorizer'"):
        load_categorizer(tmp_path / "baseline", CPU)


def test_augmentation_mirrors_and_moves_but_invents_nothing() -> None:
    images = torch.arange(2 * 1 * 4 * 6, dtype=torch.uint8).view(2, 1, 4, 6)
    still = augment(images, torch.Generator().manual_seed(1), Augmentation())
    assert still.equal(images)
    mirrored = augment(images.repeat(50, 1, 1, 1), torch.Generator().manual_seed(1), Augmentation(flip=True))
    unchanged = sum(row.equal(images[0]) for row in mirrored[::2])
    assert all(row.equal(images[0]) or row.equal(images[0].flip(-1)) for row in mirrored[::2])
    assert 10 < unchanged < 40
    moved = augment(images.repeat(50, 1, 1, 1), torch.Generator().manual_seed(1), Augmentation(shift=2))
    assert any(row[:, 1:, 1:].equal(images[0, :, :-1, :-1]) for row in moved[::2])


def test_erasing_paints_a_part_of_some_images_in_one_grey() -> None:
    images = torch.randint(0, 256, (200, 3, 28, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    erased = augment(images, torch.Generator().manual_seed(2), Augmentation(erase=0.5))
    changed = (erased != images).any(dim=1)  # (b, h, w)
    assert 70 < changed.any(dim=(1, 2)).sum() < 130
    for after, where in zip(erased, changed, strict=True):
        rows, columns = where.any(dim=1).nonzero().flatten(), where.any(dim=0).nonzero().flatten()
        if len(rows):
            assert rows[-1] - rows[0] < 10 and columns[-1] - columns[0] < 13, "a third of each side, and a pixel"
            assert after[:, where].unique().numel() == 1
            inside = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert inside.unique().numel() == 1, "a whole rectangle"
    again = augment(images, torch.Generator().manual_seed(2), Augmentation(erase=0.5))
    assert again.equal(erased)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_colours_and_randaugment_are_seeded_and_leave_the_global_generator_alone(channels: int) -> None:
    images = torch.randint(0, 256, (4, channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for augmentation in (Augmentation(crop=0.3), Augmentation(color=0.3), Augmentation(randaugment=2)):
        first, again, other = (augment(images, torch.Generator().manual_seed(seed), augmentation) for seed in (1, 1, 2))
        assert first.equal(again)
        assert not first.equal(other)
        assert first.shape == images.shape
        assert first.dtype == torch.uint8
    assert torch.get_rng_state().equal(before)


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
