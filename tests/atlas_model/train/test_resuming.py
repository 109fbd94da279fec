"""Resuming training after a kill, and invalid state files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from atlas_model.core.errors import AtlasError
from atlas_model.model.categorizer import Categorizer
from atlas_model.train import loop
from atlas_model.train.feature_cache import load_activations
from atlas_model.train.loop import fit
from tests.support.full_disk import limited_file_size
from tests.support.training import CPU, RECIPE, SMALL, TAXONOMY, Killed, make_split, train


@pytest.mark.usefixtures("two_threads")
def test_killed_run_resumes_with_identical_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert trained_epochs == [3, 4], "completed epochs are not trained again"
    assert [record.epoch for record in seen] == [1, 2, 3, 4], "plots contain every epoch"
    assert [record.train_loss for record in records] == [record.train_loss for record in whole_records]
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(resumed.state_dict()[name]), name


def torn(content: bytes) -> bytes:
    return content[:1000]


def foreign(content: bytes) -> bytes:
    """A valid safetensors file without metadata."""
    return safetensors.torch.save(safetensors.torch.load(content))


def of_another_model(content: bytes) -> bytes:
    """The right names, and one weight of another shape."""
    tensors = {name: tensor + 7 for name, tensor in safetensors.torch.load(content).items()}
    tensors["model/decoder.output.weight"] = torch.zeros(99, 16)
    return safetensors.torch.save(tensors, {"records": "[]"})


@pytest.mark.parametrize("damage", [torn, foreign, of_another_model])
def test_invalid_state_file_is_discarded(
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


def test_reports_full_disk(tmp_path: Path) -> None:
    with (
        limited_file_size(),
        pytest.raises(AtlasError, match=r"state of training could not be written.*Free disk space"),
    ):
        train(tmp_path, replace(RECIPE, epochs=1))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("two_threads")
def test_views_differ_by_epoch_and_resume_exactly(tmp_path: Path) -> None:
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
        train_on, judge_by = examples
        return model, fit(model, train_on, judge_by, recipe, device=CPU, state_file=state, job=name, on_epoch=stop)

    whole, whole_records = run("whole")
    with pytest.raises(Killed):
        run("killed", stop_after=2)
    resumed, records = run("killed")
    assert [record.train_loss for record in records] == [record.train_loss for record in whole_records]
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(resumed.state_dict()[name]), name
