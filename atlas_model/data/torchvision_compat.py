"""Imports torchvision beside a torch build that its compiled operators do not match.

Beside a CPU-only torch, the standard torchvision wheel cannot load its shared library. Its import then fails, because
it refers to two operators of that library (``operator torchvision::nms does not exist``). Atlas uses torchvision's
models, weights and transforms, but none of those operators, so declaring their schemas is enough. If the normal import
works, nothing is changed.

Usage: ``from atlas_model.data.torchvision_compat import models, transforms``.
"""

import importlib
import sys
from types import ModuleType

import torch

__all__ = ["models", "transforms"]

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _import_models() -> ModuleType:
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # partly imported
        for schema in OPERATORS:
            torch.library.define(f"torchvision::{schema.partition('(')[0]}", "(" + schema.partition("(")[2])
        return importlib.import_module("torchvision.models")


models = _import_models()
transforms = importlib.import_module("torchvision.transforms.v2")
