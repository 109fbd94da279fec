"""The zoom filter: a small CNN that classifies images as zoomed (a close-up of the fabric) or normal.

Shops show both. A close-up of denim says little about the category, so the pipeline discards close-ups. `ZoomNet` is
the original project's network; `linear` has an alternative; `training` trains both. `ZoomModel` saves and loads a
trained filter.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from atlas_model.core.checkpoint import check_shapes, load_model, load_weights, save_model, to_half
from atlas_model.core.errors import CheckpointError
from atlas_model.data.images import Preprocessing, to_array
from atlas_model.data.schemas import LABELS
from atlas_model.zoom.linear import HALVED, ZoomLinear

Architecture = Literal["cnn", "linear"]
KIND = "zoom"
WIDTHS = (32, 32, 64)  # channels of the convolutions
DENSE = 64
MIN_SIZE = 16  # px


class ZoomNet(nn.Module):
    """Three blocks of 3x3 convolution, ReLU, 2x2 max-pooling; a dense layer with dropout; one logit.

    Unlike in the original, the convolutions are padded, so that small images keep a few cells.

    Args:
        size: px of the square RGB images; at least 16, 150 in the original.

    Shape:
        - input: ``(b, 3, size, size)``, range [0, 255]
        - output: ``(b,)`` logits of "zoomed"
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        assert size >= MIN_SIZE
        blocks: list[nn.Module] = []
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            blocks += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        cells = (size // 2 ** len(WIDTHS)) ** 2
        self.convolutions = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(WIDTHS[-1] * cells, DENSE), nn.ReLU(), nn.Dropout(0.5), nn.Linear(DENSE, 1)
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(self, images: UInt8[Tensor, "b 3 size size"]) -> Float[Tensor, "b"]:
        """Logits of "zoomed"."""
        x = images.float() / 127.5 - 1  # (b, 3, size, size), range [-1, 1]
        x = self.convolutions(x)  # (b, 64, size / 8, size / 8)
        logits: Tensor = self.head(x).squeeze(1)  # (b,)
        return logits


@dataclass(frozen=True)
class ZoomModel:
    """A trained network with its preprocessing and threshold."""

    net: ZoomNet | ZoomLinear
    preprocessing: Preprocessing
    threshold: float  # an image with at least this p_zoomed is zoomed
    metrics: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)  # about the training data: "description", ...

    @property
    def architecture(self) -> Architecture:
        """The type of network."""
        return "linear" if isinstance(self.net, ZoomLinear) else "cnn"

    @property
    def trained_on(self) -> str:
        """Description of the training data."""
        return str(self.data.get("description", "images that its model.json does not describe"))

    def pixels(self, image: Image.Image) -> UInt8[np.ndarray, "3 size size"]:
        """Convert a decoded image to the network's input."""
        return to_array(self.preprocessing.apply(image))

    @torch.inference_mode()
    def probabilities(self, pixels: UInt8[np.ndarray, "n 3 size size"]) -> Float[np.ndarray, "n"]:
        """p_zoomed of images that `pixels` converted; range [0, 1]."""
        self.net.eval()
        p_zoomed: np.ndarray = torch.sigmoid(self.net(torch.from_numpy(pixels).to(self.net.device))).cpu().numpy()
        return p_zoomed

    def save(self, folder: Path) -> None:
        """Write the model to ``folder``."""
        state = self.net.state_dict()
        description = {
            "kind": KIND,
            "architecture": self.architecture,
            "preprocessing": self.preprocessing.to_json(),
            "threshold": self.threshold,
            "metrics": self.metrics,
            "data": self.data,
        }
        save_model(folder, to_half(state, dimensions=HALVED) if self.architecture == "linear" else state, description)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the folder does not hold a zoom model.
        """
        tensors, description = load_model(folder, KIND)
        try:
            preprocessing = Preprocessing(**description["preprocessing"])
            threshold, metrics = float(description["threshold"]), dict(description["metrics"])
            data = dict(description.get("data", {}))
            if preprocessing.mode != "RGB" or preprocessing.size < MIN_SIZE:
                raise ValueError(f"preprocessing {preprocessing.to_json()}")
            architecture = description.get("architecture", "cnn")
            size = preprocessing.size
            check_shapes(lambda: _build(architecture, size), tensors, folder, largest=size)
            net = _build(architecture, preprocessing.size)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: its description lacks a value or has an invalid one: {str(error)[:500]}. Train it again."
            ) from error
        load_weights(net, tensors, folder)
        return cls(net.to(device), preprocessing, threshold, metrics, data)


def _build(architecture: str, size: int) -> ZoomNet | ZoomLinear:
    if architecture == "cnn":
        return ZoomNet(size)
    if architecture == "linear":
        return ZoomLinear()
    raise ValueError(f"architecture {architecture!r}")


def binary_scores(predicted: Int[np.ndarray, "n"], actual: Int[np.ndarray, "n"]) -> dict[str, Any]:
    """Precision, recall and F1 of both labels, and the number of images; None where the denominator is 0."""
    result: dict[str, Any] = {}
    for index, label in enumerate(LABELS):
        predicted_here, true = predicted == index, actual == index
        hits, n_predicted, n_true = int((predicted_here & true).sum()), int(predicted_here.sum()), int(true.sum())
        result[f"precision_{label}"] = hits / n_predicted if n_predicted else None
        result[f"recall_{label}"] = hits / n_true if n_true else None
        result[f"f1_{label}"] = 2 * hits / (n_predicted + n_true) if n_predicted + n_true else None
    return {**result, "n": len(actual)}
