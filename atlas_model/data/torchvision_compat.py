"""Lets torchvision be imported beside a torch build that its compiled operators were not made for.

The ordinary torchvision wheel beside a CPU-only torch cannot load its shared library, and then fails on import
when it describes two operators that the library would have declared (``operator torchvision::nms does not
exist``). Atlas uses torchvision's model definitions and weights, none of those operators: declaring their
schemas is enough. Where the plain import works this changes nothing.

Take torchvision from here: ``from atlas_model.data.torchvision_compat import models, transforms``.
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
            del sys.modules[name]  # half-imported
        for schema in OPERATORS:
            torch.library.define(f"torchvision::{schema.partition('(')[0]}", "(" + schema.partition("(")[2])
        return importlib.import_module("torchvision.models")


models = _import_models()
transforms = importlib.import_module("torchvision.transforms.v2")
