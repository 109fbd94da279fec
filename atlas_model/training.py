"""The training loop: one model, two splits, a recipe; resumes after a kill, selects on validation path accuracy.

Randomness of an epoch (order, augmentation, dropout) is a function of the seed and the epoch alone, and the
learning rate one of the step alone, so a resumed run takes the very steps that an uninterrupted one takes.

Knows nothing of what the model is (see `categorizer`: a loss, a best path, a head), of parameters files, or of who
plots the records it hands out.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from atlas_model.augmentation import augment
from atlas_model.categorizer import Model
from atlas_model.dataset import Split
from atlas_model.encoder import FineTune
from atlas_model.errors import AtlasError
from atlas_model.progress import Progress, say
from atlas_model.training_state import TrainingState, load_state, save_state


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    encoder_lr: float  # peak
    decoder_lr: float  # peak, of everything that is not the encoder
    weight_decay: float
    warmup_share: float  # of all steps: linear from zero; then cosine to zero
    clip_norm: float
    batch_size: int
    epochs: int
    patience: int  # epochs without a better validation accuracy before training stops
    fine_tune_from: FineTune  # first trained block of the encoder
    flip: bool
    shift: int  # px
    erase: float  # share of the pictures that have a part painted over
    seed: int
    precision: Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch came to."""

    epoch: int  # from 1
    train_loss: float
    val_accuracy: float  # share of exact paths
    lr: float  # of the head, at the epoch's last step
    seconds: float
    data_share: float  # of the time, spent waiting for pictures

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "EpochRecord":
        """Undo `plain`."""
        return cls(**plain)

    @property
    def plain(self) -> dict[str, float | int]:
        """As a dictionary."""
        return asdict(self)


def fit(
    model: Model,
    train: Split,
    val: Split,
    recipe: Recipe,
    *,
    device: torch.device,
    state_file: Path,
    job: str,
    on_epoch: Callable[[EpochRecord], None],
) -> list[EpochRecord]:
    """Train ``model`` in place; at the end it holds the weights of the best epoch, in evaluation mode.

    Args:
        model: freshly built, or anything of the same shape when ``state_file`` is there.
        train: what it learns from.
        val: what selects the epoch.
        recipe: how.
        device: where.
        state_file: work in progress, written after each epoch; the caller keys its name by all that matters.
        job: name in progress lines.
        on_epoch: called once per epoch in order, also for those of an earlier, interrupted run.

    Raises:
        AtlasError: the loss is no number any more.
    """
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs miss it
    model.encoder.freeze_before(recipe.fine_tune_from)
    optimizer = _optimizer(model, recipe)
    state = load_state(state_file, model, optimizer) or TrainingState(records=[], best=_weights(model))
    records = [EpochRecord.of(record) for record in state.records]
    if records:
        say(f"{job}: resumes after epoch {len(records)} of {recipe.epochs}")
    for record in records:
        on_epoch(record)
    while len(records) < recipe.epochs and not _out_of_patience(records, recipe.patience):
        record = _epoch(model, train, val, recipe, optimizer=optimizer, device=device, job=job, epoch=len(records) + 1)
        if record.val_accuracy > max((old.val_accuracy for old in records), default=-1.0):
            state.best = _weights(model)
        records.append(record)
        state.records = [old.plain for old in records]
        save_state(state_file, model, optimizer, state)
        on_epoch(record)
    model.load_state_dict(state.best)
    model.eval()
    return records


def best_record(records: list[EpochRecord]) -> EpochRecord:
    """The epoch whose weights `fit` keeps: the first of the most accurate."""
    return max(records, key=lambda record: record.val_accuracy)


@torch.no_grad()
def path_accuracy(model: Model, split: Split, batch_size: int, device: torch.device) -> float:
    """Share of pictures whose best path is exactly right."""
    model.eval()
    found = torch.cat([model.best_path(pictures) for pictures in split.batches(batch_size, device)])
    return float((found.cpu().numpy() == split.paths).mean())


def learning_rate_factor(step: int, total: int, warmup_share: float) -> float:
    """Share of the peak learning rate at ``step`` of ``total``: linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(total * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _epoch(
    model: Model,
    train: Split,
    val: Split,
    recipe: Recipe,
    *,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    job: str,
    epoch: int,
) -> EpochRecord:
    started = time.perf_counter()
    waited, losses = 0.0, []
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)  # dropout
    steps = math.ceil(len(train) / recipe.batch_size)
    model.train()
    with Progress(f"{job} epoch {epoch}/{recipe.epochs}", len(train), "pictures") as progress:
        for index, rows in enumerate(_order(len(train), recipe.batch_size, generator)):
            asked = time.perf_counter()
            pictures = train.pictures(rows, device)
            waited += time.perf_counter() - asked
            step = (epoch - 1) * steps + index
            factor = learning_rate_factor(step, steps * recipe.epochs, recipe.warmup_share)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            pictures = augment(pictures, generator, flip=recipe.flip, shift=recipe.shift, erase=recipe.erase)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                loss = model.loss(pictures, torch.from_numpy(train.paths[rows]).to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            losses.append(loss.detach())
            progress.advance(len(rows))
        mean_loss = float(torch.stack(losses).mean())
        if not math.isfinite(mean_loss):
            raise AtlasError(f"{job}: the loss is {mean_loss} in epoch {epoch}. Lower train.encoder_lr and decoder_lr.")
        seconds = time.perf_counter() - started
        accuracy = path_accuracy(model, val, recipe.batch_size, device)
        progress.advance(0, loss=mean_loss, val_accuracy=accuracy)
    lr = optimizer.param_groups[-1]["lr"]
    return EpochRecord(epoch, mean_loss, accuracy, lr, seconds, waited / seconds)


def _optimizer(model: Model, recipe: Recipe) -> torch.optim.Optimizer:
    groups = (
        (model.encoder.parameters(), recipe.encoder_lr),
        (model.head().parameters(), recipe.decoder_lr),
    )
    trained = [
        {"params": [parameter for parameter in parameters if parameter.requires_grad], "lr": lr, "peak": lr}
        for parameters, lr in groups
    ]
    return torch.optim.AdamW([group for group in trained if group["params"]], weight_decay=recipe.weight_decay)


def _order(count: int, size: int, generator: torch.Generator) -> Iterator[Int[np.ndarray, "b"]]:
    order = torch.randperm(count, generator=generator).numpy()
    for start in range(0, count, size):
        # In each batch in the order of the file: neighbours on disk are read together.
        rows = np.sort(order[start : start + size])
        if len(rows) > 1 or count == 1:  # batch norm may have nothing to average in a last batch of one
            yield rows


def _weights(model: Model) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _out_of_patience(records: list[EpochRecord], patience: int) -> bool:
    return bool(records) and len(records) - best_record(records).epoch >= patience
