"""The training loop: trains a model on one split, validates it on another, resumes after a kill.

The random numbers of an epoch (order, augmentation, dropout) depend only on the seed and the epoch, and the learning
rate only on the step. So a resumed run takes the same steps as an uninterrupted one. Several processes (`distributed`)
also take the same steps: each batch is drawn and augmented as by a single process, then divided, and the sum of the
parts' gradients is the gradient of the batch, whatever the sizes of the parts. Only batch norm differs: it normalises
each part separately, and its running statistics are averaged after each epoch.

The loop uses a model's loss, its best path and its head (see `categorizer`).
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import Progress, say
from atlas_model.data.augmentation import Augmentation, augment
from atlas_model.data.dataset import prefetch
from atlas_model.data.titles import LabelWords, augment_titles
from atlas_model.model.categorizer import Categorizer, Model, reads_titles
from atlas_model.train import distributed
from atlas_model.train.feature_cache import Activations
from atlas_model.train.moving_average import MovingAverage
from atlas_model.train.state import TrainingState, load_state, save_state
from atlas_model.train.validation import ConstraintEffect, Examples, constraint_effect, path_accuracies

CHECK_STEPS = 100  # steps between checks for NaN and Inf in the weights, which synchronise with a GPU


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run."""

    encoder_lr: float  # peak
    decoder_lr: float  # peak, of all parameters outside the encoder
    weight_decay: float
    warmup_share: float  # share of all steps with a linear warm-up; then cosine to zero
    clip_norm: float
    batch_size: int  # in all processes together
    accumulate: int  # batches whose gradients make one step of the optimizer
    epochs: int
    patience: int  # epochs without a better validation score (`select`) before training stops
    fine_tune_from: str  # first trained block of the encoder, or all or none
    seed: int
    precision: Literal["float32", "bfloat16"]
    flip: bool = False  # this and the next five as in `augmentation.Augmentation`
    shift: int = 0
    erase: float = 0.0
    crop: float = 1.0
    color: float = 0.0
    randaugment: int = 0
    views: int = 1  # of each image in the cache of a partly frozen encoder's activations
    batch_norm: Literal["trained", "frozen"] = "trained"  # frozen: trained blocks keep the pretrained statistics
    layer_decay: float = 1.0  # learning rate of a block, as a share of that of the block after it
    head_epochs: int = 0  # epochs at the start with the encoder frozen
    ema: float = 0.0  # decay of the weights' moving average, which is validated and kept; 0: no average
    select: Literal["micro", "macro", "both"] = "micro"  # F1 on validation that selects the epoch; both: their mean
    min_steps: int = 0  # of the optimizer: if ``epochs`` has fewer, more epochs are run
    title_strip: float = 0.0  # this and the next as in `titles.augment_titles`, for models with a title head
    title_drop: float = 0.0

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of training images."""
        return Augmentation(self.flip, self.shift, self.erase, self.crop, self.color, self.randaugment)

    def for_images(self, count: int) -> "Recipe":
        """The recipe with enough epochs for `min_steps` with ``count`` images, and patience in proportion."""
        steps = math.ceil(math.ceil(count / self.batch_size) / self.accumulate)  # per epoch
        if steps * self.epochs >= self.min_steps:
            return self
        epochs = math.ceil(self.min_steps / steps)
        return replace(self, epochs=epochs, patience=math.ceil(self.patience * epochs / self.epochs))


@dataclass(frozen=True)
class EpochRecord:
    """Figures of an epoch."""

    epoch: int  # from 1
    train_loss: float
    val_accuracy: float  # share of exact paths
    val_macro_f1: float  # mean over the categories of validation
    # The same two for titles alone; None for a model without a title head.
    val_accuracy_of_title: float | None
    val_macro_f1_of_title: float | None
    lr: float  # of the head, at the epoch's last step
    seconds: float
    data_share: float  # share of the time spent waiting for images to be read and augmented
    # Effect of the taxonomy's constraint at this epoch, or None (see `validation.ConstraintEffect`).
    constrained_accuracy: float | None
    free_accuracy: float | None
    free_invalid: float | None

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "EpochRecord":
        """Make it from `as_dict`."""
        return cls(**plain)

    @property
    def as_dict(self) -> dict[str, float | int | None]:
        """Convert to a dictionary."""
        return asdict(self)

    def score(self, select: str) -> float:
        """The score by which an epoch is selected; see `Recipe.select`.

        With titles it is the mean of the scores of images alone and of titles alone.
        """
        micro, macro = self.val_accuracy, self.val_macro_f1
        if self.val_accuracy_of_title is not None and self.val_macro_f1_of_title is not None:
            micro = (micro + self.val_accuracy_of_title) / 2
            macro = (macro + self.val_macro_f1_of_title) / 2
        return {"micro": micro, "macro": macro}.get(select, (micro + macro) / 2)


def fit(
    model: Model,
    train: Examples,
    val: Examples,
    recipe: Recipe,
    *,
    device: torch.device,
    state_file: Path,
    job: str,
    on_epoch: Callable[[EpochRecord], None],
) -> list[EpochRecord]:
    """Train ``model`` in place; at the end it has the weights of the best epoch, in evaluation mode.

    Args:
        model: newly built; its weights are replaced if ``state_file`` exists.
        train: images, or the activations of the encoder's frozen blocks.
        val: likewise; selects the epoch.
        recipe: the hyperparameters.
        device: to train on.
        state_file: checkpoint, written after each epoch; its name must identify the run.
        job: name in progress lines.
        on_epoch: called once per epoch in order, also for the epochs of an interrupted run.

    Raises:
        AtlasError: training diverged (NaN or Inf), or the disk is full.
    """
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs miss it
    model.encoder.freeze_before(recipe.fine_tune_from, statistics=recipe.batch_norm == "frozen")
    optimizer = _optimizer(model, recipe)
    average = MovingAverage(model, recipe.ema) if recipe.ema else None
    state = load_state(state_file, model, optimizer) or TrainingState(records=[], best=_weights(model), average={})
    if average and state.average:
        average.load(state.average)
    records = [EpochRecord.from_dict(record) for record in state.records]
    if records:
        say(f"{job}: resumes after epoch {len(records)} of {recipe.epochs}")
    for record in records:
        on_epoch(record)
    while len(records) < recipe.epochs and not _out_of_patience(records, recipe):
        record = _epoch(
            model,
            train,
            val,
            recipe,
            optimizer=optimizer,
            average=average,
            device=device,
            job=job,
            epoch=len(records) + 1,
        )
        if record.score(recipe.select) > max((old.score(recipe.select) for old in records), default=-1.0):
            with average.applied() if average else nullcontext():
                state.best = _weights(model)
        records.append(record)
        state.records = [old.as_dict for old in records]
        state.average = average.average if average else {}
        if distributed.is_main_process():
            save_state(state_file, model, optimizer, state)
        on_epoch(record)
    model.load_state_dict(state.best)
    model.eval()
    return records


def best_record(records: list[EpochRecord], select: str = "micro") -> EpochRecord:
    """The epoch whose weights `fit` keeps: the first with the best score."""
    return max(records, key=lambda record: record.score(select))


def learning_rate_factor(step: int, total: int, warmup_share: float) -> float:
    """Factor of the peak learning rate at ``step`` of ``total``: linear warm-up, then cosine to zero."""
    warmup = max(1, round(total * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _epoch(
    model: Model,
    train: Examples,
    val: Examples,
    recipe: Recipe,
    *,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    device: torch.device,
    job: str,
    epoch: int,
) -> EpochRecord:
    started, waited = time.perf_counter(), 0.0
    seed = recipe.seed * 1_000_003 + epoch
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed + 500_009 * distributed.rank())  # dropout
    batches = list(_order(len(train), recipe.batch_size, generator))
    steps = [batches[first : first + recipe.accumulate] for first in range(0, len(batches), recipe.accumulate)]
    losses = torch.zeros(len(steps), device=device)
    inputs = _inputs(train, batches, recipe, device=device, generator=generator)
    titles = _titles(model, train, batches, recipe, seed)
    model.train()
    with Progress(job, len(train), "images", epoch=(epoch, recipe.epochs)) as progress:
        for index, step_batches in enumerate(steps):
            of = torch.from_numpy(train.paths[np.concatenate(step_batches)]).to(device)
            for rows in step_batches:
                requested_at = time.perf_counter()
                part, part_titles = next(inputs), next(titles)
                waited += time.perf_counter() - requested_at
                if len(part):
                    paths = torch.from_numpy(train.paths[distributed.local_shard(rows)]).to(device)
                    trains_encoder = epoch > recipe.head_epochs
                    losses[index] += _backward(
                        model, part, part_titles, paths, of, precision=recipe.precision, trains_encoder=trains_encoder
                    )
            done = (epoch - 1) * len(steps) + index
            _step(model, optimizer, recipe, learning_rate_factor(done, len(steps) * recipe.epochs, recipe.warmup_share))
            if average:
                average.update(done + 1)
            progress.advance(len(of))
            if index % CHECK_STEPS == 0 or index == len(steps) - 1:
                _check_weights(model, job, epoch)
        distributed.all_reduce_sum([losses])
        mean_loss = float(losses.mean())
        if not math.isfinite(mean_loss):
            raise AtlasError(_diverged(job, epoch, f"a loss of {mean_loss}"))
        distributed.all_reduce_mean(_running_statistics(model))
        seconds = time.perf_counter() - started
        validated, constraint = [0.0] * (4 if reads_titles(model) else 2), None
        if distributed.is_main_process():
            with average.applied() if average else nullcontext():
                validated = path_accuracies(model, val, recipe.batch_size, device)
                constraint = constraint_effect(model, val, recipe.batch_size, device)
        accuracy, macro_f1, *title_figures = map(distributed.broadcast_from_main, validated)
        progress.advance(0, loss=mean_loss, val_accuracy=accuracy)
    return EpochRecord(
        epoch=epoch,
        train_loss=mean_loss,
        val_accuracy=accuracy,
        val_macro_f1=macro_f1,
        val_accuracy_of_title=title_figures[0] if title_figures else None,
        val_macro_f1_of_title=title_figures[1] if title_figures else None,
        lr=optimizer.param_groups[-1]["lr"],
        seconds=seconds,
        data_share=waited / seconds,
        **(asdict(constraint) if constraint else dict.fromkeys(ConstraintEffect.__dataclass_fields__)),
    )


def _inputs(
    train: Examples,
    batches: list[Int[np.ndarray, "_"]],
    recipe: Recipe,
    *,
    device: torch.device,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Yield this process's part of each batch: augmented images, or activations of a random view of each."""
    if isinstance(train, Activations):
        views = [torch.randint(train.views, (len(rows),), generator=generator).numpy() for rows in batches]
        shares = (
            (distributed.local_shard(rows), distributed.local_shard(of))
            for rows, of in zip(batches, views, strict=True)
        )
        yield from prefetch((train.read(rows, device, of) for rows, of in shares), device)
        return
    for images in prefetch((train.images(rows, device) for rows in batches), device):
        yield distributed.local_shard(augment(images, generator, recipe.augmentation))


def _titles(
    model: Model, train: Examples, batches: list[Int[np.ndarray, "_"]], recipe: Recipe, seed: int
) -> Iterator[list[str] | None]:
    """Yield this process's part of the titles of each batch, augmented; None for a model without a title head."""
    if not reads_titles(model):
        yield from itertools.repeat(None, len(batches))
        return
    generator = torch.Generator().manual_seed(seed + 250_007)  # a separate one: images may be augmented in a thread
    words = LabelWords(model.taxonomy.vocabulary)
    for rows in batches:
        given = [train.titles[row] for row in rows]
        yield distributed.local_shard(
            augment_titles(given, words, generator, strip=recipe.title_strip, drop=recipe.title_drop)
        )


def _backward(
    model: Model,
    inputs: Tensor,
    titles: list[str] | None,
    paths: Int[Tensor, "b"],
    of: Int[Tensor, "m"],
    *,
    precision: str,
    trains_encoder: bool,
) -> Float[Tensor, ""]:
    """Add the gradients of a part of a step's images; return its part of the loss. ``of``: right paths of the step."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        with torch.set_grad_enabled(trains_encoder):
            cells = model.encoder.cells(inputs) if inputs.is_floating_point() else model.encoder(inputs)
        if isinstance(model, Categorizer):
            loss = model.loss_of_cells(cells, paths, of, titles)
        else:
            loss = model.loss_of_cells(cells, paths, of)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return loss.detach()


def _step(model: Model, optimizer: torch.optim.Optimizer, recipe: Recipe, lr_factor: float) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    distributed.all_reduce_gradients(weights)
    nn.utils.clip_grad_norm_(weights, recipe.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * lr_factor
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _check_weights(model: Model, job: str, epoch: int) -> None:
    """Raise if training diverged: a loss of NaN makes all weights NaN."""
    if not torch.stack([weight.isfinite().all() for weight in model.parameters()]).all():
        raise AtlasError(_diverged(job, epoch, "NaN or Inf in the weights"))


def _diverged(job: str, epoch: int, sign: str) -> str:
    return (
        f"{job}: training diverged ({sign}) in epoch {epoch}. Lower train.encoder_lr and decoder_lr, or use other "
        "train.weights."
    )


def _running_statistics(model: Model) -> list[Tensor]:
    """Running statistics of the batch norms that are not frozen."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    return [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]


def _optimizer(model: Model, recipe: Recipe) -> torch.optim.Optimizer:
    groups = [*_encoder_groups(model, recipe), (list(model.head().parameters()), recipe.decoder_lr)]
    trained = [
        {"params": [parameter for parameter in parameters if parameter.requires_grad], "lr": lr, "peak": lr}
        for parameters, lr in groups
    ]
    return torch.optim.AdamW(
        [group for group in trained if group["params"]], weight_decay=recipe.weight_decay, fused=True
    )


def _encoder_groups(model: Model, recipe: Recipe) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters of blocks with their learning rates, which grow towards the last block."""
    if recipe.layer_decay == 1:
        return [(list(model.encoder.parameters()), recipe.encoder_lr)]
    blocks = list(model.encoder.trunk)
    return [
        (list(block.parameters()), recipe.encoder_lr * recipe.layer_decay ** (len(blocks) - 1 - index))
        for index, block in enumerate(blocks)
    ]


def _order(count: int, size: int, generator: torch.Generator) -> Iterator[Int[np.ndarray, "b"]]:
    order = torch.randperm(count, generator=generator).numpy()
    for start in range(0, count, size):
        # Sorted: rows that are adjacent on disk are read together.
        rows = np.sort(order[start : start + size])
        if len(rows) > 1 or 1 in {count, size}:  # batch norm may fail on a last batch of one
            yield rows


def _weights(model: Model) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _out_of_patience(records: list[EpochRecord], recipe: Recipe) -> bool:
    return bool(records) and len(records) - best_record(records, recipe.select).epoch >= recipe.patience
