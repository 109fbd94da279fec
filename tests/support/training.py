"""A small training run on images with separable categories."""

from pathlib import Path

import numpy as np
import torch

from atlas_model.data.dataset import Split
from atlas_model.data.images import Preprocessing
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.taxonomy.tree import Taxonomy
from atlas_model.train.loop import Recipe, fit

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
    """Images whose category follows from overall brightness and from which half is brighter."""
    generator = np.random.default_rng(seed)
    paths = generator.integers(0, 4, count)
    pixels = generator.integers(0, 30, (count, channels, size, size))
    pixels[paths < 2] += 120
    for path, half in ((0, slice(0, size // 2)), (1, slice(size // 2, size)), (2, slice(0, size // 2))):
        pixels[paths == path, :, :, half] += 90
    names = [f"{name}-{row}" for row in range(count)]
    return Split(name, pixels.astype(np.uint8), paths, names, names, Preprocessing(size, "L", "squash"))


def train(folder: Path, recipe: Recipe = RECIPE, model=None, on_epoch=lambda record: None):
    """Train a small model; return it and the records of its epochs."""
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


class Killed(BaseException):
    """Simulates a kill between two epochs."""
