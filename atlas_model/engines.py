"""Engines: what runs a trained encoder when nothing is left to learn, faster than the module that was trained.

`torch` folds each batch norm into the convolution before it and keeps the weights in the layout (channels last) of
the pictures; the normalisation of the input stays a step of its own, because it takes less than a hundredth of the
time and the zeros that pad the first convolution are those of normalised pictures. `onnxruntime` and `openvino` run
the same graph, exported once and kept as a file named by all that it is made of. `auto` is the fastest that is
installed, found by running each for a moment, and remembered for this machine, model and versions; an encoder of
fewer than `FEW_PARAMETERS` runs in torch unmeasured, because importing another engine takes longer than it saves.

All of them take pictures of bytes and give single-precision cells, equal to torch's within rounding. A GPU has one
engine: torch, compiled, in bfloat16.

Knows nothing of decoders: what follows the encoder stays as it is.
"""

import hashlib
import importlib.util
import json
import os
import platform
from contextlib import nullcontext
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from atlas_model import encoder as encoder_module
from atlas_model.categorizer import Model
from atlas_model.encoder import Encoder
from atlas_model.errors import InputError
from atlas_model.export import PICTURES
from atlas_model.files import write_json
from atlas_model.progress import say

EngineName = Literal["auto", "torch", "onnxruntime", "openvino"]

Pixels = tuple[int, int, int]  # channels, height, width

PACKAGES = {  # engine -> what it imports, the package that gives it its name first
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
}
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
FEW_PARAMETERS = 2_000_000
ROUNDS = 3  # runs of each engine that are measured, after one that warms it up; the best counts


@torch.no_grad()
def accelerate(model: Model, name: EngineName, *, pixels: Pixels, cache: Path | None) -> str:
    """Replace ``model.encoder`` by what the engine ``name`` runs, for prediction only: it can no longer be trained.

    Args:
        model: in evaluation mode, on the device that it will run on.
        name: of the engine, or "auto".
        pixels: channels, height and width of the pictures; how many come at once is free.
        cache: folder for exported graphs and measurements; None forgets them.

    Returns:
        The engine's name; the one chosen for "auto".

    Raises:
        InputError: the engine is not installed, or does not run on the model's device.
    """
    encoder = model.encoder
    if not _is_on_cpu(encoder) and name not in ("auto", "torch"):
        raise InputError(f"engine {name}: runs on the CPU, but the model is on a GPU: expected torch or auto")
    if name != "auto" and not _is_installed(name):
        raise InputError(f"engine {name}: not installed: pip install atlas[{EXTRAS[name]}], or name the engine torch")
    with nullcontext(cache) if cache else TemporaryDirectory() as folder:
        chosen = _fastest(encoder, pixels, Path(folder)) if name == "auto" else name
        runner = _runner(chosen, encoder, pixels, Path(folder))
    model.encoder = runner  # type: ignore[assignment]  # from now on it need only answer as an encoder does
    return chosen


def folded(encoder: Encoder) -> Encoder:
    """A copy of ``encoder`` without batch norms, in channels-last layout: equal but for rounding.

    A batch norm belongs to the convolution that its module registers right before it, as in all our trunks.
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


class _OnGpu(nn.Module):
    """The folded encoder, compiled, in bfloat16."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.channels = encoder.channels
        self._run = torch.compile(folded(encoder))

    def forward(self, pictures: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        with torch.autocast("cuda", torch.bfloat16):
            cells: Tensor = self._run(pictures)
        return cells.float()


class _OnnxRuntime(nn.Module):
    """The exported encoder in ONNX Runtime."""

    def __init__(self, file: Path, channels: int) -> None:
        import onnxruntime

        super().__init__()
        self.channels = channels
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait for more work keep torch's from theirs, which is the decoder.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def forward(self, pictures: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        (cells,) = self._session.run(None, {PICTURES: pictures.numpy()})
        return torch.from_numpy(cells)


class _OpenVino(nn.Module):
    """The exported encoder in OpenVINO."""

    def __init__(self, file: Path, channels: int) -> None:
        import openvino

        super().__init__()
        self.channels = channels
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",  # all threads for the batch at hand
            "INFERENCE_PRECISION_HINT": "f32",  # left alone, it takes bfloat16 where the CPU has it
        }
        self._compiled = openvino.Core().compile_model(str(file), "CPU", settings)

    def forward(self, pictures: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        return torch.from_numpy(self._compiled(pictures.numpy())[0])


def _runner(engine: str, encoder: Encoder, pixels: Pixels, folder: Path) -> nn.Module:
    if engine == "torch":
        return folded(encoder) if _is_on_cpu(encoder) else _OnGpu(encoder)
    file = folder / f"{_content_key(encoder, pixels)}.onnx"
    if not file.exists():
        from atlas_model.export import export_encoder

        say(f"engine {engine}: exports the encoder")
        export_encoder(encoder, file, pixels=pixels)
    return (_OnnxRuntime if engine == "onnxruntime" else _OpenVino)(file, encoder.channels)


def _fastest(encoder: Encoder, pixels: Pixels, folder: Path) -> str:
    """The engine that runs one picture in the shortest time, as measured now or, with these versions, before."""
    installed = [engine for engine in PACKAGES if _is_installed(engine)]
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    if len(installed) == 1 or parameters < FEW_PARAMETERS or not _is_on_cpu(encoder):
        return "torch"
    versions = {package: version(package) for engine in installed for package in PACKAGES[engine]}
    machine = (_cpu(), os.cpu_count(), torch.get_num_threads())
    key = hashlib.sha256(repr((_content_key(encoder, pixels), machine, versions)).encode()).hexdigest()[:32]
    file = folder / f"{key}.json"
    if not file.exists():
        runners = {engine: _runner(engine, encoder, pixels, folder) for engine in installed}
        milliseconds = _milliseconds(runners, torch.randint(0, 256, (1, *pixels), dtype=torch.uint8))
        say("engines: " + ", ".join(f"{engine} {each:.1f} ms" for engine, each in milliseconds.items()) + " a picture")
        write_json(file, milliseconds)
    milliseconds = dict(json.loads(file.read_text(encoding="utf-8")))
    return min(milliseconds, key=milliseconds.__getitem__)


def _milliseconds(runners: dict[str, nn.Module], pictures: UInt8[Tensor, "b c h w"]) -> dict[str, float]:
    """Of the best of `ROUNDS` runs; the engines take turns, so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {engine: [] for engine in runners}
    for _ in range(1 + ROUNDS):
        for engine, run in runners.items():
            started = perf_counter()
            run(pictures)
            seconds[engine].append(perf_counter() - started)
    return {engine: 1000 * min(found[1:]) for engine, found in seconds.items()}


def _is_on_cpu(encoder: Encoder) -> bool:
    return encoder.mean.device.type == "cpu"


def _is_installed(engine: str) -> bool:
    return all(importlib.util.find_spec(package) for package in PACKAGES[engine])


def _content_key(encoder: Encoder, pixels: Pixels) -> str:
    """A short key of all that an exported graph is made of: code, sizes, weights."""
    code = Path(encoder_module.__file__).read_text(encoding="utf-8")
    digest = hashlib.sha256(repr((code, str(encoder), pixels, version("torch"))).encode())
    for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:32]


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.machine())
