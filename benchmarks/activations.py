"""Measures the cache of a frozen encoder's activations: ResNet-101 at 256 px, native grid, the paper's decoder.

Baselines: an epoch that encodes its images again; and forward and backward pass of the decoder alone on cells in
memory, without optimizer or clipping. Weights are random: the time does not depend on them.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from atlas_model.core.device import keep_freed_memory
from atlas_model.encoders.encoder import Encoder
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.train.feature_cache import load_activations
from benchmarks.report import report
from benchmarks.search import PAPER, taxonomy52
from benchmarks.training import CPU, RECIPE, bare_epoch, epoch, random_split

IMAGES, BATCH, RUNS = 128, 64, 7
FROZEN = replace(RECIPE, batch_size=BATCH, fine_tune_from="none", flip=False, shift=0)


def main() -> None:
    """Measure an epoch with the encoder once, and epochs with the cache in turns with the decoder alone."""
    keep_freed_memory()
    taxonomy = taxonomy52()
    model = Categorizer(Architecture("resnet101", 3, "native", *PAPER, 0.5), taxonomy, alpha_c=1.0)
    train, val = (random_split(images, 3, 256, len(taxonomy)) for images in (IMAGES, 2))
    _settle(model.encoder, torch.from_numpy(train.pixels[:8]))
    encoding_s = epoch(model, train, val, FROZEN).seconds
    model.encoder.freeze_before("none")
    with tempfile.TemporaryDirectory() as folder:
        features, few = (
            load_activations(model.encoder, replace(split, name=name), Path(folder), device=CPU)
            for name, split in (("train", train), ("val", val))
        )
        cells, paths = model.encoder.cells(features.read(np.arange(IMAGES), CPU)), torch.from_numpy(train.paths)

        def loss(cells: torch.Tensor, paths: torch.Tensor) -> torch.Tensor:
            return model.loss_of_cells(cells, paths, paths)

        turns = [(epoch(model, features, few, FROZEN), bare_epoch(loss, cells, paths, BATCH)) for _ in range(RUNS + 1)]
    del turns[0]  # which warms up
    cached_s, bare_s = median(record.seconds for record, _ in turns), median(bare for _, bare in turns)
    times = {"encoding again": encoding_s, "on cached activations": cached_s, "bare decoder": bare_s}
    figures = {
        "epoch_speedup": encoding_s / cached_s,
        "vs_bare_decoder": cached_s / bare_s,
        "data_share": median(record.data_share for record, _ in turns),
    }
    rows = [(what, 1000 * seconds / IMAGES, "ms/image") for what, seconds in times.items()]
    report("activations", [*rows, *((key, value, "") for key, value in figures.items())], figures)


@torch.no_grad()
def _settle(encoder: Encoder, images: torch.Tensor) -> None:
    """Set the statistics of the batch norms from these images: else activations of random layers overflow."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    encoder.train()(images)


if __name__ == "__main__":
    main()
