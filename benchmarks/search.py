"""What constrained beam search adds to the encoder, and what searching in batches saves.

Baselines: the encoder alone on the same batch; the same search, one picture at a time (the original project's way).
Paths: 52 of three levels, as in the paper. Random weights: the search's work does not depend on them.
"""

import itertools

import torch

from atlas_model.categorizer import Architecture, Categorizer
from atlas_model.taxonomy import Taxonomy
from benchmarks.report import paired_medians, report

CASES = {  # name: encoder, px, batch, decoder sizes (attention, embedding, hidden)
    "small": ("small", 28, 128, (128, 64, 128)),
    "resnet101": ("resnet101", 256, 16, (512, 512, 512)),
}
BEAM, RUNS = 5, 5


def taxonomy52() -> Taxonomy:
    """52 paths: 2 x 4 x 6 and 4 more."""
    regular = list(itertools.product(["Men", "Women"], "ABCD", "uvwxyz"))
    return Taxonomy([*regular, *itertools.product(["Women"], ["E"], "uvwx")])


@torch.inference_mode()
def main() -> None:
    """Measure both encoders."""
    rows, figures = [], {}
    for name, (encoder, size, batch, (attention, embedding, hidden)) in CASES.items():
        architecture = Architecture(encoder, 3, "native", attention, embedding, hidden, 0.5)
        model = Categorizer(architecture, taxonomy52()).eval()
        pictures = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)

        def one_by_one(model: Categorizer = model, pictures: torch.Tensor = pictures) -> None:
            for picture in pictures.split(1):
                model.search(picture, beam=BEAM)

        seconds = paired_medians(
            RUNS,
            encoder=lambda model=model, pictures=pictures: model.encoder(pictures),
            search=lambda model=model, pictures=pictures: model.search(pictures, beam=BEAM),
            one_by_one=one_by_one,
        )
        rows += [(f"{name}, batch {batch}: {what}", 1000 * s / batch, "ms/picture") for what, s in seconds.items()]
        figures[f"beam5_over_encoder_{name}"] = seconds["search"] / seconds["encoder"]
        figures[f"one_by_one_over_batched_{name}"] = seconds["one_by_one"] / seconds["search"]
    rows += [(key, value, "x") for key, value in figures.items()]
    report("search", rows, figures)


if __name__ == "__main__":
    main()
