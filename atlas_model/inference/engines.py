"""Inference engines for a trained encoder, which are faster than the module that was trained.

- `torch` folds batch norms into the convolutions and uses the channels-last layout. The input normalisation is not
  folded: it takes less than 1 % of the time, and the first convolution must pad normalised images with zeros.
- `onnxruntime` and `openvino` run a graph that is exported once and cached under a digest of all that it depends on.
- `auto` measures the installed engines briefly, chooses the fastest, and caches the result for this machine, model and
  versions. An encoder with fewer than `FEW_PARAMETERS` runs in torch without measurement, because importing another
  engine takes longer than it saves.
- `onnxruntime-int8` computes with 8 bits: several times as fast if the CPU has instructions for it, but its outputs
  differ, so `auto` never chooses it. The ranges of its activations are calibrated once per encoder, on the first
  `CALIBRATION` images.

All but the last give the same single-precision cells as torch, up to rounding. A damaged cache file is made anew. On a
GPU the only engine is torch, compiled, in bfloat16. The decoder is not changed.
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

from atlas_model.core.checksums import state_of, write_checksum
from atlas_model.core.errors import InputError
from atlas_model.core.extras import EXTRAS, missing_packages, require
from atlas_model.core.files import write_json
from atlas_model.core.machine import check_machine
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

EXACT: tuple[EngineName, ...] = ("onnxruntime", "openvino")  # engines that `auto` compares with torch
# The extra to install.
EXTRA_OF: dict[EngineName, str] = {"onnxruntime": "onnx", "onnxruntime-int8": "onnx", "openvino": "openvino"}
CALIBRATION = 64  # images, or half as many for smaller batches
FEW_PARAMETERS = 2_000_000
MEASURED_BATCH = 4  # images per batch in a measurement: the ranking is that of larger batches, in less time
ROUNDS = 3  # runs of each engine, after a warm-up; the best counts
MAX_MEASURE_S = 4.0  # no further round starts after this


@torch.no_grad()
def accelerate(model: Model, name: EngineName, *, pixels: ImageShape, cache: Path | None) -> str:
    """Replace ``model.encoder`` by one that runs in the engine ``name``, for prediction only.

    Args:
        model: in evaluation mode, on its final device.
        name: of the engine, or "auto".
        pixels: channels, height and width of the images; the batch size may vary.
        cache: folder for exported graphs and measurements; None: a temporary one, not for ``onnxruntime-int8``.

    Returns:
        The name of the engine, for "auto" the chosen one.

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
    model.encoder = runner  # type: ignore[assignment]  # has only `forward` and `channels`
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
        # Spinning threads would slow down torch's, which run the decoder.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        (cells,) = self._session.run(None, {IMAGES: images.numpy()})
        return torch.from_numpy(cells)


class _EightBit(nn.Module):
    """The exported encoder in ONNX Runtime with 8-bit weights and activations, quantised on the first batch."""

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
                f"engine onnxruntime-int8: expected at least {CALIBRATION // 2} images in the first batch, for "
                f"calibration; got {len(images)}. Use more images, or the engine onnxruntime."
            )
        say("engines: quantising the encoder to 8 bits, once")
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
            "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 if the CPU has it
        }
        self._compiled = openvino.Core().compile_model(str(file), "CPU", settings)

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b cells d"]:
        return torch.from_numpy(self._compiled(images.numpy())[0])


@dataclass(frozen=True)
class _TrainedEncoder:
    """A trained encoder, and the folder for files made from it."""

    encoder: Encoder
    pixels: ImageShape
    folder: Path

    @property
    def on_cpu(self) -> bool:
        return self.encoder.mean.device.type == "cpu"

    @cached_property
    def key(self) -> str:
        """Digest of all that its graph depends on: code, sizes, weights."""
        code = [_source(module) for module in (encoder_module, export_module)]
        digest = hashlib.sha256(repr((code, str(self.encoder), self.pixels, version("torch"))).encode())
        for name, tensor in (*self.encoder.named_parameters(), *self.encoder.named_buffers()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:32]

    @property
    def int8_file(self) -> Path:
        """Path of its 8-bit graph."""
        made_by = (_source(quantization_module), version("onnxruntime"), CALIBRATION)
        return self.folder / f"{_key(self.key, made_by)}.int8"

    def graph(self, read: Callable[[Path], Made]) -> Made:
        """Call ``read`` with its ONNX file, which is exported if it is missing."""
        return _load_or_make(self.folder / f"{self.key}.onnx", make=self._export, read=read)

    def _export(self, file: Path) -> None:
        say("engines: exporting the encoder, once")
        export_encoder(self.encoder, file, pixels=self.pixels)


def _runner(engine: str, trained: _TrainedEncoder) -> nn.Module:
    channels = trained.encoder.channels
    if engine == "onnxruntime":
        return trained.graph(lambda file: _OnnxRuntime(file, channels))
    if engine == "openvino":
        return trained.graph(lambda file: _OpenVino(file, channels))
    if engine == "onnxruntime-int8":
        trained.graph(Path.stat)  # export now, so that an error of the folder is raised here
        return _EightBit(trained)
    return fold_batch_norms(trained.encoder) if trained.on_cpu else _OnGpu(trained.encoder)


def _fastest(trained: _TrainedEncoder) -> str:
    """The fastest engine, as measured now, or earlier with this machine and these versions."""
    installed = [engine for engine in EXACT if not missing_packages(EXTRA_OF[engine])]
    parameters = sum(parameter.numel() for parameter in trained.encoder.parameters())
    if not installed or parameters < FEW_PARAMETERS or not trained.on_cpu:
        return "torch"
    versions = [version(package) for engine in installed for package in EXTRAS[EXTRA_OF[engine]]]
    machine = (_cpu(), os.cpu_count(), torch.get_num_threads())
    engines = ("torch", *installed)

    def measure(file: Path) -> None:
        runners: dict[str, nn.Module] = {engine: _runner(engine, trained) for engine in engines}
        found = _milliseconds(runners, torch.zeros(MEASURED_BATCH, *trained.pixels, dtype=torch.uint8))
        say("engines: " + ", ".join(f"{engine} {each:.1f} ms" for engine, each in found.items()) + " an image")
        write_json(file, found)

    def fastest(file: Path) -> str:
        milliseconds = json.loads(file.read_text(encoding="utf-8"))
        return min(engines, key=lambda engine: float(milliseconds[engine]))

    file = trained.folder / f"{_key(trained.key, machine, installed, versions)}.json"
    return _load_or_make(file, make=measure, read=fastest)


def _milliseconds(runners: dict[str, nn.Module], images: UInt8[Tensor, "b c h w"]) -> dict[str, float]:
    """Time per image in the best of a few runs; engines alternate, so that a busy moment affects all of them."""
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
    """Return ``read(file)``; ``make`` writes the file if it is missing or damaged, or has no checksum."""
    if file.exists():
        try:
            if state_of(file) == "sound":
                return read(file)
        except OSError:
            raise
        except Exception as error:  # each library has its own error for a file that it cannot read
            check_machine(error)
            say(f"engines: {file}: not readable ({type(error).__name__})")
        say(f"engines: {file}: damaged or of an earlier version, so it is made anew")
    make(file)
    write_checksum(file)
    return read(file)


def _source(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _cpu() -> str:
    """Name of the processor; psutil does not know it, nor does `platform` on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.machine())
