"""Predict the category of every image in a folder, as CSV on stdout.

    python examples/predict_folder.py data/files/images models/fashion_mnist

The second argument is a model folder; without it, the bundled model for photographs is used.
"""

import csv
import sys
from pathlib import Path

from atlas_model.api import AtlasError, Predictor


def main(folder: Path, model: Path = Path("models/pretrained")) -> None:
    """Write a line per image: file, category path, probability."""
    predictor = Predictor.load(model)
    lines = csv.writer(sys.stdout)
    lines.writerow(["file", "category", "probability"])
    for file in sorted(folder.iterdir()):
        try:
            image = predictor.read(file.read_bytes())
        except AtlasError as error:  # not an image, truncated, too large, ...
            sys.stderr.write(f"{file}: {error}\n")
            continue
        ((best, *_),) = predictor.predict([image])
        lines.writerow([file.name, " > ".join(best.path), f"{best.probability:.3f}"])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
