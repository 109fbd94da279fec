"""Count the most frequent confusions of the last model on the test split, with pandas.

python examples/errors_with_pandas.py [reports/evaluate/predictions.parquet]
"""

import sys
from pathlib import Path

import pandas as pd


def main(file: Path = Path("reports/evaluate/predictions.parquet")) -> None:
    """Write the accuracy per split, and the ten most frequent pairs of true and predicted category."""
    predictions = pd.read_parquet(file)
    predictions["correct"] = predictions["actual_category"] == predictions["predicted_category"]
    sys.stdout.write(f"{predictions.groupby('split_value')['correct'].agg(['mean', 'size'])}\n\n")
    wrong = predictions[(predictions["split_value"] == "test") & ~predictions["correct"]]
    pairs = wrong.groupby(["actual_category", "predicted_category"]).size().nlargest(10)
    sys.stdout.write(f"{pairs.to_string() if len(pairs) else 'no errors on the test split'}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
