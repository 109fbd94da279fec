"""Measures what constrained beam search adds to the encoder, and what searching in batches saves.

Baselines: the encoder alone on the same batch; the same search with one image at a time, as in the original project.
Paths: 52 with three levels, as in the paper. Weights are random: the time does not depend on them.
"""

import io
import itertools

import numpy as np
import torch
from PIL import Image

from atlas_model.data.images import Preprocessing, decode
from atlas_model.inference.predictor import Predictor
from atlas_model.model.architecture import Architecture
from atlas_model.model.beam_search import DeviceTrie, beam_search
from atlas_model.model.categorizer import Categorizer
from atlas_model.taxonomy.tree import Taxonomy
from benchmarks.report import paired_medians, report

PAPER, SMALL = (512, 512, 512), (128, 64, 128)  # attention, embedding, hidden
BEAM, RUNS = 5, 5


def taxonomy52() -> Taxonomy:
    """52 paths: 2 x 4 x 6 and 4 more."""
    regular = list(itertools.product(["Men", "Women"], "ABCD", "uvwxyz"))
    return Taxonomy([*regular, *itertools.product(["Women"], ["E"], "uvwx")])


@torch.inference_mode()
def main() -> None:
    """Measure both encoders, in batches and one image at a time, and the search on cells in memory."""
    rows: list[tuple[str, float, str]] = []
    figures: dict[str, float] = {}
    small = Categorizer(Architecture("small", 3, "native", *SMALL, 0.5), taxonomy52()).eval()
    resnet = Categorizer(Architecture("resnet101", 3, "native", *PAPER, 0.5), taxonomy52()).eval()
    _over_encoder("small", small, size=28, batch=128, rows=rows, figures=figures)
    _over_encoder("resnet101", resnet, size=256, batch=16, rows=rows, figures=figures)
    _one_by_one(small, size=28, batch=128, figures=figures)
    _predict(resnet, figures=figures)
    for name, grid in (("native", 8), ("grid14", 14)):
        figures[f"search_ms_{name}"] = _search_ms(resnet, grid, batch=16)
    rows += [(key, value, "ms/image" if "_ms_" in key else "x") for key, value in figures.items()]
    report("search", rows, figures)


def _images(batch: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)


def _over_encoder(
    name: str,
    model: Categorizer,
    *,
    size: int,
    batch: int,
    rows: list[tuple[str, float, str]],
    figures: dict[str, float],
) -> None:
    images = _images(batch, size)
    seconds = paired_medians(
        RUNS, encoder=lambda: model.encoder(images), search=lambda: model.search(images, beam=BEAM)
    )
    rows += [(f"{name}, batch {batch}: {what}", 1000 * s / batch, "ms/image") for what, s in seconds.items()]
    figures[f"beam5_over_encoder_{name}"] = seconds["search"] / seconds["encoder"]


def _one_by_one(model: Categorizer, *, size: int, batch: int, figures: dict[str, float]) -> None:
    images = _images(batch, size)

    def one_by_one() -> None:
        for image in torch.split(images, 1):
            model.search(image, beam=BEAM)

    seconds = paired_medians(
        RUNS,
        together=lambda: model.search(images, beam=BEAM),
        one_by_one=one_by_one,
        encoder_of_one=lambda: model.encoder(images[:1]),
    )
    figures["one_by_one_over_batched_small"] = seconds["one_by_one"] / seconds["together"]
    figures["beam5_over_encoder_small_b1"] = seconds["one_by_one"] / batch / seconds["encoder_of_one"]


def _predict(model: Categorizer, *, figures: dict[str, float]) -> None:
    """Time from the bytes of a JPEG to a path, one image at a time, relative to the encoder alone."""
    photo = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(photo).resize((900, 1200)).save(buffer, "JPEG")
    predictor = Predictor(model, Preprocessing(256, "RGB", "squash"), torch.device("cpu"))
    image = _images(1, 256)
    seconds = paired_medians(
        2 * RUNS,
        encoder=lambda: model.encoder(image),
        predict=lambda: predictor.predict([decode(buffer.getvalue())], beam=BEAM),
    )
    figures["predict_over_encoder_b1"] = seconds["predict"] / seconds["encoder"]


def _search_ms(model: Categorizer, grid: int, *, batch: int) -> float:
    """Milliseconds per image, without the encoder."""
    cells = torch.randn(batch, grid * grid, model.encoder.channels)
    trie = DeviceTrie.of(model.taxonomy.trie, cells.device)
    seconds = paired_medians(
        2 * RUNS,
        search=lambda: beam_search(model.decoder, cells, trie, beam=BEAM, top=1, normalize="vocabulary"),
    )
    return 1000 * seconds["search"] / batch


if __name__ == "__main__":
    main()
