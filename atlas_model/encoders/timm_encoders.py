"""Trunks from timm (PyTorch Image Models): convolutional networks and vision transformers.

A timm model is split into a sequence of named blocks, so that training can start at any of them. A model that cannot be
split becomes one block. The output is always a feature map.

timm is the extra ``atlas[timm]``. It downloads weights only if `weights` requests them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atlas_model.core.encoder_names import TIMM
from atlas_model.core.errors import InputError, RetryError
from atlas_model.core.extras import require

PROBE_SIZE = 64  # px of the image with which a sequence of blocks is compared with the network


@dataclass(frozen=True)
class TimmTrunk:
    """A trunk and the preprocessing of its pretrained weights."""

    trunk: nn.Sequential
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


def timm_trunk(name: str, *, pretrained: bool) -> TimmTrunk:
    """Build the network ``name`` of timm without its classifier.

    Args:
        name: as timm lists it, without `TIMM`.
        pretrained: whether to load its default weights, from the Hub or its cache.

    Raises:
        InputError: timm is not installed, has no such network, or the network's output is not a feature map.
        RetryError: the weights could not be downloaded.
    """
    require("timm", f"encoder {TIMM}{name}")
    from atlas_model.data import torchvision_compat  # noqa: F401 - timm imports torchvision

    import timm  # isort: skip

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0]}*")[:5]) or "see timm.list_models()"
        raise InputError(f"train.encoder: timm has no model {name!r}. Names like it: {near}")
    options: dict[str, Any] = {"dynamic_img_size": True} if "vit" in name.partition("_")[0] else {}
    try:
        net: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        raise InputError(f"train.encoder: timm's {name} cannot be built for images of any size: {error}") from error
    except Exception as error:  # the Hub's client raises the errors of its transport
        if not pretrained:
            raise
        raise RetryError(
            f"train.weights: default: the weights of timm's {name} could not be downloaded ({error}). Name a "
            "safetensors file in train.weights instead"
        ) from error
    config = net.pretrained_cfg
    return TimmTrunk(
        trunk=_chain(net.eval(), name),
        channels=net.num_features,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config.get("interpolation", "bicubic"),
    )


class _Tokens(nn.Module):
    """Images to a transformer's tokens: prefix tokens and patches, with positions."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"patch_embed": net.patch_embed, "norm_pre": net.norm_pre})
        for name in ("cls_token", "reg_token", "pos_embed"):
            if isinstance(getattr(net, name, None), nn.Parameter):
                self.register_parameter(name, getattr(net, name))
        self._positions = net._pos_embed
        self.out_size = net.patch_embed.grid_size

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b tokens d"]:
        tokens: Tensor = self.net["norm_pre"](self._positions(self.net["patch_embed"](images)))
        return tokens


class _Grid(nn.Module):
    """A transformer's tokens to a feature map, without the prefix tokens."""

    def __init__(self, norm: nn.Module, prefix_tokens: int) -> None:
        super().__init__()
        self.norm, self.prefix_tokens = norm, prefix_tokens

    def forward(self, tokens: Float[Tensor, "b tokens d"]) -> Float[Tensor, "b d side side"]:
        patches: Tensor = self.norm(tokens)[:, self.prefix_tokens :]
        side = int(patches.shape[1] ** 0.5)
        return patches.transpose(1, 2).reshape(len(patches), -1, side, side)


def _chain(net: Any, name: str) -> nn.Sequential:
    trunk = nn.Sequential()
    if hasattr(net, "patch_embed") and hasattr(net, "_pos_embed") and hasattr(net, "blocks"):
        trunk.add_module("embed", _Tokens(net))
        for index, block in enumerate(net.blocks):
            trunk.add_module(f"block{index + 1}", block)
        trunk.add_module("norm", _Grid(net.norm, net.num_prefix_tokens))
        return trunk
    for child, module in net.named_children():
        if child in {"global_pool", "classifier", "fc", "head", "head_drop"}:
            continue
        if child in {"blocks", "stages", "layers"} and isinstance(module, nn.Sequential):
            for index, block in enumerate(module):
                trunk.add_module(f"{child[:-1]}{index + 1}", block)
        else:
            trunk.add_module(child, module)
    if not _is_the_network(trunk, net):
        trunk = nn.Sequential()
        trunk.add_module("features", _Features(net))
    try:
        with torch.no_grad():
            shape = trunk.eval()(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE)).shape
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"train.encoder: timm's {name} does not take images of any size: {error}") from error
    if len(shape) != 4 or shape[1] != net.num_features:
        raise InputError(
            f"train.encoder: timm's {name}: expected a map of {net.num_features} channels, got the shape {tuple(shape)}"
        )
    return trunk


class _Features(nn.Module):
    """A network that is not a sequence of its children, as one block."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        features: Tensor = self.net.forward_features(images)
        if features.ndim == 4 and features.shape[1] != self.net.num_features:
            features = features.permute(0, 3, 1, 2)  # some networks have channels last
        return features


@torch.no_grad()
def _is_the_network(trunk: nn.Sequential, net: Any) -> bool:
    images = torch.linspace(-1, 1, 3 * PROBE_SIZE**2).view(1, 3, PROBE_SIZE, PROBE_SIZE)
    try:
        return bool(trunk(images).equal(net.forward_features(images)))
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AssertionError):  # a child has another input
        return False
