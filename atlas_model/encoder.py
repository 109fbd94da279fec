"""Encoders: pictures to a grid of feature cells that the decoder attends to.

Knows nothing of categories. A picture comes in as bytes [0, 255]; normalisation is part of the encoder, so that a
saved model needs to be told nothing about it.
"""

from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from atlas_model.checkpoint import UNREAD
from atlas_model.errors import InputError, RetryError

EncoderName = Literal["small", "medium", "resnet18", "resnet34", "resnet50", "resnet101"]
FineTune = Literal["all", "layer1", "layer2", "layer3", "layer4", "none"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """A convolutional trunk, its input normalisation, and the size of its grid.

    Args:
        trunk: (batch, in_channels, height, width) to (batch, channels, rows, columns).
        in_channels: 1 or 3, what the trunk takes; a one-channel picture is repeated for a trunk that takes three.
        channels: features per cell.
        mean: of each input channel, on the scale [0, 1].
        std: likewise.
        grid: cells per side after average pooling; "native" leaves the trunk's own grid. The paper pools 8 x 8 up
            to 14 x 14, which adds no information and triples the decoder's cost.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        *,
        in_channels: int,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        grid: int | Literal["native"],
    ) -> None:
        super().__init__()
        self.trunk, self.in_channels, self.channels = trunk, in_channels, channels
        self.pool = nn.Identity() if grid == "native" else nn.AdaptiveAvgPool2d(grid)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, pictures: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        """Feature cells, row by row from the top left."""
        x = pictures.to(self.mean.dtype) / 255  # (b, c, h, w), range [0, 1]
        x = (x.expand(-1, self.in_channels, -1, -1) - self.mean) / self.std  # (b, in_channels, h, w)
        x = self.trunk(x.contiguous(memory_format=torch.channels_last))  # (b, d, rows, columns)
        grid: Tensor = self.pool(x)  # (b, d, grid, grid)
        return grid.flatten(2).transpose(1, 2).contiguous()  # (b, cells, d)

    def freeze_before(self, block: FineTune) -> None:
        """Stop training everything that comes before ``block``; frozen batch norms keep their statistics."""
        if block == "all":
            return
        for name, module in self.trunk.named_children():
            if name == block:
                break
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "Encoder":
        """As `nn.Module.train`, but frozen blocks stay in evaluation mode."""
        super().train(mode)
        for module in self.trunk.children():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self


def build_encoder(
    name: EncoderName, *, in_channels: int, grid: int | Literal["native"], weights: str | None = None
) -> Encoder:
    """Make the encoder called ``name``.

    Args:
        name: ``small`` or ``medium`` (trained from scratch on pictures of 28-64 px), or a torchvision ResNet.
        in_channels: of the pictures, 1 or 3; the first two are built for it, a ResNet always takes 3.
        grid: cells per side, or "native".
        weights: "imagenet", the path of a safetensors file with a torchvision ResNet's state, or None.

    Raises:
        InputError: ``weights`` is no such file, or does not fit.
        RetryError: ImageNet weights could not be downloaded.
    """
    if name in OWN_TRUNKS:
        return Encoder(
            OWN_TRUNKS[name](in_channels),
            in_channels=in_channels,
            channels=128,
            mean=(0.5,) * in_channels,
            std=(0.25,) * in_channels,
            grid=grid,
        )
    assert name in get_args(EncoderName)
    trunk, channels = _resnet_trunk(name, weights)
    return Encoder(trunk, in_channels=3, channels=channels, mean=IMAGENET_MEAN, std=IMAGENET_STD, grid=grid)


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm around a shortcut (He et al. 2016, basic block)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Same shape out as in."""
        return nn.functional.relu(x + self.second(self.first(x)), inplace=True)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _small_trunk(in_channels: int) -> nn.Sequential:
    # Unshuffling first lets all convolutions run on a quarter of the pixels: 28 px -> 14 -> 7 cells per side.
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        _convolution(4 * in_channels, 32),
        Residual(32),
        _convolution(32, 64, stride=2),
        Residual(64),
        _convolution(64, 128),
    )


def _medium_trunk(in_channels: int) -> nn.Sequential:
    # Four times the work of the small one on as many cells. Wide layers keep a CPU's units busier: half its speed.
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        _convolution(4 * in_channels, 64),
        Residual(64),
        _convolution(64, 128, stride=2),
        Residual(128),
        Residual(128),
    )


OWN_TRUNKS = {"small": _small_trunk, "medium": _medium_trunk}  # each ends with 128 channels


def _resnet_trunk(name: str, weights: str | None) -> tuple[nn.Sequential, int]:
    from atlas_model.torchvision_compat import models  # slow to import, and `small` does without

    net = models.get_model(name, weights=None)
    if weights is not None:
        state = _imagenet_state(name) if weights == "imagenet" else _file_state(Path(weights))
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        try:
            missing, unexpected = net.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise InputError(f"train.weights: {weights} does not fit {name}: {error}") from error
        missing = [key for key in missing if not key.startswith("fc.")]
        if missing or unexpected:
            raise InputError(
                f"train.weights: {weights} does not fit {name}: expected the state of torchvision's {name}; "
                f"missing {len(missing)} tensors ({', '.join(missing[:3])}), "
                f"unknown {len(unexpected)} ({', '.join(unexpected[:3])})"
            )
    blocks = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    trunk = nn.Sequential()
    for block in blocks:
        trunk.add_module(block, getattr(net, block))
    return trunk, net.fc.in_features


def _imagenet_state(name: str) -> dict[str, Tensor]:
    from atlas_model.torchvision_compat import models

    weights = models.get_model_weights(name).DEFAULT
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, or whatever torch makes of a damaged file in its cache
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise RetryError(
            f"train.weights: imagenet: {weights.url} could not be downloaded or read ({error}). "
            f"Download it elsewhere and put it into {folder}, or name a safetensors file in train.weights."
        ) from error
    return state


def _file_state(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"train.weights: {path}: expected a safetensors file with the state of a torchvision ResNet, "
            f'or "imagenet"; got: {error}. {UNREAD}. Where you trust the file, write its state with '
            "safetensors.torch.save_file, and name what that writes."
        ) from error
