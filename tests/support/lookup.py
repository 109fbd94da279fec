"""Models with given encoder outputs: images that encode a row number, and an encoder that looks up its cells."""

import torch
from torch import Tensor, nn

from atlas_model.model.architecture import Architecture
from atlas_model.model.beam_search import Normalize
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.slow_search import make_decoder


class Lookup(nn.Module):
    """A fake encoder: an image's first two pixels give the row of its cells."""

    def __init__(self, cells: Tensor) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, images: Tensor) -> Tensor:
        first, second = images[:, 0, 0, :2].long().unbind(1)
        return self.cells[256 * first + second]


def numbered(count: int) -> Tensor:
    """Images that encode the row numbers from 0 for `Lookup`."""
    numbers = torch.arange(count)
    return torch.stack([numbers // 256, numbers % 256], dim=1).byte()[:, None, None]


def categorizer(taxonomy: Taxonomy, normalize: Normalize, seed: int) -> Categorizer:
    """A categorizer of random weights with high confidences; cells have 6 features."""
    model = Categorizer(Architecture("small", 1, "native", 5, 4, 7, 0.5, normalize), taxonomy).eval()
    model.decoder = make_decoder(len(taxonomy.tokens), seed)
    return model


def classifier(taxonomy: Taxonomy) -> Classifier:
    """A classifier whose cells are its logits."""
    model = Classifier(Architecture("small", 1, "native", 5, 4, 7, 0.5), taxonomy).eval()
    model.output = nn.Identity()  # type: ignore[assignment]  # a stand-in
    return model
