"""Small models that read titles."""

from dataclasses import replace
from typing import Any

import torch

from atlas_model.data.images import Preprocessing
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.evidence import LogitWeights, TitleWeights
from atlas_model.taxonomy.tree import Taxonomy

CPU = torch.device("cpu")
TAXONOMY = Taxonomy([("Bags",), ("Men",), ("Men", "Tops"), ("Men", "Shoes", "Low"), ("Women", "Shoes", "Low")])
ARCHITECTURE = Architecture(
    "small", 1, "native", 16, 8, 16, 0.0, "children", deep_output=True, title="ngrams", title_buckets=256, title_size=8
)
PREPROCESSING = Preprocessing(16, "L", "squash")
TITLES = ["Blue tee", "", "🎒 bag", "T-shirt \0 \ud800", "x" * 1_000_000, "حقيبة"]
WEIGHTS = TitleWeights(LogitWeights(0.5, 1.5, 2.0), LogitWeights(0.8, 0.6, 0.7))


def make(**changes: Any) -> tuple[Categorizer, torch.Tensor]:
    """An untrained model that reads titles, and six images."""
    torch.manual_seed(1)
    model = Categorizer(replace(ARCHITECTURE, **changes), TAXONOMY).eval()
    with torch.no_grad():
        model.title_head.output.weight.mul_(5)
        model.title_weights = WEIGHTS
    return model, torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)
