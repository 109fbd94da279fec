"""The classifier, the baseline for the sequence model.

It has the interface of the `categorizer` that training uses: the loss on a batch, the best path of an image, the head.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from atlas_model.encoders.encoder import build_encoder
from atlas_model.model.architecture import Architecture
from atlas_model.taxonomy.tree import Taxonomy


class Classifier(nn.Module):
    """The baseline: the same encoder, its cells averaged, one linear layer over all paths.

    Args:
        architecture: sizes.
        taxonomy: the paths that it can predict.
        weights: of the encoder, see `build_encoder`.
        label_smoothing: as in `Categorizer`, over all paths.
        priors: as in `Categorizer`.
    """

    kind = "classifier"
    temperature: float  # as in `Categorizer`
    log_priors: Tensor | None

    def __init__(
        self,
        architecture: Architecture,
        taxonomy: Taxonomy,
        *,
        weights: str | None = None,
        label_smoothing: float = 0.0,
        priors: Float[np.ndarray, "paths"] | None = None,
    ) -> None:
        super().__init__()
        self.architecture, self.taxonomy, self.label_smoothing = architecture, taxonomy, label_smoothing
        self.temperature = 1.0
        self.encoder = build_encoder(
            architecture.encoder, in_channels=architecture.in_channels, grid=architecture.grid, weights=weights
        )
        self.dropout = nn.Dropout(architecture.dropout)
        self.output = nn.Linear(self.encoder.channels, len(taxonomy))
        log_priors = None if priors is None else torch.from_numpy(np.log(priors)).float()
        self.register_buffer("log_priors", log_priors, persistent=False)

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b paths"]:
        """Logits of the paths."""
        return self.logits_of_cells(self.encoder(images))

    def logits_of_cells(self, cells: Float[Tensor, "b cells d"]) -> Float[Tensor, "b paths"]:
        """Logits of the paths."""
        logits: Tensor = self.output(self.dropout(cells.mean(dim=1)))
        return logits

    def loss(self, images: UInt8[Tensor, "b c h w"], paths: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """See `loss_of_cells`."""
        return self.loss_of_cells(self.encoder(images), paths, paths)

    def loss_of_cells(
        self, cells: Float[Tensor, "b cells d"], paths: Int[Tensor, "b"], of: Int[Tensor, "m"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy (mean over images); arguments as in `Categorizer`."""
        logits = self.logits_of_cells(cells).float()
        if self.log_priors is not None:
            logits = logits + self.log_priors
        loss = nn.functional.cross_entropy(logits, paths, reduction="sum", label_smoothing=self.label_smoothing)
        return loss / len(of)

    @torch.no_grad()
    def best_path(self, images: UInt8[Tensor, "b c h w"]) -> Int[Tensor, "b"]:
        """Index of the most probable path."""
        return self.best_path_of_cells(self.encoder(images))

    @torch.no_grad()
    def best_path_of_cells(self, cells: Float[Tensor, "b cells d"]) -> Int[Tensor, "b"]:
        """Index of the most probable path."""
        return self.logits_of_cells(cells).argmax(dim=1)

    def head(self) -> nn.Module:
        """The trained modules other than the encoder."""
        return self.output
