"""A DVC project with validation images, and constant models whose ranking is known."""

import shutil
from pathlib import Path

import torch
from PIL import Image

from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import save
from atlas_model.split.files import SplitWriter
from atlas_model.taxonomy.tree import Taxonomy
from flows import paths
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT

TAXONOMY = Taxonomy([("Bags",), ("Jeans",), ("Shirts",)])
SHARE = {"Shirts": 40, "Jeans": 20, "Bags": 10}  # validation images
STORED = Preprocessing(16, "L", "squash")


def make_project(folder: Path, git_env: dict[str, str]) -> None:
    """Make ``folder`` a git and DVC project with validation images and without a model."""
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvcignore", ".gitignore", "params.yaml"):
        shutil.copy2(ROOT / name, folder / name)
    write_validation(folder, TAXONOMY)
    commit_all(folder, git_env)


def write_validation(folder: Path, taxonomy: Taxonomy, images: int = 1) -> None:
    """Write the taxonomy and the validation images: `SHARE` of each category, ``images`` per product."""
    (folder / paths.SPLITS).mkdir(parents=True, exist_ok=True)
    taxonomy.save(folder / paths.TAXONOMY)
    labels = [label for label, count in SHARE.items() for _ in range(count)]
    with SplitWriter(folder / paths.SPLITS, "val", len(labels), STORED) as writer:
        for number, label in enumerate(labels):
            image_id = f"{number:03d}"
            png = encode_png(Image.new("L", (16, 16), number))
            row = {"image": {"bytes": png, "path": f"{image_id}.png"}, "image_id": image_id}
            row["product_id"] = f"{number // images:03d}"
            writer.append(row | {"title": "", "taxonomy": [label], "label": label, "split": "val"})


def train(answer: str, *, sure: float = 5.0, taxonomy: Taxonomy = TAXONOMY, prepared: Preprocessing = STORED) -> None:
    """Write a model that always predicts ``answer`` to the output folder of the stage `train`.

    Args:
        answer: the predicted category.
        sure: the logit of ``answer``, which distinguishes models of equal accuracy.
        taxonomy: the taxonomy of the model.
        prepared: the preprocessing of the model.
    """
    model = Categorizer(Architecture("small", 1, "native", 4, 4, 4, 0.0), taxonomy)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder.output.bias[taxonomy.tokens.index(answer)] = sure
    save(model, paths.CATEGORIZER, prepared, params={}, metrics={})
