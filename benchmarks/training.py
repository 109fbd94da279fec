"""Measures the cost of training: the training loop of `small` against the network alone, and the decoder.

Baselines: forward and backward pass of the same network on tensors in memory, without optimizer, augmentation or
clipping; and the same encoder with a plain classifier, in the same loop. All run in turns. Seconds are wall time;
`_cpu` is the CPU time of the process, which is more reliable on a busy machine.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch

from atlas_model.core.device import keep_freed_memory
from atlas_model.data.dataset import Split
from atlas_model.data.images import Preprocessing
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer, Model
from atlas_model.model.classifier import Classifier
from atlas_model.train.loop import EpochRecord, Recipe, fit
from atlas_model.train.validation import Examples
from benchmarks.report import report
from benchmarks.search import SMALL, taxonomy52

CPU = torch.device("cpu")
IMAGES, BATCH, RUNS = 1280, 128, 5
RECIPE = Recipe(
    encoder_lr=3e-3,
    decoder_lr=3e-3,
    weight_decay=0.02,
    warmup_share=0.15,
    clip_norm=5.0,
    batch_size=BATCH,
    accumulate=1,
    epochs=1,
    patience=1,
    fine_tune_from="all",
    flip=True,
    shift=2,
    erase=0.0,
    seed=1,
    precision="float32",
)


def random_split(images: int, channels: int, size: int, paths: int) -> Split:
    """Random images with random categories."""
    draw = np.random.default_rng(1)
    pixels = draw.integers(0, 256, (images, channels, size, size), dtype=np.uint8)
    names = [str(row) for row in range(images)]
    return Split("train", pixels, draw.integers(0, paths, images), names, names, Preprocessing(size, "L", "squash"))


def epoch(model: Model, train: Examples, val: Examples, recipe: Recipe) -> EpochRecord:
    """Train one epoch with the loop; its time excludes validation and saving."""
    with tempfile.TemporaryDirectory() as folder:
        (record,) = fit(
            model,
            train,
            val,
            recipe,
            device=CPU,
            state_file=Path(folder) / "state.safetensors",
            job="benchmark",
            on_epoch=lambda record: None,
        )
    return record


def bare_epoch(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], inputs: torch.Tensor, paths: torch.Tensor, batch: int
) -> float:
    """Seconds of forward and backward pass alone, on inputs in memory."""
    started = perf_counter()
    for part, right in zip(torch.split(inputs, batch), torch.split(paths, batch), strict=True):
        torch.autograd.backward(loss(part, right))
    return perf_counter() - started


def main() -> None:
    """Measure the loop with the decoder, with a classifier instead, and the network alone."""
    keep_freed_memory()
    taxonomy = taxonomy52()
    architecture = Architecture("small", 1, "native", *SMALL, 0.5)
    train = random_split(IMAGES, 1, 28, len(taxonomy))
    val = random_split(2, 1, 28, len(taxonomy))
    images, paths = torch.from_numpy(train.pixels), torch.from_numpy(train.paths)
    models: dict[str, Model] = {
        "decoder": Categorizer(architecture, taxonomy, alpha_c=1.0),
        "over children": Categorizer(replace(architecture, normalize="children"), taxonomy, alpha_c=1.0),
        "classifier": Classifier(architecture, taxonomy),
    }
    bare_model = Categorizer(architecture, taxonomy, alpha_c=1.0)
    bare_model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs miss it
    seconds: dict[str, list[float]] = {name: [] for name in (*models, "bare")}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in models}
    data_share: list[float] = []
    for run in range(RUNS + 1):
        for name, model in models.items():
            started = process_time()
            record = epoch(model, train, val, RECIPE)
            cpu_seconds[name].append(process_time() - started)
            seconds[name].append(record.seconds)
            data_share.append(record.data_share)
        seconds["bare"].append(bare_epoch(bare_model.loss, images, paths, BATCH))
        if not run:  # the first round warms up
            for measured in (*seconds.values(), *cpu_seconds.values(), data_share):
                measured.clear()
    wall, cpu = ({name: median(values) for name, values in each.items()} for each in (seconds, cpu_seconds))
    rows = [(f"{name}: {IMAGES / s:.0f} images/s", 1000 * s / IMAGES, "ms/image") for name, s in wall.items()]
    figures = {
        "images_per_s": IMAGES / wall["decoder"],
        "vs_bare_loop": wall["bare"] / wall["decoder"],
        "decoder_share": wall["decoder"] / wall["classifier"] - 1,
        "decoder_share_cpu": cpu["decoder"] / cpu["classifier"] - 1,
        "decoder_share_children": wall["over children"] / wall["classifier"] - 1,  # a step less: leaves need no END
        "decoder_share_children_cpu": cpu["over children"] / cpu["classifier"] - 1,
        "data_share": median(data_share),
    }
    report("training", [*rows, *((key, value, "") for key, value in figures.items())], figures)


if __name__ == "__main__":
    main()
