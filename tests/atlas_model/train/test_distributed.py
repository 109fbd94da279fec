"""Distributed training: the stage under torchrun with two CPU processes equals one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from atlas_model.core.errors import InputError
from atlas_model.core.params import load_params
from atlas_model.data.torchvision_compat import models
from atlas_model.train.distributed import process_group
from flows import paths
from flows.stages import train as stage
from tests.support.paths import ROOT
from tests.support.training_split import TAXONOMY, write_split

SIZES = {
    "attention_size": 8,
    "embedding_size": 8,
    "hidden_size": 8,
    "batch_size": 15,
    "epochs": 2,
    "dropout": 0.0,
    "min_steps": 0,
}


def torchrun(folder: Path, *what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *what]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=120
    )


def train(folder: Path, changes: dict[str, Any], *, processes: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Run the stage; its metrics and the sequence model's weights."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"] |= SIZES | changes
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    if processes == 1:
        stage.run(load_params())
    else:
        done = torchrun(folder, "-m", "flows.stages.train")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("train categorizer epoch 2/") == 1, "only the first process prints progress"
    metrics = json.loads((folder / paths.REPORTS / "train/metrics.json").read_text())
    return metrics, load_file(folder / paths.CATEGORIZER / "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 47), ("val", 30)):
        write_split(name, count)
    TAXONOMY.save(paths.TAXONOMY)
    return tmp_path


@pytest.mark.slow
def test_two_processes_equal_one_with_frozen_encoder(folder: Path) -> None:
    torch.manual_seed(1)
    save_file(models.resnet18(weights=None).state_dict(), folder / "resnet18.safetensors")
    frozen = {
        "encoder": "resnet18",
        "weights": "resnet18.safetensors",
        "fine_tune_from": "none",
        "flip": False,
        "shift": 0,
        "accumulate": 2,
    }
    one, one_weights = train(folder, frozen, processes=1)
    two, two_weights = train(folder, frozen, processes=2)
    assert len(list((folder / paths.WORK / "activations").glob("*.npy"))) == 2, (
        "train and val: the second run reads them"
    )
    for kind in ("categorizer", "baseline"):
        assert one[kind]["val_accuracy"] == two[kind]["val_accuracy"]
    assert one["constraint"] == two["constraint"]
    torch.testing.assert_close(two_weights, one_weights, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_nearly_equal_one_with_batch_norm(folder: Path) -> None:
    """Same images and augmentation, but each process normalises its half of the batch."""
    losses = []
    for processes in (1, 2):
        metrics, _ = train(folder, {"batch_size": 24, "epochs": 3}, processes=processes)
        assert metrics["categorizer"]["val_accuracy"] >= 0.9
        table = (folder / paths.PLOTS / "train/plots/metrics/categorizer/train_loss.tsv").read_text()
        losses.append([float(line.split()[-1]) for line in table.splitlines()[1:]])
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.05)
    assert losses[1][0] != losses[0][0]


def test_refuses_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run of torchrun's")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(InputError, match="at most 1 processes, a GPU for each; got number 2"),
        process_group(torch.device("cuda")),
    ):
        pass


ONE_ROW_THEN_DYING = """
import sys

import torch

from atlas_model.train.distributed import all_reduce_gradients, local_shard, main_process_first, process_group, rank

with process_group(torch.device("cpu")):
    weight = torch.ones(2, requires_grad=True)
    for row in local_shard([3.0]):
        (weight * row).sum().backward()
    all_reduce_gradients([weight])
    assert weight.grad.tolist() == [3.0, 3.0]
    print(f"process {rank()} has the gradient", flush=True)
    torch.distributed.barrier()

    with main_process_first():
        if rank() == 0:
            print("main process ends", flush=True)
            sys.exit(3)
print("survived", flush=True)
"""


@pytest.mark.slow
def test_process_without_rows_adds_zeros_and_all_end_when_one_fails(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ONE_ROW_THEN_DYING)
    done = torchrun(tmp_path, "program.py")
    for number in range(2):
        assert f"process {number} has the gradient" in done.stdout, done.stderr
    assert done.returncode != 0
    assert "main process ends" in done.stdout
    assert "survived" not in done.stdout
