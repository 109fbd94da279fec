"""Exports trained models as graphs that run without torch and Atlas: ONNX, or OpenVINO's format.

A model becomes three graphs and a description. `encoder`: images to cells. `decoder_start`: cells to the initial state.
`decoder_step`: state and last tokens to the next state, logits and attention. The numbers of images and of hypotheses
per image may vary. The search, a loop over steps, must be implemented by the application. The description has what it
needs: tokens, paths, the normalisation of probabilities, the preprocessing of images.
"""

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from atlas_model.core.extras import require
from atlas_model.core.files import replacing, replacing_folder, write_json
from atlas_model.data.images import Preprocessing
from atlas_model.encoders.encoder import Encoder
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.decoder import AttentionDecoder, DecoderMemory, DecoderState
from atlas_model.taxonomy.tree import END, PAD, START

Format = Literal["onnx", "openvino"]

FORMAT = 1  # of the description; increment it for incompatible changes
DESCRIPTION = "export.json"
IMAGES, CELLS = "images", "cells"  # input and output of the encoder's graph


def export(model: Categorizer, preprocessing: Preprocessing, folder: Path, *, form: Format) -> None:
    """Write ``model`` as graphs with their description.

    Args:
        model: in evaluation mode, on the CPU.
        preprocessing: of its images.
        folder: replaced if it exists.
        form: "onnx", or "openvino" (an .xml and a .bin file per graph).

    Raises:
        InputError: the packages for ``form`` are not installed.
    """
    require(form, f"export to {form}")
    size = preprocessing.size
    images = torch.zeros(2, model.architecture.in_channels, size, size, dtype=torch.uint8)
    graphs = {}
    with replacing_folder(folder) as temporary:
        for name, module, inputs, outputs in _parts(model, images):
            file = temporary / f"{name}.onnx"
            _write_graph(module, file, inputs=inputs, outputs=outputs)
            if form == "openvino":
                file = _to_openvino(file)
            graphs[name] = {"file": file.name, "inputs": list(inputs), "outputs": outputs}
        write_json(temporary / DESCRIPTION, {"format": FORMAT, "graphs": graphs, **_description(model, preprocessing)})


def export_encoder(encoder: Encoder, file: Path, *, pixels: tuple[int, int, int]) -> None:
    """Write ``encoder`` as an ONNX graph from images of bytes to cells, with a variable batch size.

    Args:
        encoder: in evaluation mode, on the CPU.
        file: to write.
        pixels: channels, height and width of the images.
    """
    _write_graph(encoder, file, inputs={IMAGES: torch.zeros(2, *pixels, dtype=torch.uint8)}, outputs=[CELLS])


class _Start(nn.Module):
    def __init__(self, decoder: AttentionDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, cells: Float[Tensor, "b cells d"]
    ) -> tuple[Float[Tensor, "b cells a"], Float[Tensor, "b 1 h"], Float[Tensor, "b 1 h"]]:
        memory, state = self.decoder.start(cells)
        return memory.projected, state.hidden, state.cell


class _Step(nn.Module):
    def __init__(self, decoder: AttentionDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        cells: Float[Tensor, "b cells d"],
        projected: Float[Tensor, "b cells a"],
        hidden: Float[Tensor, "b k h"],
        cell: Float[Tensor, "b k h"],
        tokens: Int[Tensor, "b k"],
    ) -> tuple[Float[Tensor, "b k h"], Float[Tensor, "b k h"], Float[Tensor, "b k v"], Float[Tensor, "b k cells"]]:
        state, attention = self.decoder.step(DecoderMemory(cells, projected), DecoderState(hidden, cell), tokens)
        return (
            state.hidden,
            state.cell,
            self.decoder.logits(self.decoder.readout(cells, state.hidden, attention)),
            attention,
        )


def _parts(model: Categorizer, images: Tensor) -> list[tuple[str, nn.Module, dict[str, Tensor], list[str]]]:
    """Name of each graph, its module, example inputs by name, names of its outputs."""
    start, hypotheses = _Start(model.decoder), 3
    with torch.no_grad():
        cells = model.encoder(images)
        projected, hidden, cell = start(cells)
    state = {"hidden": hidden.repeat(1, hypotheses, 1), "cell": cell.repeat(1, hypotheses, 1)}
    tokens = torch.full((len(images), hypotheses), START)
    step_inputs = {CELLS: cells, "projected": projected, **state, "tokens": tokens}
    parts: list[tuple[str, nn.Module, dict[str, Tensor], list[str]]] = [
        ("encoder", model.encoder, {IMAGES: images}, [CELLS]),
        ("decoder_start", start, {CELLS: cells}, ["projected", *state]),
        ("decoder_step", _Step(model.decoder), step_inputs, ["next_hidden", "next_cell", "logits", "attention"]),
    ]
    if model.path_head is not None:  # added to the logits of the description's edges
        parts.append(("path_head", model.path_head, {CELLS: cells}, ["edge_logits"]))
    return parts


def _description(model: Categorizer, preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "preprocessing": preprocessing.to_json(),
        "tokens": list(model.taxonomy.tokens),
        "pad": PAD,
        "start": START,
        "end": END,
        "taxonomy": model.taxonomy.to_json(),
        "normalize": model.architecture.normalize,
        "temperature": model.temperature,
        "edges": _edges(model) if model.path_head is not None else None,
    }


def _edges(model: Categorizer) -> dict[str, list[int]]:
    """Parent node and token of each edge of the trie, in the order of the path head's output.

    Edge e leads to node e + 1; node 0 is the root.
    """
    trie = model.taxonomy.trie
    parents = np.repeat(np.arange(len(trie.path)), np.diff(trie.first))
    return {"parent": parents.tolist(), "token": trie.token.tolist()}


def _write_graph(module: nn.Module, file: Path, *, inputs: dict[str, Tensor], outputs: list[str]) -> None:
    free = {"hidden": "k", "cell": "k", "tokens": "k"}  # second axes of variable length; all first axes are
    shapes = [{0: "b", 1: free[name]} if name in free else {0: "b"} for name in inputs]
    with (
        replacing(file) as temporary,
        warnings.catch_warnings(),
        torch.enable_grad(),
    ):  # under no_grad the graph would have loops over images
        warnings.simplefilter("ignore")  # warnings of torch's exporter about torch
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            temporary,
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )


def _to_openvino(file: Path) -> Path:
    import openvino

    target = file.with_suffix(".xml")
    openvino.save_model(openvino.Core().read_model(file), target, compress_to_fp16=False)
    file.unlink()
    return target
