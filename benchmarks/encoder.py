"""Measures the encoder in each engine: ResNet-101 at 256 px, for batches of 1, 8 and 32 images.

Baselines: the module as it was trained (`plain`), and all installed engines; the 8-bit engine is compared separately.
Weights are random: the time of a convolution does not depend on them.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from atlas_model.core.extras import missing_packages
from atlas_model.inference.engines import CALIBRATION, EXTRA_OF, EngineName, accelerate
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from benchmarks.report import paired_medians, report
from benchmarks.search import taxonomy52

PIXELS = (3, 256, 256)
EIGHT_BITS = "onnxruntime-int8"
RUNS = {1: 10, 8: 4, 32: 2}  # by images at once: some two minutes in all


@torch.inference_mode()
def main() -> None:
    """Measure every engine, and compare the one that `auto` chooses with the fastest."""
    torch.manual_seed(1)
    model = Categorizer(Architecture("resnet101", 3, "native", 512, 512, 512, 0.5), taxonomy52()).eval()
    plain = model.encoder
    installed: list[EngineName] = [
        "torch",
        *(engine for engine, extra in EXTRA_OF.items() if not missing_packages(extra)),
    ]

    def encoder(engine: EngineName) -> nn.Module:
        model.encoder = plain
        accelerate(model, engine, pixels=PIXELS, cache=Path(cache))
        return model.encoder

    with TemporaryDirectory() as cache:
        encoders: dict[str, nn.Module] = {"plain": plain, **{engine: encoder(engine) for engine in installed}}
        if EIGHT_BITS in encoders:
            encoders[EIGHT_BITS](_images(CALIBRATION))  # which make its ranges
        model.encoder = plain
        chosen = accelerate(model, "auto", pixels=PIXELS, cache=Path(cache))
    figures: dict[str, float] = {}
    for batch, runs in RUNS.items():
        images = _images(batch)
        calls = {name: lambda run=run, seen=images: run(seen) for name, run in encoders.items()}
        milliseconds = {name: 1000 * s / batch for name, s in paired_medians(runs, **calls).items()}
        figures |= {f"{name}_ms_b{batch}": each for name, each in milliseconds.items()}
        eight_bits = milliseconds.pop(EIGHT_BITS, None)
        figures[f"engine_vs_fastest_b{batch}"] = min(milliseconds.values()) / milliseconds[chosen]
        figures[f"chosen_speedup_b{batch}"] = milliseconds["plain"] / milliseconds[chosen]
        if eight_bits is not None:
            figures[f"int8_speedup_b{batch}"] = milliseconds["plain"] / eight_bits
    for name in ("engine_vs_fastest", "int8_speedup"):  # the worst batch
        if f"{name}_b1" in figures:
            figures[name] = min(figures[f"{name}_b{batch}"] for batch in RUNS)
    rows = [(key, value, "ms/image" if "_ms_" in key else "x") for key, value in figures.items()]
    print(f"auto takes {chosen}; {torch.get_num_threads()} threads")
    report("encoder", rows, figures)


def _images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, *PIXELS), dtype=torch.uint8)


if __name__ == "__main__":
    main()
