"""Post-training quantisation of ONNX graphs to 8 bits, with ONNX Runtime's tool."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import UInt8

from atlas_model.core.files import replacing

AT_ONCE = 8  # images per calibration batch, to bound memory


def quantize(graph: Path, file: Path, images: UInt8[np.ndarray, "n c h w"], *, name: str) -> None:
    """Write the ONNX ``graph`` with 8-bit weights (one scale per channel) and activations to ``file``.

    Args:
        graph: in single precision.
        file: to write.
        images: for calibration: the activations' minima and maxima become the ranges.
        name: of the graph's input.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._parts: Iterator[np.ndarray] = iter(np.split(images, range(AT_ONCE, len(images), AT_ONCE)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            part = next(self._parts, None)
            return None if part is None else {name: part}

    with replacing(file) as temporary, TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        quant_pre_process(graph, folded, skip_symbolic_shape=True)
        quantization.quantize_static(
            folded,
            temporary,
            Reader(),
            per_channel=True,
            reduce_range=True,  # 7 bits for weights: with 8, sums overflow on CPUs without VNNI
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
