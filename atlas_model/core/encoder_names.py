"""The names of the encoders, for those that build them and for those that only check a name."""

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
TIMM = "timm/"  # and any network of timm: timm/vit_small_patch16_224
