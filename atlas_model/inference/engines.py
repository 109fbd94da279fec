"""Engines: what runs a trained encoder when nothing is left to learn, faster than the module that was trained.

`torch` folds each batch norm into the convolution before it and keeps the weights in the layout (channels last) of
the images; the normalisation of the input stays a step of its own, because it takes less than a hundredth of the
time and the zeros that pad the first convolution are those of normalised images. `onnxruntime` and `openvino` run
the same graph, exported once and kept as a file named by all that it is made of. `auto` is the fastest that is
installed, found by running each for a moment, and remembered for this machine, model and versions; an encoder of
fewer than `FEW_PARAMETERS` runs in torch unmeasured, because importing another engine takes longer than it saves.
What was kept and cannot be read is made anew.

These take images of bytes and give single-precision cells, equal to torch's within rounding. `onnxruntime-int8`
computes with 8 bits: several times as fast where the CPU has instructions for it, and not the same, so only who names
it gets it. It reads the ranges of its numbers from the first `CALIBRATION` images that come, once per encoder.

A GPU has one engine: torch, compiled, in bfloat16.

Knows nothing of decoders: what follows the encoder stays as it is.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from types import ModuleType
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from atlas_model.core.errors import InputError
from atlas_model.core.extras import EXTRAS, missing_packages, require
from atlas_model.core.files import write_json
from atlas_model.core.progress import say
from atlas_model.encoders import encoder as encoder_module
from atlas_model.encoders.encoder import Encoder, fold_batch_norms
from atlas_model.inference import export as export_module
from atlas_model.inference import quantization as quantization_module
from atlas_model.inference.export import IMAGES, export_encoder
from atlas_model.inference.quantization import quantize
from atlas_model.model.categorizer import Model

EngineName = Literal["auto", "torch", "onnxruntime", "onnxruntime-int8", "openvino"]

ImageShape = tuple[int, int, int]  # channels, height, width
Made = TypeVar("Made")

EXACT = ("onnxruntime", "openvino")  # what `auto` measures beside torch
EXTRA_OF = {"onnxruntime": "onnx", "onnxruntime-int8": "onnx", "openvino": "openvino"}  # what has to be installed
CALIBRATION = 64  # images, or half as many where a batch has no more
FEW_PARAMETERS = 2_000_000
MEASURED_BATCH = 4  # images at once in a measurement: engines rank as with many, in a fraction of the time
ROUNDS = 3  # runs of each engine that are measured, after one that warms it up; the best counts
MAX_MEASURE_S = 4.0  # after which no further round begins


@torch.no_grad()
def accelerate(model: Model, name: EngineName, *, pixels: ImageShape, cache: Path | None) -> str:
    """Replace ``model.encoder`` by what the engine ``name`` runs, for prediction only: it can no longer be trained.

    Args:
        model: in evaluation mode, on the device that it will run on.
        name: of the engine, or "auto".
        pixels: channels, height and width of the images; how many come at once is free.
        cache: folder for exported graphs and measurements; None forgets them, which 8 bits cannot do.

    Returns:
        The engine's name; the one chosen for "auto".

    Raises:
        InputError: the engine is not installed, or does not run on the model's device.
    """
    if name in EXTRA_OF:
        require(EXTRA_OF[name], f"engine {name}")
    with nullcontext(cache) if cache else TemporaryDirectory() as folder:
        assert cache or name != "onnxruntime-int8", "its graph is made later"
        trained = _TrainedEncoder(model.encoder, pixels, Path(folder))
        if name in EXTRA_OF and not trained.on_cpu:
            raise InputError(f"engine {name}: runs on the CPU, but the model is on a GPU: expected torch or auto")
        try:
            chosen = _fastest(trained) if name == "auto" else name
            runner = _runner(chosen, trained)
        except OSError as error:
            raise InputError(f"{folder}: expected a folder to keep exported graphs in; {error}") from error
    model.encoder = runner  # type: ignore[assignment]  # from now on it need only answer as an encoder does
    return chosen


class _OnGpu(nn.Module):
    """The folded encoder, compiled, in bfloat16."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.channels = encoder.channels
        self._run = torch.compile(fold_batch_norms(encoder))

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        with torch.autocast(images.device.type, torch.bfloat16):
            cells: Tensor = self._run(images)
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

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        (cells,) = self._session.run(None, {IMAGES: images.numpy()})
        return torch.from_numpy(cells)


class _EightBit(nn.Module):
    """The exported encoder in ONNX Runtime with 8-bit weights and activations, made when the first images come."""

    def __init__(self, trained: "_TrainedEncoder") -> None:
        super().__init__()
        self.channels = trained.encoder.channels
        self._trained = trained
        self._run: _OnnxRuntime | None = None

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        if self._run is None:
            self._run = _load_or_make(
                self._trained.int8_file,
                make=lambda file: self._quantize(file, images),
                read=lambda file: _OnnxRuntime(file, self.channels),
            )
        cells: Tensor = self._run(images)
        return cells

    def _quantize(self, target: Path, images: UInt8[Tensor, "b c h w"]) -> None:
        if len(images) < CALIBRATION // 2:
            raise InputError(
                f"engine onnxruntime-int8: expected at least {CALIBRATION // 2} images at once to read the "
                f"ranges of its numbers from, once; got {len(images)}. Give it more, or name the engine "
                "onnxruntime."
            )
        say("engines: rounds the encoder to 8 bits, once")
        self._trained.graph(lambda file: quantize(file, target, images[:CALIBRATION].numpy(), name=IMAGES))


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

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        return torch.from_numpy(self._compiled(images.numpy())[0])


@dataclass(frozen=True)
class _TrainedEncoder:
    """An encoder that is to be run, and where files made of it are kept."""

    encoder: Encoder
    pixels: ImageShape
    folder: Path

    @property
    def on_cpu(self) -> bool:
        return self.encoder.mean.device.type == "cpu"

    @cached_property
    def key(self) -> str:
        """Of all that its graph is made of: code, sizes, weights."""
        code = [_source(module) for module in (encoder_module, export_module)]
        digest = hashlib.sha256(repr((code, str(self.encoder), self.pixels, version("torch"))).encode())
        for name, tensor in (*self.encoder.named_parameters(), *self.encoder.named_buffers()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:32]

    @property
    def int8_file(self) -> Path:
        """Of its graph with 8 bits."""
        made_by = (_source(quantization_module), version("onnxruntime"), CALIBRATION)
        return self.folder / f"{_key(self.key, made_by)}.int8"

    def graph(self, read: Callable[[Path], Made]) -> Made:
        """What ``read`` makes of its file in ONNX, which is exported unless it is there."""
        return _load_or_make(self.folder / f"{self.key}.onnx", make=self._export, read=read)

    def _export(self, file: Path) -> None:
        say("engines: exports the encoder, once")
        export_encoder(self.encoder, file, pixels=self.pixels)


def _runner(engine: str, trained: _TrainedEncoder) -> nn.Module:
    channels = trained.encoder.channels
    if engine == "onnxruntime":
        return trained.graph(lambda file: _OnnxRuntime(file, channels))
    if engine == "openvino":
        return trained.graph(lambda file: _OpenVino(file, channels))
    if engine == "onnxruntime-int8":
        trained.graph(Path.stat)  # exported now, where a folder that cannot be written has its error
        return _EightBit(trained)
    return fold_batch_norms(trained.encoder) if trained.on_cpu else _OnGpu(trained.encoder)


def _fastest(trained: _TrainedEncoder) -> str:
    """The engine that takes the least time, as measured now or, with this machine and these versions, before."""
    installed = [engine for engine in EXACT if not missing_packages(EXTRA_OF[engine])]
    parameters = sum(parameter.numel() for parameter in trained.encoder.parameters())
    if not installed or parameters < FEW_PARAMETERS or not trained.on_cpu:
        return "torch"
    versions = [version(package) for engine in installed for package in EXTRAS[EXTRA_OF[engine]]]
    machine = (_cpu(), os.cpu_count(), torch.get_num_threads())
    engines = ("torch", *installed)

    def measure(file: Path) -> None:
        runners = {engine: _runner(engine, trained) for engine in engines}
        found = _milliseconds(runners, torch.zeros(MEASURED_BATCH, *trained.pixels, dtype=torch.uint8))
        say("engines: " + ", ".join(f"{engine} {each:.1f} ms" for engine, each in found.items()) + " an image")
        write_json(file, found)

    def fastest(file: Path) -> str:
        milliseconds = json.loads(file.read_text(encoding="utf-8"))
        return min(engines, key=lambda engine: float(milliseconds[engine]))

    file = trained.folder / f"{_key(trained.key, machine, installed, versions)}.json"
    return _load_or_make(file, make=measure, read=fastest)


def _milliseconds(runners: dict[str, nn.Module], images: UInt8[Tensor, "b c h w"]) -> dict[str, float]:
    """An image, in the best of a few runs; the engines take turns, so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {engine: [] for engine in runners}
    began = perf_counter()
    for round_ in range(1 + ROUNDS):
        if round_ > 1 and perf_counter() - began > MAX_MEASURE_S:
            break
        for engine, run in runners.items():
            started = perf_counter()
            run(images)
            seconds[engine].append(perf_counter() - started)
    return {engine: 1000 * min(found[1:]) / len(images) for engine, found in seconds.items()}


def _load_or_make(file: Path, *, make: Callable[[Path], None], read: Callable[[Path], Made]) -> Made:
    """What ``read`` makes of ``file``, which ``make`` writes where there is none or a damaged one."""
    if file.exists():
        try:
            return read(file)
        except OSError:
            raise
        except Exception:  # each library has its own for what it cannot read
            say(f"engines: {file}: damaged, so it is made anew")
    make(file)
    return read(file)


def _source(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.machine())
