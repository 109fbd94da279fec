"""Writes the front matter of the cards of the models in models/, with the figures of benchmarks/results.

`python -m tools.bundled_cards` renews the lines between dashes at the beginning of each card; the text below them is
kept. A test compares the cards with the results.
"""

import json
import sys
from pathlib import Path
from typing import Any

from atlas_model.core.files import write_text
from flows.report.facts.figures import MODES
from flows.report.front_matter import Result, Tested, model_front_matter, results, rounded

ROOT = Path(__file__).resolve().parent.parent
CARD = "README.md"
SEED = "3"  # of the bundled model of the benchmark photographs
PHOTOGRAPHS = "Fashion Product Images (Kaggle, Param Aggarwal)"
LINE = "---\n"


def expected_front_matter(model: str) -> str:
    """The front matter of the card of models/``model``, from the files of its results."""
    if model == "pretrained":
        seed = _read("benchmarks/results/photographs.json")["seeds"][SEED]
        return model_front_matter(
            name="Atlas: clothing and accessories on photographs",
            license="mit",
            tags=["hierarchical-classification", "multimodal", "fashion"],
            tested=[
                Tested(
                    f"product category path from {name}",
                    PHOTOGRAPHS,
                    "fashion-product-images",
                    "test",
                    results(seed[key]),
                )
                for key, name in MODES.items()
                if key in seed
            ],
        )
    if model == "fashion_mnist":
        found = _read("benchmarks/results/fashion-mnist.json")
        return model_front_matter(
            name="Atlas: Fashion-MNIST",
            license="mit",
            tags=["hierarchical-classification", "fashion"],
            tested=[Tested("category path from image", "Fashion-MNIST", "fashion_mnist", "test", results(found))],
            more={"datasets": ["zalando-datasets/fashion_mnist"]},
        )
    found = _read("models/zoom_photographs/model.json")["metrics"]["cross_validated"]
    shares = (
        ("recall", "Recall of close-ups, five-fold cross-validation", found["recall_zoomed"]),
        ("false_positive_rate", "Photographs classified as close-ups", found["discarded_share_of_photographs"]),
    )
    return model_front_matter(
        name="Atlas: close-up filter for photographs",
        license="mit",
        tags=["fashion"],
        tested=[
            Tested(
                "close-up or normal",
                f"{PHOTOGRAPHS}, and close-ups cut from them",
                "fashion-product-images",
                "cross-validation",
                tuple(Result(kind, name, rounded(value)) for kind, name, value in shares),
            )
        ],
    )


def split_card(text: str) -> tuple[str, str]:
    """The front matter of a card with its lines of dashes, which may be empty, and the text below it."""
    if not text.startswith(LINE):
        return "", text
    end = text.index(f"\n{LINE}", len(LINE)) + 1 + len(LINE)
    return text[:end], text[end:]


def models() -> list[str]:
    """The models that have a card."""
    return sorted(path.parent.name for path in (ROOT / "models").glob(f"*/{CARD}"))


def _read(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return found


def main() -> int:
    """Renew all cards; returns 0."""
    for model in models():
        path = ROOT / "models" / model / CARD
        head, text = expected_front_matter(model), path.read_text(encoding="utf-8")
        write_text(path, f"{head}\n{split_card(text)[1].lstrip()}")
        print(f"{path.relative_to(ROOT)}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
