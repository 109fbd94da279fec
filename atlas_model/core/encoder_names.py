"""The names of the encoders. Importing them does not import torch."""

from typing import Literal

EncoderName = Literal[
    "small",
    "medium",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
]
OWN_ENCODERS = ("small", "medium")  # trained from scratch
TIMM = "timm/"  # prefix of any network of timm: timm/vit_small_patch16_224
