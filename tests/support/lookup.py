"""Models that are told what they see: images that are numbers, and an encoder that looks their cells up."""

import torch
from torch import Tensor, nn

from atlas_model.model.architecture import Architecture
from atlas_model.model.beam_search import Normalize
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.slow_search import make_decoder


class Lookup(nn.Module):
    """In the encoder's place: an image's first two pixels say which cells are meant."""

    def __init__(self, cells: Tensor) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, images: Tensor) -> Tensor:
        first, second = images[:, 0, 0, :2].long().unbind(1)
        return self.cells[256 * first + second]


def numbered(count: int) -> Tensor:
    """Images that `Lookup` numbers from 0."""
    numbers = torch.arange(count)
    return torch.stack([numbers // 256, numbers % 256], dim=1).byte()[:, None, None]


def categorizer(taxonomy: Taxonomy, normalize: Normalize, seed: int) -> Categorizer:
    """Of random weights, and quite sure of itself; cells have 6 features."""
    model = Categorizer(Architecture("small", 1, "native", 5, 4, 7, 0.5, normalize), taxonomy).eval()
    model.decoder = make_decoder(len(taxonomy.tokens), seed)
    return model


def classifier(taxonomy: Taxonomy) -> Classifier:
    """Whose cells are its logits."""
    model = Classifier(Architecture("small", 1, "native", 5, 4, 7, 0.5), taxonomy).eval()
    model.output = nn.Identity()  # type: ignore[assignment]  # a stand-in
    return model
