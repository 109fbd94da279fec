"""Trained models as ONNX graphs, for those who run them without torch, and for the engines that do.

Knows nothing of what runs the graphs.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from atlas_model.encoder import Encoder
from atlas_model.files import replacing

PICTURES, CELLS = "pictures", "cells"  # what goes into the encoder's graph, what comes out


def export_encoder(encoder: Encoder, file: Path, *, pixels: tuple[int, int, int]) -> None:
    """Write ``encoder`` as a graph from pictures of bytes, any number at once, to cells.

    Args:
        encoder: in evaluation mode, on the CPU.
        file: to write.
        pixels: channels, height and width of the pictures.
    """
    pictures = torch.zeros(2, *pixels, dtype=torch.uint8)
    _export(encoder, (pictures,), file, inputs=[PICTURES], outputs=[CELLS])


def _export(
    module: torch.nn.Module, examples: tuple[Tensor, ...], file: Path, *, inputs: list[str], outputs: list[str]
) -> None:
    with replacing(file) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own use of what it deprecates
        torch.onnx.export(
            module,
            examples,
            temporary,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=[{0: "b"} for _ in examples],
            external_data=False,
            verbose=False,
        )
